"""What a run measures of itself between two rows of its log."""

from collections.abc import Mapping
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from clu.metrics import Average
from jaxtyping import Array, Int

from jssl.data.source import WHOLE
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


# Rows of damaged images that a run tells by number.
_TOLD = 8
_NO_ROW = np.iinfo(np.int32).max
Count = Int[Array, ""] | np.int32


class Damage(NamedTuple):
  """What a run knows of images that were replaced (`data.skip_damaged`).

  Attributes:
    images: that were, over all steps of the run; those of each epoch count.
    logged: how many of them are in the rows of the log.
    rows: of the set, the first few that were, ascending; one more than are
      told, and filled up with a number that no row has.
  """

  images: Count
  logged: Count
  rows: Int[Array | np.ndarray, "told"]

  def row(self) -> tuple[dict[str, float], "Damage"]:
    """Returns what a row of the log says, and what is known after it."""
    new = int(self.images) - int(self.logged)
    return {"damaged_images": new}, self._replace(logged=self.images)

  def told(self, name: str) -> str:
    """Returns a line of the images of the set called `name`."""
    rows = [str(row) for row in self.rows[:_TOLD].tolist() if row != _NO_ROW]
    more = ", ..." if int(self.rows[_TOLD]) != _NO_ROW else ""
    return (
      f"{int(self.images)} times an image could not be read and the next was "
      f"taken (data.skip_damaged): {name}, rows {', '.join(rows)}{more}"
    )


def no_damage() -> Damage:
  """Returns what a run knows before its first step."""
  return Damage(np.int32(0), np.int32(0), np.full(_TOLD + 1, _NO_ROW, "int32"))


def add_damage(damage: Damage, damaged: Int[Array, "b"] | None) -> Damage:
  """Adds a batch, see `jssl.data.source.Source.fetch`.

  Args:
    damage: of the steps before it.
    damaged: of a global batch; None of a set that can't be damaged.
  """
  if damaged is None:
    return damage
  replaced = damaged != WHOLE
  rows = jnp.concatenate([damage.rows, jnp.where(replaced, damaged, _NO_ROW)])
  return damage._replace(
    images=damage.images + jnp.sum(replaced, dtype=jnp.int32),
    rows=jnp.unique(rows, size=len(damage.rows), fill_value=_NO_ROW),
  )


class Watch(NamedTuple):
  """What a run knows about itself besides its state.

  Attributes:
    seconds: of training, over all its lives.
    logged: step of the last row.
    window: metrics of the steps since then; a run that is taken up logs the
      row that the uninterrupted one would have logged.
    damage: images that were replaced.
  """

  seconds: float
  logged: int
  window: Window
  damage: Damage

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
    damage = {k: np.asarray(v) for k, v in self.damage._asdict().items()}
    return {"timers": timers, "damage": damage}

  @classmethod
  def from_arrays(cls, parts: Mapping[str, PyTree]) -> "Watch":
    """The inverse of `to_arrays`."""
    timers = parts["timers"]
    window = {name: Average(**mean) for name, mean in timers["window"].items()}
    return cls(
      float(timers["seconds"]),
      int(timers["logged"]),
      window,
      Damage(**parts["damage"]),
    )
