"""Writes the metrics of a run: stdout, metrics.jsonl and TensorBoard events."""

import importlib.util
import json
import os
import pathlib
import time
from collections.abc import Callable, Mapping
from typing import Any

from absl import logging

from jssl.runtime import distributed, files


def _format_duration(seconds: float) -> str:
  minutes, seconds = divmod(round(seconds), 60)
  hours, minutes = divmod(minutes, 60)
  return f"{hours}:{minutes:02d}:{seconds:02d}"


def _read_rows(path: pathlib.Path, last_step: int) -> list[str]:
  """Returns the lines of complete rows up to `last_step`."""
  rows = []
  for line in path.read_text().splitlines() if path.exists() else ():
    try:
      if json.loads(line)["step"] <= last_step:
        rows.append(line)
    except (ValueError, KeyError):
      logging.warning("Dropped an incomplete row of %s.", path)
  return rows


class Writer:
  """Writes `metrics.jsonl`, progress lines and, if installed, TensorBoard.

  A row that cannot be written is logged and kept in memory; the next write
  rewrites the whole file.
  """

  def __init__(
    self, workdir: str | os.PathLike, *, step: int, total_steps: int
  ):
    """Opens the files, and drops rows after `step` that will be written again.

    Args:
      workdir: workdir of the run.
      step: number of steps done.
      total_steps: steps of the run.
    """
    self._path = pathlib.Path(workdir) / "metrics.jsonl"
    self._rows = _read_rows(self._path, step)
    self._total_steps = total_steps
    self._is_complete = False
    self._write_rows()
    self._events = None
    if all(map(importlib.util.find_spec, ("tensorboard", "tensorflow"))):
      # Imports TensorFlow, which takes seconds.
      from clu import metric_writers

      self._events = metric_writers.create_default_writer(
        str(workdir), just_logging=False, asynchronous=False
      )

  def write(self, step: int, values: Mapping[str, float]) -> None:
    """Writes the scalars of a step.

    Args:
      step: number of steps done.
      values: scalars by name; `loss`, `learning_rate`, `images_per_second` and
        `seconds_per_step` are among them.
    """
    row = json.dumps({"step": step, **values, "time": time.time()})
    self._rows.append(row)
    self._write_rows(row)
    self._write_events(lambda events: events.write_scalars(step, dict(values)))
    remaining = (self._total_steps - step) * values["seconds_per_step"]
    distributed.log_on_first(
      f"step {step}/{self._total_steps} ({step / self._total_steps:.0%})"
      f"  loss {values['loss']:.4f}"
      f"  lr {values['learning_rate']:.2e}"
      f"  {values['images_per_second']:,.0f} images/s"
      f"  ETA {_format_duration(remaining)}"
    )

  def _write_rows(self, row: str = "") -> None:
    """Appends a row, or rewrites the file if an earlier write failed."""
    try:
      if self._is_complete:
        with self._path.open("a") as file:
          file.write(f"{row}\n")
      else:
        files.write_text(self._path, "".join(f"{r}\n" for r in self._rows))
      self._is_complete = True
    except OSError as error:
      self._is_complete = False
      logging.error(
        "Could not write %s: %s. The next write will include all rows.",
        self._path,
        error.strerror,
      )

  def _write_events(self, write: Callable[[Any], None]) -> None:
    if self._events is None:
      return
    try:
      write(self._events)
    except Exception as error:  # TensorFlow passes on any file system error.
      logging.error("Could not write TensorBoard events: %s", error)

  def __enter__(self) -> "Writer":
    return self

  def __exit__(self, *_: Any) -> None:
    self._write_events(lambda events: events.close())
    if not self._is_complete:
      self._write_rows()
