"""The same by rows, in tiles of the [n, n] matrices.

Rows and columns are whole numbers of tiles long. What fills them up is told by
`real`, since a shift makes zeros something else.
"""

from typing import NamedTuple

import jax.numpy as jnp
from jaxtyping import Array, Float

from jssl.losses.ops import tiles
from jssl.losses.ops.gram.reference import Factor, Pair
from jssl.losses.ops.matmul import product, weighted, wide
from jssl.typing import PyTree


class Side(NamedTuple):
  """Rows, and which of them are real (1) or only fill up (0)."""

  pair: Pair
  real: Float[Array, "n"]

  def rows(self) -> tuple[Array, Array]:
    """Returns both factors, ready to be multiplied."""
    real = self.real[:, None]

    def part(factor: Factor) -> Array:
      rows = factor.rows()
      return rows * real.astype(rows.dtype)

    first, second = self.pair
    one = part(first)
    return one, one if second is None else part(second)

  def at(self, tile: Array, size: int) -> "Side":
    """Returns a tile of the rows."""

    def part(factor: Factor) -> Factor:
      return factor._replace(x=tiles.at(factor.x, tile, size))

    return Side(self.pair.map(part), tiles.at(self.real, tile, size))


class Flow(NamedTuple):
  """What flows back into the factors of a side; the second may be absent."""

  first: Float[Array, "n d"]
  second: Float[Array, "n e"] | None


def no_flow(side: Side) -> Flow:
  """Returns zeros, for both factors of a side."""

  def nothing(factor: Factor) -> Array:
    return jnp.zeros_like(factor.x, wide(factor.x.dtype))

  first, second = side.pair
  return Flow(nothing(first), None if second is None else nothing(second))


def add(
  rows: Side,
  columns: Side,
  sums: Float[Array, "n"],
  into_rows: Flow | None,
  into_columns: Flow | None,
  *,
  tile: tuple[int, int],
) -> tuple[Float[Array, "n"], Flow | None, Flow | None]:
  """Adds a block of sum_j <a_i, c_j> <b_i, e_j>, and what flows back of it.

  Args:
    rows: whole tiles.
    columns: the same.
    sums: of each row, so far.
    into_rows: so far; None where no gradient is wanted.
    into_columns: so far; None where it isn't wanted, or where the columns are
      the rows: then `into_rows` has twice what they get as rows.
    tile: its rows and columns.
  """
  # The columns are the rows, or the second factor is the first: the gradient
  # by the one is that by the other.
  twice = 1 + (into_columns is None)

  def onto(
    flow: Flow, by_first: Array, by_second: Array, others: tuple[Array, Array]
  ) -> Flow:
    first, second = others
    times = twice * (2 if flow.second is None else 1)
    step = weighted(times * by_second, first)
    if flow.second is None:
      return Flow(flow.first + step, None)
    other = weighted(times * by_first, second)
    return Flow(flow.first + step, flow.second + other)

  def body(i: Array, j: Array, state: PyTree) -> PyTree:
    r, c = rows.at(i, tile[0]).rows(), columns.at(j, tile[1]).rows()
    first = product(r[0], c[0].T)
    second = first if rows.pair.second is None else product(r[1], c[1].T)
    total, to_rows, to_columns = state
    new = tiles.at(total, i, tile[0]) + jnp.sum(first * second, axis=1)
    total = tiles.put(total, new, i, tile[0])
    if to_rows is not None:
      flow = onto(tiles.at(to_rows, i, tile[0]), first, second, c)
      to_rows = tiles.put(to_rows, flow, i, tile[0])
    if to_columns is not None:
      flow = onto(tiles.at(to_columns, j, tile[1]), first.T, second.T, r)
      to_columns = tiles.put(to_columns, flow, j, tile[1])
    return total, to_rows, to_columns

  return tiles.fold(
    body,
    len(rows.real) // tile[0],
    len(columns.real) // tile[1],
    (sums, into_rows, into_columns),
  )


def less_diagonal(
  rows: Side,
  columns: Side,
  moments: tuple[Float[Array, "d"], Float[Array, "d"]],
  into_rows: Flow | None,
  into_columns: Flow | None,
) -> tuple[Float[Array, ""], Flow | None, Flow | None]:
  """Takes the diagonals of both moments out again, from sums over rows.

  There are fewer rows than dimensions here, so that what stays is no less than
  what is taken out.

  Args:
    rows: of this device.
    columns: the same.
    moments: the diagonals, of rows and of columns, over all devices.
    into_rows: what flows back with the diagonals; None where it isn't wanted.
    into_columns: the same; None where the columns are the rows.

  Returns:
    What the value has too much, and what flows back without.
  """
  twice = 1 + (into_columns is None)

  def less(flow: Flow | None, side: Side, by: Array) -> Flow | None:
    if flow is None:
      return None
    times = twice * (2 if flow.second is None else 1)
    first, second = side.rows()
    to_first = flow.first - times * by[None] * second
    if flow.second is None:
      return Flow(to_first, None)
    return Flow(to_first, flow.second - times * by[None] * first)

  of_rows, of_columns = moments
  return (
    jnp.sum(of_rows * of_columns),
    less(into_rows, rows, of_columns),
    less(into_columns, columns, of_rows),
  )
