"""What the probe leaves: rows in `probe.jsonl`, a table, TensorBoard events."""

import importlib.util
import json
import os
import pathlib
from collections.abc import Iterable, Mapping
from typing import Any, Literal

from jssl.runtime import files

Row = Mapping[str, Any]
# What is measured together, and put in the place of what was there.
Part = Literal["spectrum", "probe", "diagnostics"]

_PARTS: dict[str, Part] = {
  "spectrum": "spectrum",
  "diagnostics": "diagnostics",
  "concentration": "diagnostics",
}
_BASELINES = {"pixels": "raw pixels", "random": "random backbone"}


def _about(row: Row) -> tuple[str, int, str]:
  return row["features"], row["step"], row["dataset"]


def _part(row: Row) -> Part:
  return _PARTS.get(row.get("measure", ""), "probe")


class Log:
  """`probe.jsonl`: rows are added once all of their subject are there."""

  def __init__(self, workdir: str | os.PathLike):
    """Names the file, which need not be there."""
    self._path = pathlib.Path(workdir) / "probe.jsonl"

  def rows(self) -> list[Row]:
    """Reads all rows."""
    if not self._path.exists():
      return []
    return [json.loads(line) for line in self._path.read_text().splitlines()]

  def done(
    self, part: Part = "probe", settings: Row | None = None
  ) -> set[tuple[str, int, str]]:
    """Returns what there are rows of: (features, step, dataset).

    Args:
      part: of the rows.
      settings: rows that say something else don't count; what an older version
        wrote doesn't say.
    """
    wanted = (settings or {}).items()
    return {
      _about(row)
      for row in self.rows()
      if _part(row) == part
      and all(row.get(name, value) == value for name, value in wanted)
    }

  def put(self, part: Part, rows: list[Row]) -> None:
    """Adds a part's rows of one subject, instead of any that it had."""
    about = _about(rows[0])
    others = [
      row for row in self.rows() if _about(row) != about or _part(row) != part
    ]
    files.write_text(
      self._path, "".join(json.dumps(row) + "\n" for row in others + rows)
    )


def _what(row: Row) -> str:
  share = row["label_fraction"]
  return row["probe"] + ("" if share == 1 else f" {share:.0%}")


def _source(row: Row) -> str:
  return _BASELINES.get(row["features"]) or f"step {row['step']}"


def summary(rows: Iterable[Row]) -> str:
  """Returns what the rows of one subject say, in a line."""
  said = [
    f"{_what(row)} {100 * row['test_accuracy']:.1f}%"
    for row in rows
    if "probe" in row
  ]
  for row in rows:
    if row.get("measure") == "diagnostics":
      measured, missing = len(row["values"]), len(row["not_measured"])
      said.append(
        f"{measured} diagnostics of {row['at']}"
        + (f" ({missing} could not be measured)" if missing else "")
      )
    elif row.get("measure") == "concentration":
      said.append("concentration of the classes")
    elif "not_measured" in row:
      said.append(f"no {row['measure']}: {row['not_measured']}")
    elif row.get("measure") == "spectrum":
      said.append(f"collapse AUC {row['collapse_auc']:.3f}")
  return ", ".join(said)


def table(rows: Iterable[Row], dataset: str) -> str:
  """Returns test accuracies in percent, with the deviation over the seeds.

  Args:
    rows: of `probe.jsonl`.
    dataset: rows of others are left out.
  """
  order = [*_BASELINES, "backbone"]
  shown = [row for row in rows if "probe" in row and row["dataset"] == dataset]
  shown.sort(key=lambda row: (order.index(row["features"]), row["step"]))
  columns = list(dict.fromkeys(map(_what, shown)))
  cells: dict[str, dict[str, str]] = {}
  for row in shown:
    mean, std = 100 * row["test_accuracy"], 100 * row["test_accuracy_std"]
    cells.setdefault(_source(row), {})[_what(row)] = f"{mean:.1f} ± {std:.1f}"
  lines = [
    [f"{dataset}: test accuracy, %", *columns],
    *(
      [name, *(values.get(column, "") for column in columns)]
      for name, values in cells.items()
    ),
  ]
  widths = [max(map(len, column)) for column in zip(*lines, strict=True)]
  return "\n".join(
    name.ljust(widths[0])
    + "".join(f"  {c:>{w}}" for c, w in zip(values, widths[1:], strict=True))
    for name, *values in lines
  )


def write_events(workdir: str | os.PathLike, rows: Iterable[Row]) -> None:
  """Writes accuracies and diagnostics as scalars, with TensorBoard there."""
  if not all(map(importlib.util.find_spec, ("tensorboard", "tensorflow"))):
    return
  # TensorFlow, which takes seconds to import.
  from clu import metric_writers

  writer = metric_writers.create_default_writer(
    os.path.join(workdir, "probe"), just_logging=False, asynchronous=False
  )
  for row in rows:
    if "probe" in row:
      name = f"probe/{row['dataset']}/{row['features']}/{_what(row)}"
      writer.write_scalars(row["step"], {name: row["test_accuracy"]})
    elif row.get("measure") == "diagnostics":
      name = f"diagnostics/{row['dataset']}/{row['features']}/{row['at']}"
      writer.write_scalars(
        row["step"],
        {f"{name}/{k}": float(v) for k, v in row["values"].items()},
      )
  writer.close()
