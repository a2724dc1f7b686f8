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


class Writer:
  """Writes `metrics.jsonl`, progress lines and, if installed, TensorBoard.

  Only process 0 writes. A row that cannot be written is logged and kept in
  memory; the next write rewrites the whole file.
  """

  def __init__(
    self, workdir: str | os.PathLike, *, total_steps: int, batch_size: int
  ):
    """Writes nothing yet.

    Args:
      workdir: workdir of the run.
      total_steps: steps of the run.
      batch_size: images in a global batch.
    """
    self._workdir = workdir
    self._path = pathlib.Path(workdir) / "metrics.jsonl"
    self._total_steps, self._batch_size = total_steps, batch_size
    self._rows: list[str] = []
    self._is_complete = True
    self._events: Any = None

  def start(self, step: int) -> None:
    """Opens the files, and drops rows after `step` that will be written again.

    Args:
      step: number of steps done.
    """
    self._step, self._time = step, time.monotonic()
    if not distributed.is_first():
      return
    text = self._path.read_text() if self._path.exists() else ""
    for line in text.splitlines():
      try:
        if json.loads(line)["step"] <= step:
          self._rows.append(line)
      except (ValueError, KeyError):
        logging.warning("Dropped an incomplete row of %s.", self._path)
    self._is_complete = False
    self._write_row()
    if all(map(importlib.util.find_spec, ("tensorboard", "tensorflow"))):
      # Imports TensorFlow, which takes seconds.
      from clu import metric_writers

      self._events = metric_writers.create_default_writer(
        str(self._workdir), just_logging=False, asynchronous=False
      )

  def write(self, step: int, values: Mapping[str, float]) -> None:
    """Writes scalars and the speed since the last call.

    Args:
      step: number of steps done.
      values: scalars by name, `loss` and `learning_rate` among them.
    """
    seconds_per_step = (time.monotonic() - self._time) / (step - self._step)
    values = {
      **values,
      "images_per_second": self._batch_size / seconds_per_step,
      "seconds_per_step": seconds_per_step,
    }
    if distributed.is_first():
      row = {"step": step, **values, "time": time.time()}
      self._rows.append(json.dumps(row))
      self._write_row()
      self._write_events(lambda events: events.write_scalars(step, values))
    remaining = (self._total_steps - step) * seconds_per_step
    distributed.log_on_first(
      f"step {step}/{self._total_steps} ({step / self._total_steps:.0%})"
      f"  loss {values['loss']:.4f}"
      f"  lr {values['learning_rate']:.2e}"
      f"  {values['images_per_second']:,.0f} images/s"
      f"  ETA {_format_duration(remaining)}"
    )
    self._step, self._time = step, time.monotonic()

  def _write_row(self) -> None:
    """Appends the last row, or all rows if an earlier write failed."""
    try:
      if self._is_complete:
        with self._path.open("a") as file:
          file.write(f"{self._rows[-1]}\n")
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
      self._write_row()
