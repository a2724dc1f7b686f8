"""Nearest rows: entry point, and the operation on a mesh.

The index of the nearest row is constant; the gradient flows to its features, on
whichever device holds them.
"""

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float, Int

from jssl.losses.ops.base import FusedOperation
from jssl.losses.ops.layout import Layout
from jssl.losses.ops.matmul import upcast_dtype
from jssl.losses.ops.nearest import reference, tiled
from jssl.losses.ops.ring import ring_fold
from jssl.losses.ops.similarity.reference import Operand, operand

Rows = Float[Array, "n d"]
# Positions of the rows, and the index of the row that each row takes.
Indices = tuple[Int[Array, "n"], Int[Array, "n"]]


class Take(FusedOperation):
  """Takes rows by index. On a mesh, the rows rotate past their takers."""

  name = "nearest"
  max_tile = (1024, 1024)

  def index(self, rows: Operand, positions: Int[Array, "n"]) -> Int[Array, "n"]:
    """Returns the position of each row's most similar other row."""

    def local(rows: Operand, positions: Array) -> Array:
      best, _ = ring_fold(
        self.layout.axes,
        lambda best, block, partial: (
          tiled.argmax_block(rows, block[0], block[1], best, tile=self.tile),
          partial,
        ),
        tiled.no_best(rows),
        (rows, positions),
        None,
        tile=self.tile[1],
      )
      return best.position

    function = self.layout.shard_map(local, (True, True), True)
    return function(rows, positions)

  def reference(self, operands: Rows, constants: Indices) -> Rows:
    return reference.take(operands, constants[1])

  def forward(self, operands: Rows, constants: Indices) -> Rows:
    def local(x: Array, positions: Array, index: Array) -> Array:
      taken, _ = ring_fold(
        self.layout.axes,
        lambda taken, block, partial: (
          tiled.take_block(block[0], block[1], index, taken),
          partial,
        ),
        jnp.zeros_like(x),
        (x, positions),
        None,
        tile=self.tile[1],
      )
      return taken

    function = self.layout.shard_map(local, (True, True, True), True)
    return function(operands, *constants)

  def backward(
    self, operands: Rows, constants: Indices, out: Rows, g: Rows
  ) -> Rows:
    del out

    def local(g: Array, positions: Array, index: Array) -> Array:
      # The gradient of a shard rotates, and collects from all takers.
      _, total = ring_fold(
        self.layout.axes,
        lambda resident, block, total: (
          resident,
          tiled.scatter_block(total, block, index, g),
        ),
        (),
        positions,
        jnp.zeros_like(g, upcast_dtype(g.dtype)),
        tile=self.tile[1],
      )
      return total

    function = self.layout.shard_map(local, (True, True, True), True)
    return function(g, *constants).astype(operands.dtype)


def neighbours(layout: Layout, x: Rows, scale: Float[Array, "n"]) -> Rows:
  """Returns each row's most similar other row, of all devices.

  Args:
    layout: layout of the rows.
    x: features; the only argument with a gradient.
    scale: factor of each row in the similarities.
  """
  n = len(x)
  op = Take.create(layout, n, no_kernel="it has no kernel yet")
  constant = jax.lax.stop_gradient((x, scale))
  rows = operand(*constant, ids=layout.positions(n))
  if op.implementation == "reference":
    return reference.take(x, reference.argmax(rows))
  rows, x = op.pad((rows, x))
  # Positions count padding: in manual mode, every device pads its own rows.
  positions = layout.positions(len(x))
  return op(x, (positions, op.index(rows, positions)))[:n]
