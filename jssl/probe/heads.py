"""Heads of checkpoints, as functions of backbone features."""

import os
from collections.abc import Callable

import jax
import numpy as np
from jaxtyping import Array, Float

from jssl import checkpoint, rng
from jssl.models.tokens import Spec
from jssl.objectives import Objective

Head = Callable[[Float[np.ndarray, "*n d"]], Float[Array, "*n z"]]


class HeadOutputs:
  """Outputs of a head, computed for the rows that are indexed."""

  def __init__(self, h: Float[np.ndarray, "n d"], head: Head):
    self._h, self._head = h, head
    self.shape = (len(h), self[:1].shape[1])
    self.ndim, self.dtype = 2, np.dtype(np.float32)

  def __len__(self) -> int:
    return len(self._h)

  def __getitem__(self, rows: slice) -> Float[np.ndarray, "m z"]:
    return np.asarray(self._head(np.asarray(self._h[rows])), np.float32)


class Heads:
  """Restores the heads of a run, compiled once for all checkpoints."""

  def __init__(self, objective: Objective, spec: Spec):
    self._names = objective.heads
    self._shapes = jax.eval_shape(lambda: objective.init(rng.root(0), spec))
    self._outputs = jax.jit(objective.outputs)

  def restore(self, workdir: str | os.PathLike, step: int) -> dict[str, Head]:
    """Returns the heads of a checkpoint; CheckpointError if it is damaged."""
    params, state = self._shapes
    shapes = {"objective": {"params": params, "state": state}}
    saved = checkpoint.restore(workdir, step, shapes)["objective"]

    def head(name: str) -> Head:
      return lambda h: self._outputs(saved["params"], saved["state"], h)[name]

    return {name: head(name) for name in self._names}
