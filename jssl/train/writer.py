"""What a run says while it goes: a line, a row, and TensorBoard events."""

import importlib.util
import json
import os
import pathlib
import time
from collections.abc import Callable, Mapping
from typing import Any

from absl import logging

from jssl.runtime import distributed, files


def _duration(seconds: float) -> str:
  minutes, seconds = divmod(round(seconds), 60)
  hours, minutes = divmod(minutes, 60)
  return f"{hours}:{minutes:02d}:{seconds:02d}"


def _rows_until(path: pathlib.Path, step: int) -> list[str]:
  """Returns the whole lines of a run's rows that lie at or before `step`."""
  if not path.exists():
    return []
  rows = []
  for line in path.read_text().splitlines():
    try:
      if json.loads(line)["step"] <= step:
        rows.append(line)
    except (ValueError, KeyError):
      logging.warning("%s: dropped a half-written row", path)
  return rows


class Writer:
  """Writes `metrics.jsonl`, progress lines, and events where it can.

  Rows after the step at which a run is taken up again are dropped: they will
  be written anew.
  """

  def __init__(
    self, workdir: str | os.PathLike, *, step: int, total_steps: int
  ):
    """Opens the files of a run that has done `step` steps."""
    path = pathlib.Path(workdir) / "metrics.jsonl"
    self._rows = files.Rows(path, _rows_until(path, step))
    self._total_steps = total_steps
    self._events = None
    if all(map(importlib.util.find_spec, ("tensorboard", "tensorflow"))):
      # TensorFlow, which takes seconds to import.
      from clu import metric_writers

      self._events = metric_writers.create_default_writer(
        str(workdir), just_logging=False, asynchronous=False
      )

  def write(self, step: int, values: Mapping[str, float]) -> None:
    """Writes the scalars of `step`; `images_per_second` is among them."""
    row = {"step": step, **values, "time": time.time()}
    self._rows.add(json.dumps(row))
    self._to_events(lambda events: events.write_scalars(step, dict(values)))
    left = (self._total_steps - step) * values["seconds_per_step"]
    distributed.log_on_first(
      f"step {step}/{self._total_steps} ({step / self._total_steps:.0%})"
      f"  loss {values['loss']:.4f}"
      f"  lr {values['learning_rate']:.2e}"
      f"  {values['images_per_second']:,.0f} images/s"
      f"  ETA {_duration(left)}"
    )

  def _to_events(self, write: Callable[[Any], None]) -> None:
    """Writes what metrics.jsonl has too, and what no run should end for."""
    if self._events is None:
      return
    try:
      write(self._events)
    except Exception as error:  # TensorFlow raises what its file systems raise.
      logging.error("no TensorBoard events: %s", error)

  def waits(self) -> bool:
    """Writes rows that wait; whether some still do.

    To be asked before a save: who goes on from it won't make them again.
    """
    return self._rows.wait()

  def close(self) -> None:
    """Flushes and closes everything.

    Raises:
      OSError: rows are left that can't be written.
    """
    self._to_events(lambda events: events.close())
    self._rows.close()

  def __enter__(self) -> "Writer":
    return self

  def __exit__(self, kind: type | None, error: Any, trace: Any) -> None:
    try:
      self.close()
    except OSError as own:
      # What has ended the run says more.
      if kind is None:
        raise
      logging.error("%s", own)
