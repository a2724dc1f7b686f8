"""`probe.jsonl`: one record per line."""

import contextlib
import dataclasses
import json
import os
from collections.abc import Iterable, Sequence
from typing import Any, Literal, get_args, get_origin, get_type_hints

from absl import logging

from jssl.probe.records import (
  ClassesRecord,
  ConcentrationRecord,
  DenseRecord,
  DiagnosticsRecord,
  NotMeasuredRecord,
  Part,
  ProbeRecord,
  Record,
  RetrievalRecord,
  RobustnessRecord,
  SpectrumRecord,
)
from jssl.runtime import files
from jssl.runtime.paths import as_path
from jssl.runtime.trackers import Trackers

_NAME = "probe.jsonl"

_TYPES: dict[str, type[Record]] = {
  "probe": ProbeRecord,
  "classes": ClassesRecord,
  "retrieval": RetrievalRecord,
  "robustness": RobustnessRecord,
  "dense": DenseRecord,
  "spectrum": SpectrumRecord,
  "diagnostics": DiagnosticsRecord,
  "concentration": ConcentrationRecord,
  "not_measured": NotMeasuredRecord,
}
_TYPE_NAMES = {cls: name for name, cls in _TYPES.items()}


def to_json(record: Record) -> str:
  """Returns the line of a record in `probe.jsonl`."""
  name = _TYPE_NAMES[type(record)]
  return json.dumps({"record": name, **dataclasses.asdict(record)})


def _from_row(row: dict[str, Any]) -> Record | None:
  """Returns the record of a row; None unless all fields have their type."""
  fields = dict(row)
  cls = _TYPES.get(str(fields.pop("record", None)))
  if cls is None:
    return None
  if fields.get("features") == "backbone":
    # Earlier versions wrote no such field and measured the student.
    fields.setdefault("backbone", "student")
  hints = get_type_hints(cls)
  if not all(_matches(value, hints.get(k)) for k, value in fields.items()):
    return None
  with contextlib.suppress(TypeError):  # A field without default is missing.
    return cls(**fields)
  return None


def _matches(value: Any, hint: Any) -> bool:
  """True if a JSON value has the type of a field."""
  origin, arguments = get_origin(hint), get_args(hint)
  if hint is Any:
    return True
  if origin is Literal:
    return value in arguments
  if origin is list:
    return isinstance(value, list) and all(
      _matches(entry, arguments[0]) for entry in value
    )
  if origin is dict:
    return isinstance(value, dict) and all(
      _matches(entry, arguments[1]) for entry in value.values()
    )
  return isinstance(value, int | float if hint is float else hint or ())


class RecordFile:
  """`probe.jsonl` in a workdir. Writes are atomic."""

  def __init__(self, workdir: str | os.PathLike):
    """Names the file, which need not exist."""
    self._path = as_path(workdir) / _NAME

  def read(self) -> list[Record]:
    """Reads all records, if any.

    Damaged lines, and records of another version, are skipped with a warning.
    """
    rows = files.read_json_lines(self._path)
    records = [record for row in rows if (record := _from_row(row))]
    if len(records) < len(rows):
      logging.warning(
        "Skipped %d records of %s that are not of this version of jssl.",
        len(rows) - len(records),
        self._path,
      )
    return records

  def done(self, part: Part, **settings: Any) -> set[tuple[str, int, str]]:
    """Returns (features, step, dataset) of all features that have records.

    Records with another value of a field in `settings` do not count.
    """
    return {
      _key(record)
      for record in self.read()
      if record.part == part and settings.items() <= _settings(record).items()
    }

  def replace(self, records: Sequence[Record]) -> None:
    """Writes all records of one part in place of earlier ones."""
    first = records[0]
    kept = [
      record
      for record in self.read()
      if _key(record) != _key(first) or record.part != first.part
    ]
    text = "".join(f"{to_json(record)}\n" for record in (*kept, *records))
    files.write_text(self._path, text)


def _key(record: Record) -> tuple[str, int, str]:
  return record.features, record.step, record.dataset


def _settings(record: Record) -> dict[str, Any]:
  """Returns the fields of a record, and the settings of a missing one."""
  return vars(record) | getattr(record, "settings", {})


def write_events(workdir: str | os.PathLike, records: Iterable[Record]) -> None:
  """Writes TensorBoard scalars to `workdir/probe`, if tensorboardX exists."""
  tracker = Trackers(os.path.join(workdir, "probe"), {})
  for record in records:
    if scalars := record.scalars:
      tracker.scalars(record.step, scalars)
  tracker.close()
