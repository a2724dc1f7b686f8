"""Gram matrices, computed in blocks on one device or over a mesh.

Blocks are float64 on the device too: in float32 the smallest eigenvalue of
kernels of 1,000 points moved by 4e-8 to 1e-5 tr(K) / N, as much as the jitter.
"""

import functools
import math

import jax
import numpy as np
from jax.sharding import Mesh
from jaxtyping import Array, Float

from jssl.kernel_regime.dense import Kernel
from jssl.kernel_regime.memory import check_memory, gram_gib
from jssl.mesh import batch_sharding, replicated

Points = Float[np.ndarray, "n ..."]

# Numbers in an intermediate array of a block, and its maximal number of rows.
_BLOCK_NUMBERS = 2**22
_MAX_ROWS = 1024


@functools.partial(jax.jit, static_argnums=0)
def _block(
  kernel: Kernel, x: Float[Array, "n ..."], y: Float[Array, "m ..."]
) -> Float[Array, "n m"]:
  return kernel(x, y)


def _check_points(name: str, x: Points) -> None:
  if x.ndim < 2 or 0 in x.shape:
    raise ValueError(
      f"{name} must be points [n, ...] with n > 0; got {x.shape}."
    )
  if not np.issubdtype(x.dtype, np.floating):
    raise TypeError(f"{name} must be floating; got {x.dtype}.")
  finite = np.isfinite(x).all(axis=tuple(range(1, x.ndim)))
  if not finite.all():
    raise ValueError(
      f"{name}: {np.sum(~finite)} of {len(x)} points have non-finite values."
    )


def gram(
  kernel: Kernel,
  x: Points,
  y: Float[np.ndarray, "m ..."] | None = None,
  *,
  block_rows: int | None = None,
  mesh: Mesh | None = None,
) -> Float[np.ndarray, "n m"]:
  """Gram matrix k(x_i, y_j) in float64, [n, m].

  Without `y` it is k(x_i, x_j), exactly symmetric: blocks below the diagonal
  are mirrored. Memory: `gram_gib(n, m)` on the host, and a few arrays of
  block_rows^2 kernel.pair_size(shape) float64 numbers on the devices.

  Args:
    kernel: positive semidefinite function of pairs.
    x: [n, ...] points.
    y: [m, ...] points; None is x.
    block_rows: rows and columns of a block, rounded up to a multiple of the
      mesh size; None limits each array of a block to 32 MiB.
    mesh: mesh of one process; the rows of a block are split over its devices.

  Raises:
    ValueError: if points differ in shape or are not finite, all points of x are
      identical and there is no y, the result exceeds the memory limit, or the
      kernel returns non-finite values.
    TypeError: if points are not floating.
  """
  symmetric = y is None
  other = x if y is None else y
  _check_points("x", x)
  _check_points("y", other)
  if x.shape[1:] != other.shape[1:]:
    raise ValueError(
      f"Points of x, {x.shape[1:]}, and of y, {other.shape[1:]}, must be of "
      "one shape."
    )
  if block_rows is not None and block_rows < 1:
    raise ValueError(f"block_rows={block_rows} must be at least 1.")
  if symmetric and len(x) > 1 and np.all(x == x[:1]):
    raise ValueError(
      f"All {len(x)} points of x are identical; check the images, and that "
      "views are random."
    )
  size = f"The Gram matrix of {len(x)} x {len(other)} points"
  check_memory(size, gram_gib(len(x), len(other)))
  devices = mesh.size if mesh else 1
  pairs = _BLOCK_NUMBERS / kernel.pair_size(x.shape[1:])
  rows = block_rows or max(devices, min(int(math.sqrt(pairs)), _MAX_ROWS))
  rows = -(-min(rows, max(len(x), len(other))) // devices) * devices
  k = np.empty((len(x), len(other)))
  with jax.enable_x64(True):

    def device_block(points: Points, start: int, split: bool) -> Array:
      block = np.asarray(points[start : start + rows], np.float64)
      # All blocks have one shape. Padding repeats the last point, since the
      # kernel of a zero vector can be singular.
      fill = [(0, rows - len(block))] + [(0, 0)] * (block.ndim - 1)
      block = np.pad(block, fill, mode="edge")
      if not mesh:
        return jax.device_put(block)
      sharding = batch_sharding(mesh) if split else replicated(mesh)
      return jax.device_put(block, sharding)

    # No communication: each device computes its rows of x against all of y.
    for i in range(0, len(x), rows):
      first = device_block(x, i, split=True)
      for j in range(i if symmetric else 0, len(other), rows):
        second = device_block(other, j, split=False)
        values = np.asarray(_block(kernel, first, second))
        values = values[: len(x) - i, : len(other) - j]
        if symmetric and i == j:
          values = np.triu(values) + np.triu(values, 1).T
        k[i : i + rows, j : j + rows] = values
        if symmetric and i != j:
          k[j : j + rows, i : i + rows] = values.T
  # The sum is finite if all values are, unless it overflows.
  if not math.isfinite(np.sum(k)):
    raise ValueError(
      f"{kernel} returned {np.sum(~np.isfinite(k))} non-finite values of "
      f"{k.size}: points are too large; scale them."
    )
  return k
