"""What a run measures of itself between two rows of its log."""

from collections.abc import Mapping
from typing import NamedTuple

import jax
import numpy as np
from clu.metrics import Average

from jssl.typing import Metrics, PyTree

Window = dict[str, Average]


@jax.jit
def add_to_window(window: Window, metrics: Metrics) -> Window:
  """Adds a step's metrics to a window of steps, on the device.

  What the window has no name for is left out.
  """
  return {
    name: mean.merge(Average.from_model_output(metrics[name]))
    for name, mean in window.items()
  }


def empty_window(names: tuple[str, ...]) -> Window:
  """Returns a window without steps."""
  return {name: Average.empty() for name in names}


class Watch(NamedTuple):
  """What a run knows about itself besides its state.

  Attributes:
    seconds: of training, over all its lives.
    logged: step of the last row.
    window: metrics of the steps since then; a run that is taken up logs the
      row that the uninterrupted one would have logged.
  """

  seconds: float
  logged: int
  window: Window

  def to_arrays(self) -> dict[str, PyTree]:
    """Returns it as parts of a checkpoint; waits for the window."""
    window = {
      name: {"total": np.asarray(mean.total), "count": np.asarray(mean.count)}
      for name, mean in self.window.items()
    }
    timers = {
      "seconds": np.asarray(self.seconds),
      "logged": np.asarray(self.logged),
      "window": window,
    }
    return {"timers": timers}

  @classmethod
  def from_arrays(cls, parts: Mapping[str, PyTree]) -> "Watch":
    """The inverse of `to_arrays`."""
    timers = parts["timers"]
    window = {name: Average(**mean) for name, mean in timers["window"].items()}
    return cls(float(timers["seconds"]), int(timers["logged"]), window)
