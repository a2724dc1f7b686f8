"""Profiles a window of steps with JAX's profiler."""

import os
import pathlib
import shutil
import tempfile
from typing import Any

import jax
from absl import logging

from jssl.runtime.paths import StorePath, as_path


class StepProfiler:
  """Traces some steps of a loop, for TensorBoard or xprof.

  A context manager: a trace that is still open at the end is written too.
  """

  def __init__(self, folder: str | os.PathLike, steps: tuple[int, ...]):
    """Configures the window; nothing is traced yet.

    Args:
      folder: folder of the trace; one in a store gets it at the end.
      steps: first and last step, counted from 1; () for none.
    """
    self._folder, self._steps = as_path(folder), steps
    self._local = self._folder  # JAX writes local files.
    self._tracing = False

  def before(self, step: int) -> None:
    """Starts the trace if `step` is the first one; call it before the step."""
    if self._steps and step == self._steps[0]:
      if isinstance(self._folder, StorePath):
        self._local = pathlib.Path(tempfile.mkdtemp())
      jax.profiler.start_trace(os.fspath(self._local))
      self._tracing = True

  def after(self, step: int, outputs: Any) -> None:
    """Writes the trace if `step` is the last one, after waiting for outputs."""
    if self._tracing and step == self._steps[1]:
      jax.block_until_ready(outputs)
      self._stop()

  def _stop(self) -> None:
    self._tracing = False
    jax.profiler.stop_trace()
    if isinstance(self._folder, StorePath):
      self._folder.upload(self._local)
      shutil.rmtree(self._local)

  def __enter__(self) -> "StepProfiler":
    return self

  def __exit__(self, kind: Any, *_: Any) -> None:
    try:
      if self._tracing:
        self._stop()
    except Exception as error:  # Such as a full disk.
      if kind is None:
        raise
      logging.error("Could not write the profile: %s", error)
