"""Functions of all pairs of two sets of rows, in tiles on devices."""

from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax.sharding import Mesh
from jaxtyping import Array, Float, Shaped

from jssl.mesh import batch_sharding, replicated

# Pairs of rows in a tile.
TILE = 2**22


def product(
  a: Float[Array, "n d"], b: Float[Array, "d k"]
) -> Float[Array, "n k"]:
  """Returns `a @ b` at full float32 precision on every backend."""
  return jnp.matmul(a, b, precision=jax.lax.Precision.HIGHEST)


def map_tiles(
  function: Callable[..., Shaped[Array, "b ..."]],
  columns: tuple[Any, ...],
  *rows: Shaped[np.ndarray, "n ..."],
  row_pairs: int,
  mesh: Mesh | None = None,
) -> Shaped[np.ndarray, "n ..."]:
  """Applies `function(*columns, *block)` to blocks of rows.

  Each device of the mesh holds all columns and its share of each block.

  Args:
    function: jitted function with one result for each row of the block.
    columns: arrays that are compared with each row.
    rows: arrays to split into blocks.
    row_pairs: number of pairs of each row.
    mesh: mesh to split blocks over; None: the default device.

  Returns:
    The results of all rows.
  """
  devices = mesh.size if mesh else 1
  whole, split = (
    (replicated(mesh), batch_sharding(mesh)) if mesh else (None,) * 2
  )
  columns = jax.device_put(columns, whole)
  length = len(rows[0])
  size = min(max(1, TILE // row_pairs), length)
  size = -(-size // devices) * devices
  results = []
  for start in range(0, length, size):
    block = [x[start : start + size] for x in rows]
    padding = size - len(block[0])
    block = [np.pad(x, [(0, padding)] + [(0, 0)] * (x.ndim - 1)) for x in block]
    results.append(
      np.asarray(function(*columns, *jax.device_put(block, split)))
    )
  return np.concatenate(results)[:length]
