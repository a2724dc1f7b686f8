"""The same in tiles: never more of the matrix than one of them.

Rows and columns are whole numbers of tiles long. What is accumulated is passed
in and returned, so that the mesh version calls the same functions on every
block that comes by.
"""

from typing import NamedTuple, Protocol

import jax.numpy as jnp
from jaxtyping import Array, Float

from jssl.losses.ops import tiles
from jssl.losses.ops.matmul import weighted
from jssl.losses.ops.similarity.reference import (
  MASKED,
  Floats,
  Side,
  similarities,
)
from jssl.typing import PyTree

Tile = tuple[int, int]


class Sums(NamedTuple):
  """A log-sum-exp under way: the sum is that of exp(S - maximum)."""

  maximum: Float[Array, "n"]
  sum: Float[Array, "n"]

  def log(self) -> Float[Array, "n"]:
    """Returns the log-sum-exp; `MASKED` where nothing was counted."""
    seen = self.maximum > MASKED
    lse = self.maximum + jnp.log(jnp.where(seen, self.sum, 1))
    return jnp.where(seen, lse, MASKED)


class Flow(NamedTuple):
  """What flows back into a side, summed over the pairs of each row.

  With D_ij the gradient by S_ij: `x` is sum_j D_ij r_i c_j y_j, and `s` is
  sum_j D_ij.
  """

  x: Float[Array, "n d"]
  s: Float[Array, "n"]


class Weights(NamedTuple):
  """What turns S into D: D_ij = sum over both sides of g exp(S_ij - lse)."""

  lse: Float[Array, "n"]
  g: Float[Array, "n"]


class Block(Protocol):
  """Who computes a block: this module, or the one of a kernel."""

  def add(
    self,
    rows: Side,
    columns: Side,
    row_sums: Sums,
    column_sums: Sums | None,
    *,
    tile: Tile,
  ) -> tuple[Sums, Sums | None]:
    """See `add`."""

  def flow(
    self,
    rows: Side,
    columns: Side,
    row_weights: Weights,
    column_weights: Weights | None,
    into_rows: Flow,
    into_columns: Flow | None,
    *,
    tile: Tile,
  ) -> tuple[Flow, Flow | None]:
    """See `flow`."""


def gradients(side: Side, flow: Flow) -> Floats:
  """Returns the gradients of a side from all that flows into it."""
  inner = jnp.sum(side.x.astype(flow.x.dtype) * flow.x, axis=1)
  # Where the scale is 0 so are the features, and the product.
  scale = jnp.where(side.scale == 0, 1, side.scale)
  return Floats(flow.x.astype(side.x.dtype), inner / scale, flow.s)


def no_sums(side: Side) -> Sums:
  """Returns the log-sum-exp of nothing, for each row of a side."""
  # Derived from the side, so that it varies over the devices as that does.
  zero = jnp.zeros_like(side.scale)
  return Sums(zero + MASKED, zero)


def no_flow(side: Side) -> Flow:
  """Returns zeros, for each row of a side."""
  zero = jnp.zeros_like(side.scale)
  return Flow(jnp.zeros_like(side.x, zero.dtype), zero)


def _add(sums: Sums, s: Float[Array, "n m"], axis: int) -> Sums:
  maximum = jnp.maximum(sums.maximum, s.max(axis))
  shifted = jnp.exp(s - jnp.expand_dims(maximum, axis))
  total = sums.sum * jnp.exp(sums.maximum - maximum) + shifted.sum(axis)
  return Sums(maximum, total)


def add(
  rows: Side,
  columns: Side,
  row_sums: Sums,
  column_sums: Sums | None,
  *,
  tile: Tile,
) -> tuple[Sums, Sums | None]:
  """Adds a block of the matrix to the sums.

  Args:
    rows: whole tiles.
    columns: the same.
    row_sums: so far.
    column_sums: so far; None where they aren't wanted.
    tile: its rows and columns.
  """

  def body(i: Array, j: Array, state: PyTree) -> PyTree:
    s = similarities(tiles.at(rows, i, tile[0]), tiles.at(columns, j, tile[1]))
    by_row, by_column = state
    new = _add(tiles.at(by_row, i, tile[0]), s, 1)
    by_row = tiles.put(by_row, new, i, tile[0])
    if by_column is not None:
      new = _add(tiles.at(by_column, j, tile[1]), s, 0)
      by_column = tiles.put(by_column, new, j, tile[1])
    return by_row, by_column

  return tiles.fold(
    body,
    len(rows.ids) // tile[0],
    len(columns.ids) // tile[1],
    (row_sums, column_sums),
  )


def flow(
  rows: Side,
  columns: Side,
  row_weights: Weights,
  column_weights: Weights | None,
  into_rows: Flow,
  into_columns: Flow | None,
  *,
  tile: Tile,
) -> tuple[Flow, Flow | None]:
  """Adds what a block of the matrix sends back to its sides.

  Args:
    rows: whole tiles.
    columns: the same.
    row_weights: of the rows' log-sum-exp.
    column_weights: of the columns'; None where nothing depends on it.
    into_rows: so far.
    into_columns: so far; None where it isn't wanted.
    tile: its rows and columns.
  """

  def body(i: Array, j: Array, state: PyTree) -> PyTree:
    r, c = tiles.at(rows, i, tile[0]), tiles.at(columns, j, tile[1])
    s = similarities(r, c)
    lse, g = tiles.at(row_weights, i, tile[0])
    d = jnp.exp(s - lse[:, None]) * g[:, None]
    if column_weights is not None:
      lse, g = tiles.at(column_weights, j, tile[1])
      d = d + jnp.exp(s - lse[None]) * g[None]
    scaled = d * (r.scale[:, None] * c.scale[None])

    def onto(flow: Flow, weights: Array, x: Array, s: Array) -> Flow:
      return Flow(flow.x + weighted(weights, x), flow.s + s)

    to_rows, to_columns = state
    new = onto(tiles.at(to_rows, i, tile[0]), scaled, c.x, d.sum(1))
    to_rows = tiles.put(to_rows, new, i, tile[0])
    if to_columns is not None:
      new = onto(tiles.at(to_columns, j, tile[1]), scaled.T, r.x, d.sum(0))
      to_columns = tiles.put(to_columns, new, j, tile[1])
    return to_rows, to_columns

  return tiles.fold(
    body,
    len(rows.ids) // tile[0],
    len(columns.ids) // tile[1],
    (into_rows, into_columns),
  )
