"""Tables of test accuracy, from the records of a probe."""

from collections.abc import Iterable
from typing import NamedTuple, TypeVar

import tabulate

from jssl.probe.records import (
  BASELINES,
  PROBES,
  DenseRecord,
  ProbeRecord,
  Record,
)

_R = TypeVar("_R", bound=Record)


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


def _shown(
  records: Iterable[Record], cls: type[_R], dataset: str, step: int | None
) -> list[_R]:
  """Returns records: baselines, published weights, then checkpoints."""
  order = [*BASELINES, "published", "student", "backbone"]
  ranks = {name: rank for rank, name in enumerate(order)}
  return sorted(
    (
      record
      for record in records
      if isinstance(record, cls) and record.dataset == dataset
      if not record.is_checkpoint or step in (None, record.step)
    ),
    key=lambda record: (
      ranks.get(record.features, ranks["published"]),
      record.step,
    ),
  )


def _row_name(record: Record) -> str:
  step = f", step {record.step:,}" if record.is_checkpoint else ""
  return record.title + step


def _table(
  heading: str, columns: Iterable[str], cells: dict[str, dict[str, str]]
) -> AccuracyTable:
  """Tabulates cells by row and column; "-" where there is none."""
  return AccuracyTable(
    [heading, *columns],
    [
      [name, *(row.get(column, "-") for column in columns)]
      for name, row in cells.items()
    ],
  )


def accuracy_table(
  records: Iterable[Record], dataset: str, *, step: int | None = None
) -> AccuracyTable:
  """Tabulates test accuracy by features; of one checkpoint, or of all.

  Rows of features that are not pooled name their `vectors`.
  """
  shown = _shown(records, ProbeRecord, dataset, step)

  def position(record: ProbeRecord) -> tuple[bool, float, int]:
    few = record.label_fraction < 1
    return few, record.label_fraction_used, [*PROBES].index(record.probe)

  columns = dict.fromkeys(record.name for record in sorted(shown, key=position))
  cells: dict[str, dict[str, str]] = {}
  for record in shown:
    name = _row_name(record)
    if record.vectors != "pooled":
      name = f"{name}, {record.vectors}"
    cells.setdefault(name, {})[record.name] = format_accuracy(
      record.test_accuracy, record.test_accuracy_std
    )
  return _table(f"{dataset}: test accuracy in %", columns, cells)


def segmentation_table(
  records: Iterable[Record], dataset: str, *, step: int | None = None
) -> AccuracyTable:
  """Tabulates segmentation by features, as `accuracy_table` does accuracy."""
  cells: dict[str, dict[str, str]] = {}
  columns: dict[str, None] = {}
  for record in _shown(records, DenseRecord, dataset, step):
    of_probe = {
      f"mean IoU, {PROBES[record.probe]}": format_accuracy(
        record.mean_iou, record.mean_iou_std
      ),
      f"pixel accuracy, {PROBES[record.probe]}": format_accuracy(
        record.pixel_accuracy, record.pixel_accuracy_std
      ),
    }
    columns |= dict.fromkeys(of_probe)
    cells.setdefault(_row_name(record), {}).update(of_probe)
  return _table(f"{dataset}: segmentation of patches in %", columns, cells)


def tables(
  records: Iterable[Record], dataset: str, *, step: int | None = None
) -> list[AccuracyTable]:
  """Returns the tables of a data set that have rows."""
  records = list(records)
  both = (
    make(records, dataset, step=step)
    for make in (accuracy_table, segmentation_table)
  )
  return [table for table in both if table.rows]
