"""Markdown tables of text cells."""

from collections.abc import Sequence

import tabulate


def markdown_table(
  headings: Sequence[str], rows: Sequence[Sequence[str]]
) -> str:
  """Returns a Markdown table; columns after the first are right-aligned."""
  lines = tabulate.tabulate(
    [[cell.replace("|", "\\|") for cell in row] for row in rows],
    headings,
    tablefmt="pipe",
    disable_numparse=True,
    colglobalalign="right",
    colalign=("left",),
  )
  return f"{lines}\n"
