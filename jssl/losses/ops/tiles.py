"""Tiles of long arrays: sizes, padding, reads and writes in a loop."""

from collections.abc import Callable
from typing import TypeVar

import jax
import jax.numpy as jnp
from jaxtyping import Array

T = TypeVar("T")

# Tiles have a multiple of this number of rows: the vector width of any machine.
_ALIGN = 8

# Id of padding rows.
PAD_ID = -1


def tile_size(rows: int, maximum: int, *, align: int = _ALIGN) -> int:
  """Returns a tile size near `maximum` at most, with little padding."""
  count = -(-rows // maximum)
  return -(-rows // (count * align)) * align


def pad(tree: T, *, multiple: int) -> T:
  """Appends rows to all arrays, up to a multiple of a number of rows.

  Features are padded with 0, ids (integers) with `PAD_ID`.
  """

  def pad_one(a: Array) -> Array:
    missing = -len(a) % multiple
    widths = [(0, missing)] + [(0, 0)] * (a.ndim - 1)
    value = PAD_ID if jnp.issubdtype(a.dtype, jnp.integer) else 0
    return jnp.pad(a, widths, constant_values=value) if missing else a

  return jax.tree.map(pad_one, tree)


def read(tree: T, tile: Array, size: int) -> T:
  """Returns tile number `tile`, `size` rows of each array."""
  return jax.tree.map(
    lambda a: jax.lax.dynamic_slice_in_dim(a, tile * size, size), tree
  )


def write(tree: T, part: T, tile: Array, size: int) -> T:
  """Returns the arrays with tile number `tile` replaced."""
  return jax.tree.map(
    lambda a, p: jax.lax.dynamic_update_slice_in_dim(a, p, tile * size, 0),
    tree,
    part,
  )


def loop(
  body: Callable[[Array, Array, T], T],
  shape: tuple[int, int],
  tile: tuple[int, int],
  init: T,
) -> T:
  """Folds `body(i, j, state)` over all tiles of a matrix, row by row.

  Args:
    body: function of a tile's row and column number, and of the state.
    shape: shape of the matrix, whole tiles.
    tile: rows and columns of a tile.
    init: initial state.
  """
  down, across = shape[0] // tile[0], shape[1] // tile[1]
  return jax.lax.fori_loop(
    0,
    down * across,
    lambda n, state: body(n // across, n % across, state),
    init,
  )
