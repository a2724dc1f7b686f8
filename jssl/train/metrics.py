"""Metrics between two log lines, and other progress that checkpoints hold."""

from typing import NamedTuple

import jax
import numpy as np
from clu.metrics import Average
from jax.sharding import Mesh

from jssl import mesh as mesh_lib
from jssl.typing import Metrics

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


class Progress(NamedTuple):
  """Progress of a run besides its state; an item of its checkpoints.

  Attributes:
    seconds: seconds of training, over all starts of the run.
    logged_step: step of the last row of metrics.
    window: metrics since then, so that a resumed run writes the same rows as an
      uninterrupted one.
  """

  seconds: np.ndarray
  logged_step: np.ndarray
  window: Window

  @classmethod
  def create(cls, seconds: float, step: int, window: Window) -> "Progress":
    """Returns progress with NumPy scalars, which checkpoints need."""
    return cls(np.asarray(seconds), np.asarray(step), window)
