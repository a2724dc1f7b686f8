"""Attention to prototypes, tile by tile.

Rows and columns are padded to whole tiles.
"""

from typing import NamedTuple

import jax.numpy as jnp
from jaxtyping import Array, Float

from jssl.losses.ops import tiles
from jssl.losses.ops.matmul import cast_matmul, matmul
from jssl.losses.ops.prototypes.reference import Attention
from jssl.losses.ops.similarity.reference import Operand, similarities
from jssl.losses.ops.similarity.tiled import (
  GradientSum,
  RunningSum,
  Tile,
  empty_sum,
  zero_gradient,
)
from jssl.typing import PyTree


class Gradients(NamedTuple):
  """Accumulated gradients of rows, columns and values."""

  rows: GradientSum
  columns: GradientSum
  values: Float[Array, "k e"]


def forward(
  rows: Operand, columns: Operand, values: Float[Array, "k e"], *, tile: Tile
) -> Attention:
  """Computes `reference.attend`; every row has an unmasked column."""
  sums = empty_sum(rows)
  zeros = jnp.zeros_like(sums.sum[:, None] * values[:1].astype(sums.sum.dtype))

  def body(i: Array, j: Array, state: PyTree) -> PyTree:
    s = similarities(
      tiles.read(rows, i, tile[0]), tiles.read(columns, j, tile[1])
    )
    old, mean = tiles.read(state, i, tile[0])
    maximum = jnp.maximum(old.maximum, s.max(1))
    rescale = jnp.exp(old.maximum - maximum)
    weights = jnp.exp(s - maximum[:, None])
    new = RunningSum(maximum, old.sum * rescale + weights.sum(1))
    v = tiles.read(values, j, tile[1])
    mean = mean * rescale[:, None] + cast_matmul(weights, v)
    return tiles.write(state, (new, mean), i, tile[0])

  shape = len(rows.ids), len(columns.ids)
  sums, mean = tiles.loop(body, shape, tile, (sums, zeros))
  return Attention(sums.log(), mean / sums.sum[:, None])


def backward(
  rows: Operand,
  columns: Operand,
  values: Float[Array, "k e"],
  lse: Float[Array, "n"],
  g: Attention,
  *,
  tile: Tile,
) -> Gradients:
  """Computes the gradients from cotangents g and the log-sum-exps.

  <mean_i, g.mean_i> is already subtracted from `g.lse`, because adding a
  constant to all similarities of a row does not move its mean.
  """

  def body(i: Array, j: Array, state: Gradients) -> Gradients:
    r, c = tiles.read(rows, i, tile[0]), tiles.read(columns, j, tile[1])
    lse_i, g_i = tiles.read((lse, g), i, tile[0])
    v = tiles.read(values, j, tile[1])
    p = jnp.exp(similarities(r, c) - lse_i[:, None])
    # In the dtype of the values, for the matmul.
    g_mean = g_i.mean.astype(v.dtype)
    d = p * (g_i.lse[:, None] + matmul(g_mean, v.T))
    scaled = d * (r.scale[:, None] * c.scale[None])
    by_rows, by_columns, by_values = state
    new = tiles.read(by_rows, i, tile[0]).add(scaled, c.x, d.sum(1))
    by_rows = tiles.write(by_rows, new, i, tile[0])
    new = tiles.read(by_columns, j, tile[1]).add(scaled.T, r.x, d.sum(0))
    by_columns = tiles.write(by_columns, new, j, tile[1])
    sums = tiles.read(by_values, j, tile[1]) + cast_matmul(p.T, g_mean)
    by_values = tiles.write(by_values, sums, j, tile[1])
    return Gradients(by_rows, by_columns, by_values)

  zeros = jnp.zeros_like(values, rows.scale.dtype)
  init = Gradients(zero_gradient(rows), zero_gradient(columns), zeros)
  return tiles.loop(body, (len(rows.ids), len(columns.ids)), tile, init)
