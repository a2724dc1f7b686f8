"""Sum of sigmoid losses, tile by tile; arrays are padded to whole tiles."""

from typing import NamedTuple

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float

from jssl.losses.ops import tiles
from jssl.losses.ops.matmul import cast_matmul
from jssl.losses.ops.sigmoid.reference import Ids, Operands, losses, pairs
from jssl.typing import PyTree


class RowGradients(NamedTuple):
  """Gradients by the rows, and each row's share of those by scale and bias."""

  x: Float[Array, "n d"]
  scale: Float[Array, "n"]
  bias: Float[Array, "n"]


class Sums(NamedTuple):
  """Sums of each row: one long sum over all pairs would lose digits.

  Attributes:
    value: sum of losses.
    gradients: sums of gradients; None if not needed.
  """

  value: Float[Array, "n"]
  gradients: RowGradients | None


def zero_sums(operands: Operands, *, gradients: bool) -> Sums:
  """Returns sums of zeros."""
  zero = jnp.zeros_like(operands.x[:, 0], operands.scale.dtype)
  if not gradients:
    return Sums(zero, None)
  by_x = jnp.zeros_like(operands.x, zero.dtype)
  return Sums(zero, RowGradients(by_x, zero, zero))


def add_block(
  operands: Operands,
  ids: Ids,
  sums: Sums,
  y_gradient: Float[Array, "m d"] | None,
  *,
  tile: tuple[int, int],
) -> tuple[Sums, Float[Array, "m d"] | None]:
  """Adds a block of pairs to the sums of each row, and to the y gradient."""

  def body(i: Array, j: Array, state: PyTree) -> PyTree:
    sums, by_y = state
    x, row_ids = tiles.read((operands.x, ids.x), i, tile[0])
    y, column_ids = tiles.read((operands.y, ids.y), j, tile[1])
    block = operands._replace(x=x, y=y)
    products, label, logits = pairs(block, Ids(row_ids, column_ids))
    value, gradients = tiles.read(sums, i, tile[0])
    value = value + losses(label, logits).sum(1)
    if gradients is not None:
      d = -label * jax.nn.sigmoid(-logits)
      scaled = d * operands.scale
      gradients = RowGradients(
        gradients.x + cast_matmul(scaled, y),
        gradients.scale + jnp.sum(d * products, axis=1),
        gradients.bias + d.sum(1),
      )
      new = tiles.read(by_y, j, tile[1]) + cast_matmul(scaled.T, x)
      by_y = tiles.write(by_y, new, j, tile[1])
    return tiles.write(sums, Sums(value, gradients), i, tile[0]), by_y

  shape = len(ids.x), len(ids.y)
  return tiles.loop(body, shape, tile, (sums, y_gradient))
