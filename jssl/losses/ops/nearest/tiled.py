"""Nearest rows, tile by tile; positions are those in the global array."""

from typing import NamedTuple

import jax.numpy as jnp
from jaxtyping import Array, Float, Int

from jssl.losses.ops import tiles
from jssl.losses.ops.similarity.reference import MASKED, Operand, similarities


class Best(NamedTuple):
  """The most similar row so far, and its position."""

  similarity: Float[Array, "n"]
  position: Int[Array, "n"]


def no_best(rows: Operand) -> Best:
  """Returns the initial state of `argmax_block`."""
  return Best(jnp.full_like(rows.scale, MASKED), jnp.zeros_like(rows.ids))


def argmax_block(
  rows: Operand,
  columns: Operand,
  positions: Int[Array, "m"],
  best: Best,
  *,
  tile: tuple[int, int],
) -> Best:
  """Updates the best matches with a block of columns and their positions."""

  def body(i: Array, j: Array, best: Best) -> Best:
    s = similarities(
      tiles.read(rows, i, tile[0]), tiles.read(columns, j, tile[1])
    )
    old = tiles.read(best, i, tile[0])
    nearest = tiles.read(positions, j, tile[1])[jnp.argmax(s, axis=1)]
    closer = s.max(1) > old.similarity
    new = Best(
      jnp.maximum(old.similarity, s.max(1)),
      jnp.where(closer, nearest, old.position),
    )
    return tiles.write(best, new, i, tile[0])

  return tiles.loop(body, (len(rows.ids), len(columns.ids)), tile, best)


def _local_index(
  index: Int[Array, "n"], positions: Int[Array, "m"]
) -> tuple[Array, Array]:
  """Returns indices into a block, and True where the row is in the block."""
  local = index - positions[0]
  inside = (local >= 0) & (local < len(positions))
  return jnp.where(inside, local, 0), inside[:, None]


def take_block(
  x: Float[Array, "m d"],
  positions: Int[Array, "m"],
  index: Int[Array, "n"],
  taken: Float[Array, "n d"],
) -> Float[Array, "n d"]:
  """Fills in the rows of `taken` that are in the block."""
  local, inside = _local_index(index, positions)
  return jnp.where(inside, x[local], taken)


def scatter_block(
  total: Float[Array, "m d"],
  positions: Int[Array, "m"],
  index: Int[Array, "n"],
  g: Float[Array, "n d"],
) -> Float[Array, "m d"]:
  """Adds cotangents to the rows of a block: the transpose of `take_block`."""
  local, inside = _local_index(index, positions)
  return total.at[local].add(jnp.where(inside, g, 0).astype(total.dtype))
