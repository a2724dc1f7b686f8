"""Markdown tables of text cells."""

import re
from collections.abc import Sequence

import tabulate


def markdown_table(
  headings: Sequence[str], rows: Sequence[Sequence[str]]
) -> str:
  """Returns a Markdown table; columns after the first are right-aligned."""

  def plain(cell: str) -> str:
    # A "<" before a letter would start an HTML element.
    return re.sub(r"\||<(?=[a-zA-Z/!?])", r"\\\g<0>", " ".join(cell.split()))

  lines = tabulate.tabulate(
    [[plain(cell) for cell in row] for row in rows],
    [plain(heading) for heading in headings],
    tablefmt="pipe",
    disable_numparse=True,
    colglobalalign="right",
    colalign=("left",),
  )
  return f"{lines}\n"
