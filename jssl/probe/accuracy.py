"""Tables of test accuracy, from the records of a probe."""

from collections.abc import Iterable
from typing import NamedTuple, TypeVar

import tabulate

from jssl.probe.records import (
  BASELINES,
  PROBES,
  ClassesRecord,
  DenseRecord,
  ProbeRecord,
  Record,
  RetrievalRecord,
  RobustnessRecord,
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
  """Returns the name of the features, and their `vectors` if not pooled."""
  step = f", step {record.step:,}" if record.is_checkpoint else ""
  vectors = getattr(record, "vectors", "pooled")
  return record.title + step + (f", {vectors}" if vectors != "pooled" else "")


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
  """Tabulates test accuracy by features; of one checkpoint, or of all."""
  shown = _shown(records, ProbeRecord, dataset, step)

  def position(record: ProbeRecord) -> tuple[bool, float, int]:
    few = record.label_fraction < 1
    return few, record.label_fraction_used, [*PROBES].index(record.probe)

  columns = dict.fromkeys(record.name for record in sorted(shown, key=position))
  cells: dict[str, dict[str, str]] = {}
  for record in shown:
    cells.setdefault(_row_name(record), {})[record.name] = format_accuracy(
      record.test_accuracy, record.test_accuracy_std
    )
  return _table(f"{dataset}: test accuracy in %", columns, cells)


def _percent(value: float) -> str:
  return f"{100 * value:.1f}"


def classes_table(
  records: Iterable[Record], dataset: str, *, step: int | None = None
) -> AccuracyTable:
  """Tabulates the linear probe and retrieval by class, by features."""
  records, cells = list(records), dict[str, dict[str, str]]()
  for record in _shown(records, ClassesRecord, dataset, step):
    seen = zip(record.accuracy, record.images, strict=True)
    cells[_row_name(record)] = {
      "class-balanced": format_accuracy(
        record.balanced_accuracy, record.balanced_accuracy_std
      ),
      "worst class": _percent(min(share for share, images in seen if images)),
      "calibration error": format_accuracy(
        record.calibration_error, record.calibration_error_std
      ),
    }
  for found in _shown(records, RetrievalRecord, dataset, step):
    cells.setdefault(_row_name(found), {}).update(
      {
        found.name: _percent(found.mean_average_precision),
        f"{found.name}, class-balanced": _percent(
          found.balanced_average_precision
        ),
      }
    )
  columns = dict.fromkeys(name for row in cells.values() for name in row)
  return _table(f"{dataset}: linear probe and retrieval in %", columns, cells)


def transfer_table(
  records: Iterable[Record], datasets: Iterable[str], features: str
) -> AccuracyTable:
  """Tabulates the last features of a kind on several data sets, a row each."""
  records = list(records)
  cells: dict[str, dict[str, str]] = {}
  columns: dict[str, None] = {}
  for dataset in datasets:
    found = [
      record
      for record in records
      if (record.dataset, record.features) == (dataset, features)
    ]
    last = max((record.step for record in found), default=0)
    row = cells[dataset] = {}
    for record in found:
      match record:
        case ProbeRecord(step=step, label_fraction=1) if step == last:
          row[record.name] = format_accuracy(
            record.test_accuracy, record.test_accuracy_std
          )
        case RetrievalRecord(step=step) if step == last:
          row[record.name] = _percent(record.mean_average_precision)
    columns |= dict.fromkeys(row)
  return _table("data set: test accuracy in %", columns, cells)


def robustness_table(
  records: Iterable[Record], dataset: str, *, step: int | None = None
) -> AccuracyTable:
  """Tabulates accuracy on corrupted images by corruption, over severities."""
  cells: dict[str, dict[str, str]] = {}
  columns: dict[str, None] = {}
  for record in _shown(records, RobustnessRecord, dataset, step):
    shares = {
      "clean": record.clean_accuracy,
      "corrupted": record.corrupted_accuracy,
    } | {
      # Narrow columns: a word per line.
      name.replace("_", "\n"): sum(values) / len(values)
      for name, values in record.accuracy.items()
    }
    cells[_row_name(record)] = {k: _percent(v) for k, v in shares.items()}
    columns |= dict.fromkeys(shares)
  heading = f"{dataset}: linear probe on corrupted images in %"
  return _table(heading, columns, cells)


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
  made = (
    make(records, dataset, step=step)
    for make in (
      accuracy_table,
      classes_table,
      robustness_table,
      segmentation_table,
    )
  )
  return [table for table in made if table.rows]
