"""Log-sum-exps of a similarity matrix, tile by tile.

Both functions accumulate one block of the matrix into sums that are passed in
and returned, so that the ring exchange calls them on every block it receives.
Rows and columns are padded to whole tiles.
"""

from typing import NamedTuple

import jax.numpy as jnp
from jaxtyping import Array, Float

from jssl.losses.ops import tiles
from jssl.losses.ops.matmul import cast_matmul
from jssl.losses.ops.similarity.reference import (
  MASKED,
  Differentiable,
  Operand,
  similarities,
)
from jssl.typing import PyTree

Tile = tuple[int, int]


class RunningSum(NamedTuple):
  """An online log-sum-exp: running maximum, and sum of exp(S - maximum)."""

  maximum: Float[Array, "n"]
  sum: Float[Array, "n"]

  def log(self) -> Float[Array, "*n"]:
    """Returns the log-sum-exp; `MASKED` where all pairs were masked."""
    seen = self.maximum > MASKED
    lse = self.maximum + jnp.log(jnp.where(seen, self.sum, 1))
    return jnp.where(seen, lse, MASKED)

  def merge(self, s: Float[Array, "n m"], axis: int) -> "RunningSum":
    """Adds the similarities of a tile, summed over an axis."""
    maximum = jnp.maximum(self.maximum, s.max(axis))
    shifted = jnp.exp(s - jnp.expand_dims(maximum, axis))
    rescaled = self.sum * jnp.exp(self.maximum - maximum)
    return RunningSum(maximum, rescaled + shifted.sum(axis))


class GradientSum(NamedTuple):
  """Accumulated gradient of an operand, with D_ij the gradient by S_ij."""

  x: Float[Array, "n d"]  # sum_j D_ij r_i c_j y_j
  s: Float[Array, "n"]  # sum_j D_ij

  def add(
    self,
    scaled: Float[Array, "n m"],
    y: Float[Array, "m d"],
    d: Float[Array, "n"],
  ) -> "GradientSum":
    """Adds the gradients of a tile: D r c, the other operand, and sums of D."""
    return GradientSum(self.x + cast_matmul(scaled, y), self.s + d)


class Cotangent(NamedTuple):
  """A log-sum-exp and its cotangent g: D_ij = g exp(S_ij - lse)."""

  lse: Float[Array, "n"]
  g: Float[Array, "n"]


def gradients(operand: Operand, total: GradientSum) -> Differentiable:
  """Returns the gradients by features, scale and bias of an operand."""
  inner = jnp.sum(operand.x.astype(total.x.dtype) * total.x, axis=1)
  # Where the scale is 0 so are the features, and the product.
  scale = jnp.where(operand.scale == 0, 1, operand.scale)
  return total.x.astype(operand.x.dtype), inner / scale, total.s


def empty_sum(operand: Operand) -> RunningSum:
  """Returns the log-sum-exp of no pairs, for each row of an operand."""
  # Derived from the operand, so that it varies over the same mesh axes.
  zero = jnp.zeros_like(operand.scale)
  return RunningSum(zero + MASKED, zero)


def zero_gradient(operand: Operand) -> GradientSum:
  """Returns zeros, for each row of an operand."""
  zero = jnp.zeros_like(operand.scale)
  return GradientSum(jnp.zeros_like(operand.x, zero.dtype), zero)


def forward(
  rows: Operand,
  columns: Operand,
  row_sums: RunningSum,
  column_sums: RunningSum | None,
  *,
  tile: Tile,
) -> tuple[RunningSum, RunningSum | None]:
  """Adds a block of the matrix to the sums (of columns unless None)."""

  def body(i: Array, j: Array, state: PyTree) -> PyTree:
    s = similarities(
      tiles.read(rows, i, tile[0]), tiles.read(columns, j, tile[1])
    )
    by_row, by_column = state
    new = tiles.read(by_row, i, tile[0]).merge(s, 1)
    by_row = tiles.write(by_row, new, i, tile[0])
    if by_column is not None:
      new = tiles.read(by_column, j, tile[1]).merge(s, 0)
      by_column = tiles.write(by_column, new, j, tile[1])
    return by_row, by_column

  shape = len(rows.ids), len(columns.ids)
  return tiles.loop(body, shape, tile, (row_sums, column_sums))


def backward(
  rows: Operand,
  columns: Operand,
  row_cotangent: Cotangent,
  column_cotangent: Cotangent | None,
  row_gradient: GradientSum,
  column_gradient: GradientSum | None,
  *,
  tile: Tile,
) -> tuple[GradientSum, GradientSum | None]:
  """Adds the gradients of a block of the matrix to both accumulators.

  `column_cotangent` is None if the loss uses row log-sum-exps only,
  `column_gradient` if the columns need no gradient.
  """

  def body(i: Array, j: Array, state: PyTree) -> PyTree:
    r, c = tiles.read(rows, i, tile[0]), tiles.read(columns, j, tile[1])
    s = similarities(r, c)
    lse, g = tiles.read(row_cotangent, i, tile[0])
    d = jnp.exp(s - lse[:, None]) * g[:, None]
    if column_cotangent is not None:
      lse, g = tiles.read(column_cotangent, j, tile[1])
      d = d + jnp.exp(s - lse[None]) * g[None]
    scaled = d * (r.scale[:, None] * c.scale[None])
    by_row, by_column = state
    new = tiles.read(by_row, i, tile[0]).add(scaled, c.x, d.sum(1))
    by_row = tiles.write(by_row, new, i, tile[0])
    if by_column is not None:
      new = tiles.read(by_column, j, tile[1]).add(scaled.T, r.x, d.sum(0))
      by_column = tiles.write(by_column, new, j, tile[1])
    return by_row, by_column

  shape = len(rows.ids), len(columns.ids)
  return tiles.loop(body, shape, tile, (row_gradient, column_gradient))
