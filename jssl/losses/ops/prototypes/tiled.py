"""The same in tiles: rows and columns are whole numbers of tiles long."""

from typing import NamedTuple

import jax.numpy as jnp
from jaxtyping import Array, Float

from jssl.losses.ops import tiles
from jssl.losses.ops.matmul import product, weighted
from jssl.losses.ops.prototypes.reference import Attended
from jssl.losses.ops.similarity.reference import Side, similarities
from jssl.losses.ops.similarity.tiled import Flow, Sums, Tile, no_flow, no_sums
from jssl.typing import PyTree


class Ways(NamedTuple):
  """What flows back: into rows, columns and values."""

  rows: Flow
  columns: Flow
  values: Float[Array, "k e"]


def forward(
  rows: Side, columns: Side, values: Float[Array, "k e"], *, tile: Tile
) -> Attended:
  """Returns what `reference.attend` does.

  Args:
    rows: whole tiles.
    columns: the same; every row has one that counts.
    values: of the columns.
    tile: its rows and columns.
  """
  sums = no_sums(rows)
  nothing = jnp.zeros_like(
    sums.sum[:, None] * values[:1].astype(sums.sum.dtype)
  )

  def body(i: Array, j: Array, state: PyTree) -> PyTree:
    s = similarities(tiles.at(rows, i, tile[0]), tiles.at(columns, j, tile[1]))
    old, mean = tiles.at(state, i, tile[0])
    maximum = jnp.maximum(old.maximum, s.max(1))
    kept = jnp.exp(old.maximum - maximum)
    weights = jnp.exp(s - maximum[:, None])
    new = Sums(maximum, old.sum * kept + weights.sum(1))
    v = tiles.at(values, j, tile[1])
    mean = mean * kept[:, None] + weighted(weights, v)
    return tiles.put(state, (new, mean), i, tile[0])

  sums, mean = tiles.fold(
    body,
    len(rows.ids) // tile[0],
    len(columns.ids) // tile[1],
    (sums, nothing),
  )
  return Attended(sums.log(), mean / sums.sum[:, None])


def backward(
  rows: Side,
  columns: Side,
  values: Float[Array, "k e"],
  lse: Float[Array, "n"],
  g: Attended,
  *,
  tile: Tile,
) -> Ways:
  """Returns what flows back.

  Args:
    rows: whole tiles.
    columns: the same.
    values: of the columns.
    lse: of the rows.
    g: what is due to the rows. Its first part is that by the log-sum-exp, less
      <mean_i, g_i>: what moves with all weights of a row moves none of them.
    tile: its rows and columns.
  """

  def body(i: Array, j: Array, state: PyTree) -> PyTree:
    r, c = tiles.at(rows, i, tile[0]), tiles.at(columns, j, tile[1])
    lse_i, by_row = tiles.at((lse, g), i, tile[0])
    v = tiles.at(values, j, tile[1])
    p = jnp.exp(similarities(r, c) - lse_i[:, None])
    # What the mean is due goes into products as the values do.
    due = by_row.mean.astype(v.dtype)
    by_value = product(due, v.T)
    d = p * (by_row.lse[:, None] + by_value)
    scaled = d * (r.scale[:, None] * c.scale[None])
    to_rows, to_columns, to_values = state
    old = tiles.at(to_rows, i, tile[0])
    new = Flow(old.x + weighted(scaled, c.x), old.s + d.sum(1))
    to_rows = tiles.put(to_rows, new, i, tile[0])
    old = tiles.at(to_columns, j, tile[1])
    new = Flow(old.x + weighted(scaled.T, r.x), old.s + d.sum(0))
    to_columns = tiles.put(to_columns, new, j, tile[1])
    new = tiles.at(to_values, j, tile[1]) + weighted(p.T, due)
    return Ways(to_rows, to_columns, tiles.put(to_values, new, j, tile[1]))

  return tiles.fold(
    body,
    len(rows.ids) // tile[0],
    len(columns.ids) // tile[1],
    Ways(
      no_flow(rows),
      no_flow(columns),
      jnp.zeros_like(values, rows.scale.dtype),
    ),
  )
