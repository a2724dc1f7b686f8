"""The same in tiles. Positions are those of rows in the whole array."""

from typing import NamedTuple

import jax.numpy as jnp
from jaxtyping import Array, Float, Int

from jssl.losses.ops import tiles
from jssl.losses.ops.similarity.reference import MASKED, Side, similarities


class Best(NamedTuple):
  """The most similar row that was seen, and where it is."""

  similarity: Float[Array, "n"]
  position: Int[Array, "n"]


def none_yet(rows: Side) -> Best:
  """Returns what nothing was seen for."""
  return Best(jnp.full_like(rows.scale, MASKED), jnp.zeros_like(rows.ids))


def add(
  rows: Side,
  columns: Side,
  positions: Int[Array, "m"],
  best: Best,
  *,
  tile: int,
) -> Best:
  """Looks at a block of the matrix.

  Args:
    rows: whole tiles.
    columns: the same.
    positions: of the columns.
    best: so far.
    tile: its rows, and its columns.
  """

  def body(i: Array, j: Array, best: Best) -> Best:
    s = similarities(tiles.at(rows, i, tile), tiles.at(columns, j, tile))
    old = tiles.at(best, i, tile)
    nearest = tiles.at(positions, j, tile)[jnp.argmax(s, axis=1)]
    closer = s.max(1) > old.similarity
    new = Best(
      jnp.maximum(old.similarity, s.max(1)),
      jnp.where(closer, nearest, old.position),
    )
    return tiles.put(best, new, i, tile)

  across = len(columns.ids) // tile
  return tiles.fold(body, len(rows.ids) // tile, across, best)


def _within(
  index: Int[Array, "n"], positions: Int[Array, "m"]
) -> tuple[Array, Array]:
  """Returns where rows are in a block, and whether they are."""
  at = index - positions[0]
  inside = (at >= 0) & (at < len(positions))
  return jnp.where(inside, at, 0), inside[:, None]


def take(
  x: Float[Array, "m d"],
  positions: Int[Array, "m"],
  index: Int[Array, "n"],
  taken: Float[Array, "n d"],
) -> Float[Array, "n d"]:
  """Returns `taken` with the rows that are in this block."""
  at, inside = _within(index, positions)
  return jnp.where(inside, x[at], taken)


def give(
  into: Float[Array, "m d"],
  positions: Int[Array, "m"],
  index: Int[Array, "n"],
  g: Float[Array, "n d"],
) -> Float[Array, "m d"]:
  """Adds to the rows of a block what is due to them: the transpose."""
  at, inside = _within(index, positions)
  return into.at[at].add(jnp.where(inside, g, 0).astype(into.dtype))
