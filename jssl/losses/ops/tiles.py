"""Cutting long arrays into tiles, and reading and writing those in a loop."""

from collections.abc import Callable, Sequence
from typing import TypeVar

import jax
import jax.numpy as jnp
from jaxtyping import Array

T = TypeVar("T")

# Rows of a tile are a multiple of what every machine's vectors hold.
_ALIGN = 8


def fitting(size: int, tile: int, *, align: int = _ALIGN) -> int:
  """Returns a tile of at most about `tile` rows that wastes few of `size`."""
  tiles = -(-size // tile)
  return -(-size // (tiles * align)) * align


def filled(tree: T, values: Sequence[float], *, tile: int, shards: int) -> T:
  """Returns arrays with rows appended, so that each shard is whole tiles.

  Args:
    tree: of arrays of as many rows.
    values: what those are filled with, for each array.
    tile: rows of a tile.
    shards: that the rows will be split into.
  """

  def fill(a: Array, value: float) -> Array:
    step = tile * shards
    missing = -len(a) % step
    widths = [(0, missing)] + [(0, 0)] * (a.ndim - 1)
    return jnp.pad(a, widths, constant_values=value) if missing else a

  leaves, structure = jax.tree.flatten(tree)
  filled = [fill(*pair) for pair in zip(leaves, values, strict=True)]
  return jax.tree.unflatten(structure, filled)


def at(tree: T, tile: Array, size: int) -> T:
  """Returns tile number `tile`, `size` rows of each array."""
  return jax.tree.map(
    lambda a: jax.lax.dynamic_slice_in_dim(a, tile * size, size), tree
  )


def put(tree: T, part: T, tile: Array, size: int) -> T:
  """Returns the arrays with tile number `tile` replaced."""
  return jax.tree.map(
    lambda a, p: jax.lax.dynamic_update_slice_in_dim(a, p, tile * size, 0),
    tree,
    part,
  )


def fold(
  body: Callable[[Array, Array, T], T], down: int, across: int, init: T
) -> T:
  """Folds `body(i, j, state)` over `down` times `across` tiles, row by row."""
  return jax.lax.fori_loop(
    0,
    down * across,
    lambda n, state: body(n // across, n % across, state),
    init,
  )
