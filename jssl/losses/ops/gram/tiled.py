"""Inner products of moments by rows, in tiles of the [n, n] matrices.

Used where there are fewer rows than features. Rows and columns are padded to
whole tiles; a mask tells padding apart, since a shift makes it nonzero.
"""

from typing import NamedTuple

import jax.numpy as jnp
from jaxtyping import Array, Float

from jssl.losses.ops import tiles
from jssl.losses.ops.gram.reference import Factor, Pair
from jssl.losses.ops.matmul import cast_matmul, matmul, upcast_dtype
from jssl.typing import PyTree


class Operand(NamedTuple):
  """A pair of factors, and a mask: 1 for rows, 0 for padding."""

  pair: Pair
  mask: Float[Array, "n"]

  def rows(self) -> tuple[Array, Array]:
    """Returns the rows of both factors, with zeros for padding."""
    mask = self.mask[:, None]

    def masked(factor: Factor) -> Array:
      rows = factor.rows()
      return rows * mask.astype(rows.dtype)

    first, second = self.pair
    one = masked(first)
    return one, one if second is None else masked(second)

  def read(self, tile: Array, size: int) -> "Operand":
    """Returns a tile of the rows."""
    pair = self.pair.map(lambda f: f._replace(x=tiles.read(f.x, tile, size)))
    return Operand(pair, tiles.read(self.mask, tile, size))


class Gradient(NamedTuple):
  """Accumulated gradient with respect to the rows of both factors.

  Without a second factor, `first` is the sum of the gradients by both.
  """

  first: Float[Array, "n d"]
  second: Float[Array, "n e"] | None

  def multiplicity(self, *, symmetric: bool) -> int:
    """Returns the number of equal gradients that `first` stands for."""
    return (1 + symmetric) * (2 if self.second is None else 1)


def zero_gradient(operand: Operand) -> Gradient:
  """Returns zeros, for both factors."""

  def zeros(factor: Factor) -> Array:
    return jnp.zeros_like(factor.x, upcast_dtype(factor.x.dtype))

  first, second = operand.pair
  return Gradient(zeros(first), None if second is None else zeros(second))


def add_block(
  rows: Operand,
  columns: Operand,
  sums: Float[Array, "n"],
  row_gradient: Gradient | None,
  column_gradient: Gradient | None,
  *,
  tile: tuple[int, int],
) -> tuple[Float[Array, "n"], Gradient | None, Gradient | None]:
  """Adds a block of sum_j <a_i, c_j> <b_i, e_j>, and its gradients.

  Accumulators are None without gradients. `column_gradient` is also None if the
  columns are the rows: `row_gradient` then holds both.
  """
  symmetric = column_gradient is None

  def add(
    total: Gradient, by_first: Array, by_second: Array, other: tuple
  ) -> Gradient:
    times = total.multiplicity(symmetric=symmetric)
    first = total.first + cast_matmul(times * by_second, other[0])
    if total.second is None:
      return Gradient(first, None)
    second = total.second + cast_matmul(times * by_first, other[1])
    return Gradient(first, second)

  def body(i: Array, j: Array, state: PyTree) -> PyTree:
    r, c = rows.read(i, tile[0]).rows(), columns.read(j, tile[1]).rows()
    first = matmul(r[0], c[0].T)
    second = first if rows.pair.second is None else matmul(r[1], c[1].T)
    sums, by_row, by_column = state
    new = tiles.read(sums, i, tile[0]) + jnp.sum(first * second, axis=1)
    sums = tiles.write(sums, new, i, tile[0])
    if by_row is not None:
      total = add(tiles.read(by_row, i, tile[0]), first, second, c)
      by_row = tiles.write(by_row, total, i, tile[0])
    if by_column is not None:
      total = add(tiles.read(by_column, j, tile[1]), first.T, second.T, r)
      by_column = tiles.write(by_column, total, j, tile[1])
    return sums, by_row, by_column

  shape = len(rows.mask), len(columns.mask)
  state = sums, row_gradient, column_gradient
  return tiles.loop(body, shape, tile, state)


def subtract_diagonal(
  total: Gradient | None,
  operand: Operand,
  diagonal: Float[Array, "d"],
  *,
  symmetric: bool,
) -> Gradient | None:
  """Subtracts the gradient of the diagonals' product from that of an operand.

  `diagonal` is the diagonal of the other operand's moment, over all devices.
  """
  if total is None:
    return None
  times = total.multiplicity(symmetric=symmetric)
  first, second = operand.rows()
  by_first = total.first - times * diagonal[None] * second
  if total.second is None:
    return Gradient(by_first, None)
  return Gradient(by_first, total.second - times * diagonal[None] * first)
