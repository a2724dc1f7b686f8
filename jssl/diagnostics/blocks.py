"""Sums over the rows of big matrices: one pass, a block at a time.

Features may be memory-mapped and larger than any device. A block goes to the
device, or is split over a mesh, and is summed there in float32; blocks are
added up on the host in float64, where a long sum doesn't stop growing.
"""

import math
from collections.abc import Callable
from typing import Any

import jax
import numpy as np
from jax.sharding import Mesh
from jaxtyping import Array, Float, Shaped

from jssl.mesh import batch_sharding, replicated
from jssl.typing import PyTree

# Rows of features that are on the device at once.
BLOCK_ROWS = 8192
# Entries of a matrix of pairs that are.
TILE = 2**22

Rows = Shaped[np.ndarray, "n ..."]


def tile_rows(columns: int) -> int:
  """Returns how many rows of so many columns a tile of pairs has."""
  return max(1, TILE // columns)


def tile_side() -> int:
  """Returns the length of a square tile of pairs."""
  return math.isqrt(TILE)


def block_images(x: Shaped[np.ndarray, "n ... d"]) -> int:
  """Returns how many images a block has: fewer of several views each."""
  return max(1, BLOCK_ROWS // math.prod(x.shape[1:-1]))


def rounded(rows: int, mesh: Mesh | None) -> int:
  """Returns a number of rows, up to what divides over the mesh."""
  devices = mesh.size if mesh else 1
  return -(-rows // devices) * devices


def filled(x: Rows, rows: int) -> Rows:
  """Returns x and rows of zeros behind it, so many in all."""
  return np.pad(x, [(0, rows - len(x))] + [(0, 0)] * (x.ndim - 1))


def split(arrays: PyTree, mesh: Mesh | None) -> PyTree:
  """Puts arrays onto the devices of a mesh, rows split over all of them."""
  return jax.device_put(arrays, batch_sharding(mesh) if mesh else None)


def everywhere(arrays: PyTree, mesh: Mesh | None) -> PyTree:
  """Puts arrays onto the devices of a mesh, whole on each."""
  return jax.device_put(arrays, replicated(mesh) if mesh else None)


def put(
  x: Rows, rows: int, mesh: Mesh | None = None
) -> Float[Array, "{rows} ..."]:
  """Puts rows onto the devices, in float32, filled up with zeros."""
  return split(filled(np.asarray(x, np.float32), rows), mesh)


def sums(
  function: Callable[..., PyTree],
  *arrays: Rows,
  block_rows: int | None = None,
  mesh: Mesh | None = None,
) -> Any:
  """Adds up what `function` gives of each block, in float64.

  Args:
    function: jitted, `(counted, *blocks) -> sums`, a pytree of arrays.
      `counted` is bool [b], False where a row only fills up the last block
      (with zeros).
    arrays: [n, ...], the same n in all; anything that NumPy can slice.
    block_rows: b, rows that go to the device at once, rounded up to what
      divides over the mesh; None: `block_images` of the first array.
    mesh: blocks are split over all its devices; None is one device.

  Returns:
    The pytree of `function` with float64 arrays.

  Raises:
    ValueError: the arrays have no row, or not the same number of rows.
  """
  lengths = {len(array) for array in arrays}
  if len(lengths) != 1 or not all(lengths):
    raise ValueError(
      "arrays must have the same number of rows, at least 1, not "
      f"{[array.shape for array in arrays]}"
    )
  (length,) = lengths
  wanted = block_images(arrays[0]) if block_rows is None else block_rows
  rows = rounded(min(wanted, length), mesh)
  total = None
  for start in range(0, length, rows):
    part = [np.asarray(array[start : start + rows]) for array in arrays]
    counted = np.arange(rows) < len(part[0])
    block = split([counted, *(filled(p, rows) for p in part)], mesh)
    wide = jax.tree.map(lambda x: np.asarray(x, np.float64), function(*block))
    total = wide if total is None else jax.tree.map(np.add, total, wide)
  return total
