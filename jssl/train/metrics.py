"""Metrics between two log lines, and other progress that checkpoints hold."""

import jax
import numpy as np
from clu.metrics import Average
from jax.sharding import Mesh

from jssl import mesh as mesh_lib
from jssl.typing import Metrics, PyTree

Window = dict[str, Average]
"""Averages of metrics over the steps since the last log line."""


@jax.jit
def add_to_window(window: Window, metrics: Metrics) -> Window:
  """Adds those metrics of a step that the window has, on the device."""
  return {
    name: mean.merge(Average.from_model_output(metrics[name]))
    for name, mean in window.items()
  }


def empty_window(names: tuple[str, ...], mesh: Mesh) -> Window:
  """Returns a window without steps, on all devices."""
  return mesh_lib.on_every_device(
    mesh, {name: Average.empty() for name in names}
  )


def progress_item(seconds: float, step: int, window: Window) -> PyTree:
  """Returns the item of a checkpoint with progress besides the state.

  A resumed run then writes the same rows as an uninterrupted one.

  Args:
    seconds: seconds of training, over all starts of the run.
    step: step of the last row of metrics.
    window: metrics since then.
  """
  return {
    "seconds": np.asarray(seconds),
    "logged_step": np.asarray(step),
    "window": window,
  }
