"""Writes the metrics of a run: stdout, metrics.jsonl and trackers."""

import datetime
import os
import time
from collections.abc import Callable, Mapping
from typing import Any

import numpy as np
from jaxtyping import UInt8

from jssl.runtime import distributed, files
from jssl.runtime.paths import StorePath, as_path
from jssl.runtime.trackers import Trackers


class Writer:
  """Writes `metrics.jsonl` and progress lines, and sends metrics to trackers.

  Only process 0 writes. A row that cannot be written is logged and kept in
  memory; the next write rewrites the whole file. In a store, the file is
  rewritten each half minute and by `flush`.
  """

  def __init__(
    self,
    workdir: str | os.PathLike,
    *,
    total_steps: int,
    batch_size: int,
    seconds_at_peak: float,
    open_trackers: Callable[[int], Trackers] | None = None,
  ):
    """Writes nothing yet.

    Args:
      workdir: folder of the run.
      total_steps: number of steps of the run.
      batch_size: number of images per step.
      seconds_at_peak: time of a step's model FLOPs at the device's peak.
      open_trackers: opens the trackers of a run that resumes at a step.
    """
    self._open_trackers = open_trackers
    self._path = as_path(workdir) / "metrics.jsonl"
    self._next_write = 0.0
    self._total_steps, self._batch_size = total_steps, batch_size
    self._seconds_at_peak = seconds_at_peak
    self._rows: list[dict[str, Any]] = []
    self._is_complete = False
    self._trackers: Trackers | None = None

  def start(self, step: int) -> None:
    """Opens the files, and drops rows after `step`, the steps done."""
    self.restart_clock(step)
    if not distributed.is_first():
      return
    rows = files.read_json_lines(self._path, ["step"])
    self._rows = [row for row in rows if row["step"] <= step]
    self._write_rows()
    if self._open_trackers:
      self._trackers = self._open_trackers(step)

  def restart_clock(self, step: int) -> None:
    """Measures the speed from `step` on: the first step is slower."""
    self._step, self._time = step, time.monotonic()

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
      "mfu": self._seconds_at_peak / seconds_per_step,
    }
    if distributed.is_first():
      self._rows.append({"step": step, **values, "time": time.time()})
      if time.monotonic() >= self._next_write:
        self._write_rows()
      else:
        self._is_complete = False
      if self._trackers:
        self._trackers.scalars(step, values)
    remaining = round((self._total_steps - step) * seconds_per_step)
    distributed.log_on_first(
      f"step {step}/{self._total_steps} ({step / self._total_steps:.0%})"
      f"  loss {values['loss']:.4f}"
      f"  lr {values['learning_rate']:.2e}"
      f"  {values['images_per_second']:,.0f} images/s"
      f"  ETA {datetime.timedelta(seconds=remaining)}"
    )
    self.restart_clock(step)

  def image(
    self, name: str, draw: Callable[[], UInt8[np.ndarray, "h w c"]]
  ) -> None:
    """Sends an image to the trackers; draws it only if there are any."""
    if self._trackers:
      self._trackers.image(name, draw)

  def flush(self) -> None:
    """Writes the rows that the file does not have yet."""
    if self._rows and not self._is_complete:
      self._write_rows()

  def _write_rows(self) -> None:
    """Appends the last row, or writes all rows after a failed write."""
    append = self._is_complete and not isinstance(self._path, StorePath)
    rows = self._rows[-1:] if append else self._rows
    self._is_complete = files.write_json_lines(self._path, rows, append=append)
    self._next_write = files.next_write(self._path)

  def __enter__(self) -> "Writer":
    return self

  def __exit__(self, error: type | None, *_: Any) -> None:
    if self._trackers:
      ended = error is None and self._step == self._total_steps
      self._trackers.close(failed=not ended)
    self.flush()
