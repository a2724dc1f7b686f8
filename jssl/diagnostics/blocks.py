"""Sums over the rows of large matrices, one block of rows at a time.

Each block is summed on the device, or over a mesh, in float32; the host adds up
the blocks in float64, so that long sums do not stop growing.
"""

import math
from collections.abc import Callable, Iterator
from typing import Any

import jax
import numpy as np
from jax.sharding import Mesh
from jaxtyping import Array, Float, Shaped

from jssl.mesh import batch_sharding, replicated
from jssl.typing import PyTree

# Rows of features on the device at once.
BLOCK_ROWS = 8192
# Entries of a tile of the matrix of all pairs of rows.
TILE = 2**22

Rows = Shaped[np.ndarray, "n ..."]


def tile_rows(columns: int) -> int:
  """Returns the number of rows of a tile with `columns` columns."""
  return max(1, TILE // columns)


def tile_side() -> int:
  """Returns the number of rows of a square tile."""
  return math.isqrt(TILE)


def block_images(x: Rows) -> int:
  """Returns the number of images per block; a view counts as one row."""
  return max(1, BLOCK_ROWS // math.prod(x.shape[1:-1]))


def round_up(rows: int, mesh: Mesh | None) -> int:
  """Rounds a number of rows up to a multiple of the mesh size."""
  devices = mesh.size if mesh else 1
  return -(-rows // devices) * devices


def pad(x: Rows, rows: int) -> Shaped[np.ndarray, "{rows} ..."]:
  """Appends rows of zeros up to a total of `rows`."""
  return np.pad(x, [(0, rows - len(x))] + [(0, 0)] * (x.ndim - 1))


def shard(arrays: PyTree, mesh: Mesh | None) -> PyTree:
  """Puts arrays onto the device, or splits their rows over a mesh."""
  return jax.device_put(arrays, batch_sharding(mesh) if mesh else None)


def replicate(arrays: PyTree, mesh: Mesh | None) -> PyTree:
  """Puts whole arrays onto the device, or onto each device of a mesh."""
  return jax.device_put(arrays, replicated(mesh) if mesh else None)


def put(
  x: Rows, rows: int, mesh: Mesh | None = None
) -> Float[Array, "{rows} ..."]:
  """Puts rows onto the devices in float32, padded with zeros to `rows`."""
  return shard(pad(np.asarray(x, np.float32), rows), mesh)


def device_blocks(
  *arrays: Rows, block_rows: int | None = None, mesh: Mesh | None = None
) -> Iterator[list[Shaped[Array, "b ..."]]]:
  """Yields blocks of rows of all arrays [n, ...], split over a mesh.

  The first array of each block, bool [b], is False for the zeros that pad the
  last block. `block_rows` is rounded up to a multiple of the mesh size; None is
  `block_images` of the first array.
  """
  lengths = {len(array) for array in arrays}
  if len(lengths) != 1 or not all(lengths):
    raise ValueError(
      "arrays must have the same number of rows, at least 1, not "
      f"{[array.shape for array in arrays]}"
    )
  (length,) = lengths
  wanted = block_images(arrays[0]) if block_rows is None else block_rows
  rows = round_up(min(wanted, length), mesh)
  for start in range(0, length, rows):
    part = [np.asarray(array[start : start + rows]) for array in arrays]
    counted = np.arange(rows) < len(part[0])
    yield shard([counted, *(pad(p, rows) for p in part)], mesh)


def sums(
  function: Callable[..., PyTree],
  *arrays: Rows,
  name: str = "features",
  block_rows: int | None = None,
  mesh: Mesh | None = None,
) -> Any:
  """Adds up the pytrees `function(*block)` over `device_blocks`, in float64.

  Raises ValueError, with the argument `name`, if a sum is not finite.
  """
  total = None
  for block in device_blocks(*arrays, block_rows=block_rows, mesh=mesh):
    wide = jax.tree.map(lambda x: np.asarray(x, np.float64), function(*block))
    total = wide if total is None else jax.tree.map(np.add, total, wide)
  check_finite(total, *arrays, name=name)
  return total


def check_finite(total: PyTree, *arrays: Rows, name: str = "features") -> None:
  """Raises ValueError with the number of bad rows if a sum is not finite."""
  if all(np.all(np.isfinite(leaf)) for leaf in jax.tree.leaves(total)):
    return
  length, bad = len(arrays[0]), 0
  for start in range(0, length, BLOCK_ROWS):
    finite = [
      np.isfinite(x[start : start + BLOCK_ROWS]).all(tuple(range(1, x.ndim)))
      for x in arrays
    ]
    bad += int(np.sum(~np.all(finite, axis=0)))
  if not bad:
    raise ValueError(
      f"{name}: squares of {length} rows overflow float32, though all values "
      "are finite; scale the values down"
    )
  raise ValueError(f"{name}: {bad} of {length} rows have non-finite values")
