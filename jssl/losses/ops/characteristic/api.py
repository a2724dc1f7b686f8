"""Characteristic function: entry point, and the operation on a mesh."""

import dataclasses

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float

from jssl.losses.ops.base import FusedOperation
from jssl.losses.ops.characteristic import reference, tiled
from jssl.losses.ops.characteristic.reference import Waves
from jssl.losses.ops.layout import Layout

Rows = Float[Array, "n s"]
Mask = Float[Array, "n"]


@dataclasses.dataclass(frozen=True)
class Sums(FusedOperation):
  """Sums of waves. On a mesh, each device's sums are all-reduced.

  Attributes:
    knots: number of frequencies, from 0 on.
    step: distance of two frequencies.
  """

  knots: int
  step: float

  name = "characteristic"
  max_tile = (256, 256)

  def reference(self, operands: Rows, constants: Mask) -> Waves:
    waves = reference.sums(
      operands * constants[:, None], knots=self.knots, step=self.step
    )
    # Padding is 0, and its cosine 1.
    return waves._replace(cosine=waves.cosine - jnp.sum(1 - constants))

  def forward(self, operands: Rows, constants: Mask) -> Waves:
    def local(p: Array, mask: Array) -> Waves:
      return self.layout.all_reduce(
        tiled.forward(
          p, mask, knots=self.knots, step=self.step, tile=self.tile[0]
        )
      )

    function = self.layout.shard_map(local, (True, True), False)
    return function(operands, constants)

  def backward(
    self, operands: Rows, constants: Mask, out: Waves, g: Waves
  ) -> Rows:
    del constants, out  # The caller slices off the gradients of padding.

    def local(p: Array, g: Waves) -> Array:
      return tiled.backward(p, g, step=self.step, tile=self.tile[0])

    g = jax.tree.map(self.layout.sum_transpose, g)
    return self.layout.shard_map(local, (True, False), True)(operands, g)


def sums(layout: Layout, p: Rows, *, knots: int, step: float) -> Waves:
  """Returns sums of cosines and sines over the rows of all devices.

  Args:
    layout: layout of the rows.
    p: projections, at least float32.
    knots: number of frequencies: multiples of `step`, from 0 on.
    step: distance of two frequencies.
  """
  op = Sums.create(
    layout,
    len(p),
    no_kernel="it has no kernel, as it contains no matmul",
    knots=knots,
    step=step,
  )
  if op.implementation == "reference":
    return reference.sums(p, knots=knots, step=step)
  return op(*op.pad((p, jnp.ones_like(p[:, 0]))))
