"""Tables of test accuracy, from the records of a probe."""

from collections.abc import Iterable
from typing import NamedTuple

import tabulate

from jssl.probe.records import BASELINES, PROBES, ProbeRecord, Record


class AccuracyTable(NamedTuple):
  """Headings, and rows of features with "mean ± std" in percent by probe."""

  headings: list[str]
  rows: list[list[str]]

  def __str__(self) -> str:
    """Returns the table as plain text."""
    return tabulate.tabulate(
      self.rows,
      self.headings,
      disable_numparse=True,
      colalign=("left", *["right"] * (len(self.headings) - 1)),
    )


def format_accuracy(mean: float, std: float) -> str:
  """Returns mean and standard deviation in percent: "81.2 ± 1.0"."""
  return f"{100 * mean:.1f} ± {100 * std:.1f}"


def accuracy_table(
  records: Iterable[Record], dataset: str, *, step: int | None = None
) -> AccuracyTable:
  """Tabulates test accuracy by features; of one checkpoint, or of all.

  Rows of features that are not pooled name their `vectors`.
  """
  order = [*BASELINES, "student", "backbone"]
  shown = sorted(
    (
      record
      for record in records
      if isinstance(record, ProbeRecord) and record.dataset == dataset
      if record.features in BASELINES or step in (None, record.step)
    ),
    key=lambda record: (order.index(record.features), record.step),
  )

  def position(record: ProbeRecord) -> tuple[bool, float, int]:
    few = record.label_fraction < 1
    return few, record.label_fraction_used, [*PROBES].index(record.probe)

  columns = dict.fromkeys(record.name for record in sorted(shown, key=position))
  cells: dict[str, dict[str, str]] = {}
  for record in shown:
    name = record.title
    if record.features not in BASELINES:
      name = f"{name}, step {record.step:,}"
    if record.vectors != "pooled":
      name = f"{name}, {record.vectors}"
    cells.setdefault(name, {})[record.name] = format_accuracy(
      record.test_accuracy, record.test_accuracy_std
    )
  return AccuracyTable(
    [f"{dataset}: test accuracy in %", *columns],
    [
      [name, *(row.get(column, "-") for column in columns)]
      for name, row in cells.items()
    ],
  )
