"""The same in tiles: rows and columns are whole numbers of tiles long."""

from typing import NamedTuple

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float

from jssl.losses.ops import tiles
from jssl.losses.ops.matmul import weighted
from jssl.losses.ops.sigmoid.reference import Floats, Ids, losses, pairs
from jssl.typing import PyTree


class Flow(NamedTuple):
  """Gradients by a row, and its part of those by scale and bias."""

  x: Float[Array, "n d"]
  scale: Float[Array, "n"]
  bias: Float[Array, "n"]


class Sums(NamedTuple):
  """What is summed for each row. By row, since long sums of floats drift.

  Attributes:
    value: of the losses.
    flow: None where no gradient is wanted.
  """

  value: Float[Array, "n"]
  flow: Flow | None


def nothing(floats: Floats, *, gradients: bool) -> Sums:
  """Returns sums of zeros."""
  zero = jnp.zeros_like(floats.x[:, 0], floats.scale.dtype)
  if not gradients:
    return Sums(zero, None)
  return Sums(zero, Flow(jnp.zeros_like(floats.x, zero.dtype), zero, zero))


def add(
  floats: Floats,
  ids: Ids,
  sums: Sums,
  into_y: Float[Array, "m d"] | None,
  *,
  tile: tuple[int, int],
) -> tuple[Sums, Float[Array, "m d"] | None]:
  """Adds a block of pairs.

  Args:
    floats: whole tiles of rows and columns.
    ids: of them.
    sums: of each row, so far.
    into_y: gradient by the columns so far; None where it isn't wanted.
    tile: its rows and columns.
  """

  def body(i: Array, j: Array, state: PyTree) -> PyTree:
    sums, into_y = state
    x, row_ids = tiles.at((floats.x, ids.x), i, tile[0])
    y, column_ids = tiles.at((floats.y, ids.y), j, tile[1])
    block = floats._replace(x=x, y=y)
    products, label, logits = pairs(block, Ids(row_ids, column_ids))
    old = tiles.at(sums, i, tile[0])
    value, flow = old.value + losses(label, logits).sum(1), old.flow
    if flow is not None:
      d = -label * jax.nn.sigmoid(-logits)
      scaled = d * floats.scale
      flow = Flow(
        flow.x + weighted(scaled, y),
        flow.scale + jnp.sum(d * products, axis=1),
        flow.bias + d.sum(1),
      )
      to_y = tiles.at(into_y, j, tile[1]) + weighted(scaled.T, x)
      into_y = tiles.put(into_y, to_y, j, tile[1])
    return tiles.put(sums, Sums(value, flow), i, tile[0]), into_y

  return tiles.fold(
    body, len(ids.x) // tile[0], len(ids.y) // tile[1], (sums, into_y)
  )
