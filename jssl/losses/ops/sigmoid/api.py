"""Sum of sigmoid losses: entry point, and the operation on a mesh."""

import jax.numpy as jnp
from jaxtyping import Array, Float, Int

from jssl.losses.ops.base import FusedSum
from jssl.losses.ops.layout import Layout
from jssl.losses.ops.ring import ring_fold
from jssl.losses.ops.sigmoid import reference, tiled
from jssl.losses.ops.sigmoid.reference import Ids, Operands
from jssl.typing import PyTree, Scalar


class Total(FusedSum):
  """The sum over all pairs. On a mesh, rows are resident and columns rotate."""

  name = "sigmoid"
  max_tile = (1024, 1024)

  def reference(self, operands: Operands, constants: Ids) -> Scalar:
    return reference.total(operands, constants)

  def value_and_gradients(
    self, operands: Operands, constants: Ids, *, gradients: bool
  ) -> tuple[Scalar, Operands | None]:
    def local(*arrays: Array) -> tuple[Scalar, PyTree]:
      operands, ids = Operands(*arrays[:4]), Ids(*arrays[4:])
      x, y = operands.x, operands.y
      sums = tiled.zero_sums(operands, gradients=gradients)
      # Columns rotate with their ids and their gradient.
      sums, by_y = ring_fold(
        self.layout.axes,
        lambda sums, block, partial: tiled.add_block(
          operands._replace(y=block[0]),
          Ids(ids.x, block[1]),
          sums,
          partial,
          tile=self.tile,
        ),
        sums,
        (y, ids.y),
        jnp.zeros_like(y, sums.value.dtype) if gradients else None,
        tile=self.tile[1],
        finish=lambda _, by_y: None if by_y is None else by_y.astype(y.dtype),
      )
      value = self.layout.all_reduce(sums.value.sum())
      if sums.gradients is None:
        return value, None
      by_x, *shared = sums.gradients
      shared = self.layout.all_reduce_gradients([g.sum() for g in shared])
      return value, (by_x.astype(x.dtype), by_y, *shared)

    specs = (True, True, False, False)
    out_specs = (False, specs if gradients else None)
    function = self.layout.shard_map(local, (*specs, True, True), out_specs)
    value, by_operands = function(*operands, *constants)
    return value, None if by_operands is None else Operands(*by_operands)


def total(
  layout: Layout,
  x: Float[Array, "n d"],
  y: Float[Array, "m d"],
  scale: Scalar,
  bias: Scalar,
  *,
  ids: tuple[Int[Array, "n"], Int[Array, "m"]],
) -> Scalar:
  """Returns the sum of sigmoid losses over all pairs, of all devices.

  Args:
    layout: layout of rows and columns.
    x: rows.
    y: columns, of the same dtype.
    scale: factor of the dot products, at least float32.
    bias: summand of the logits, of the dtype of the scale.
    ids: nonnegative ids of rows and columns; equal ids are positive pairs.
  """
  op = Total.create(layout, len(x), len(y), no_kernel="it has no kernel yet")
  x, x_ids = op.pad((x, ids[0]))
  y, y_ids = op.pad((y, ids[1]), axis=1)
  return op(Operands(x, y, scale, bias), Ids(x_ids, y_ids))
