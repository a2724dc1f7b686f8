"""Sums over the rows of big matrices: one pass, a block at a time.

Features may be memory-mapped and larger than any device. A block goes to the
device, or is split over a mesh, and is summed there in float32; blocks are
added up on the host in float64, where a long sum doesn't stop growing.
"""

from collections.abc import Callable
from typing import Any

import jax
import numpy as np
from jax.sharding import Mesh
from jaxtyping import Shaped

from jssl.mesh import batch_sharding
from jssl.typing import PyTree

BLOCK_ROWS = 8192

Rows = Shaped[np.ndarray, "n ..."]


def sums(
  function: Callable[..., PyTree],
  *arrays: Rows,
  block_rows: int = BLOCK_ROWS,
  mesh: Mesh | None = None,
) -> Any:
  """Adds up what `function` gives of each block, in float64.

  Args:
    function: jitted, `(counted, *blocks) -> sums`, a pytree of arrays.
      `counted` is bool [b], False where a row only fills up the last block
      (with zeros).
    arrays: [n, ...], the same n in all; anything that NumPy can slice.
    block_rows: b, rows that go to the device at once; rounded up to what
      divides over the mesh.
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
  devices = mesh.size if mesh else 1
  rows = -(-min(block_rows, length) // devices) * devices
  total = None
  for start in range(0, length, rows):
    part = [np.asarray(array[start : start + rows]) for array in arrays]
    real = len(part[0])
    block = [np.arange(rows) < real]
    for p in part:
      block.append(np.pad(p, [(0, rows - real)] + [(0, 0)] * (p.ndim - 1)))
    if mesh:
      block = jax.device_put(block, batch_sharding(mesh))
    wide = jax.tree.map(lambda x: np.asarray(x, np.float64), function(*block))
    total = wide if total is None else jax.tree.map(np.add, total, wide)
  return total


def check_features(
  features: Shaped[np.ndarray, "n d"], *, name: str = "features", rows: int = 2
) -> None:
  """Checks a matrix of features before it is measured.

  Args:
    features: of one row an image.
    name: of the argument, for the message.
    rows: fewest that make sense.

  Raises:
    ValueError: it is not [n, d], or has fewer rows.
    TypeError: it is not of a floating dtype.
  """
  if features.ndim != 2 or not features.shape[1]:
    raise ValueError(f"{name} must be [n, d], not {features.shape}")
  if len(features) < rows:
    raise ValueError(
      f"{name} has {len(features)} rows; this measure needs at least {rows}"
    )
  if not np.issubdtype(features.dtype, np.floating):
    raise TypeError(f"{name} must be floating, not {features.dtype}")


def check_finite(
  total: PyTree,
  features: Shaped[np.ndarray, "n ..."],
  *,
  name: str = "features",
) -> None:
  """Raises ValueError, with their number, if sums met non-finite features."""
  if all(np.all(np.isfinite(leaf)) for leaf in jax.tree.leaves(total)):
    return
  axes = tuple(range(1, features.ndim))
  bad = sum(
    int(np.sum(~np.isfinite(features[i : i + BLOCK_ROWS]).all(axes)))
    for i in range(0, len(features), BLOCK_ROWS)
  )
  raise ValueError(
    f"{name}: {bad} of {len(features)} rows have values that are not finite"
    + ("" if bad else ", or so large that their squares overflow float32")
  )
