"""Gram matrices, block by block on the device or split over a mesh.

Blocks are computed in float64 on the device too, within `jax.enable_x64`, which
changes nothing outside of it: K is solved with, and float32 moved the smallest
eigenvalue of kernels of 1,000 points by 4e-8 to 1e-5 tr(K) / N (measured), as
much as a jitter does. CPUs and GPUs have float64 in hardware; a TPU emulates
it, slowly.
"""

import functools
import math

import jax
import numpy as np
from jax.sharding import Mesh
from jaxtyping import Array, Float

from jssl.kernel_regime.dense import Kernel
from jssl.kernel_regime.memory import check_block, check_square
from jssl.mesh import batch_sharding, replicated

Points = Float[np.ndarray, "n ..."]

# Numbers of a block on the way, of which some copies live at the same time.
_BLOCK_NUMBERS = 2**22
_MOST_ROWS = 1024


@functools.partial(jax.jit, static_argnums=0)
def _block(
  kernel: Kernel, x: Float[Array, "n ..."], y: Float[Array, "m ..."]
) -> Float[Array, "n m"]:
  return kernel(x, y)


def _check_points(name: str, x: Points) -> None:
  if x.ndim < 2 or 0 in x.shape:
    raise ValueError(
      f"{name} must be points [n, ...], n > 0, each an array, not {x.shape}"
    )
  if not np.issubdtype(x.dtype, np.floating):
    raise TypeError(f"{name} must be floating, not {x.dtype}")
  finite = np.isfinite(x).all(axis=tuple(range(1, x.ndim)))
  if not finite.all():
    raise ValueError(
      f"{name}: {int(np.sum(~finite))} of {len(x)} points have values that are "
      "not finite"
    )


def _default_rows(kernel: Kernel, shape: tuple[int, ...], devices: int) -> int:
  pairs = _BLOCK_NUMBERS / kernel.pair_size(shape)
  return max(devices, min(int(math.sqrt(pairs)), _MOST_ROWS))


def gram(
  kernel: Kernel,
  x: Points,
  y: Points | None = None,
  *,
  block_rows: int | None = None,
  mesh: Mesh | None = None,
  memory_limit_gib: float | None = None,
) -> Float[np.ndarray, "n m"]:
  """Returns k(x_i, y_j) in float64, computed a block of pairs at a time.

  Without `y` it is k(x_i, x_j), exactly symmetric: blocks below the diagonal
  are not computed. Memory: `gram_gib(n, m)` on the host, and a few times
  block_rows^2 kernel.pair_size(shape) float64 numbers on the devices.

  Args:
    kernel: positive semidefinite function of pairs.
    x: points, [n, ...].
    y: points, [m, ...]; None stands for x.
    block_rows: rows and columns of a block, rounded up to what divides over the
      mesh; None keeps each array of a block, of which there are a few, at
      32 MiB or less.
    mesh: of one process; the rows of a block are split over all its devices.
    memory_limit_gib: for the result; None takes 80% of what is available.

  Returns:
    [n, m].

  Raises:
    ValueError: points are no arrays of one shape, or not finite, or those of x
      all identical where there is no y, or the result doesn't fit (says how
      many points would), or the kernel gave a value that isn't finite.
    TypeError: points are not of a floating dtype.
  """
  symmetric = y is None
  other = x if y is None else y
  _check_points("x", x)
  _check_points("y", other)
  if x.shape[1:] != other.shape[1:]:
    raise ValueError(
      f"points of x, {x.shape[1:]}, and of y, {other.shape[1:]}, must be of "
      "one shape"
    )
  if block_rows is not None and block_rows < 1:
    raise ValueError(f"block_rows={block_rows} must be at least 1")
  if symmetric:
    if len(x) > 1 and np.all(x == x[:1]):
      raise ValueError(
        f"all {len(x)} points of x are identical: their Gram matrix says "
        "nothing of them; check the images, and that views are random"
      )
    check_square(
      len(x),
      matrices=1,
      what="a Gram matrix",
      memory_limit_gib=memory_limit_gib,
    )
  else:
    check_block(
      len(x),
      len(other),
      what="a Gram matrix",
      memory_limit_gib=memory_limit_gib,
    )
  devices = mesh.size if mesh else 1
  rows = block_rows or _default_rows(kernel, x.shape[1:], devices)
  rows = -(-min(rows, max(len(x), len(other))) // devices) * devices
  k = np.empty((len(x), len(other)))
  with jax.enable_x64(True):

    def placed(points: Points, start: int, split: bool) -> Array:
      block = np.asarray(points[start : start + rows], np.float64)
      # Filled up with the last point: one of zeros could be singular.
      fill = [(0, rows - len(block))] + [(0, 0)] * (block.ndim - 1)
      block = np.pad(block, fill, mode="edge")
      if not mesh:
        return jax.device_put(block)
      sharding = batch_sharding(mesh) if split else replicated(mesh)
      return jax.device_put(block, sharding)

    for i in range(0, len(x), rows):
      first = placed(x, i, split=True)
      for j in range(i if symmetric else 0, len(other), rows):
        values = np.asarray(_block(kernel, first, placed(other, j, False)))
        values = values[: len(x) - i, : len(other) - j]
        if symmetric and i == j:
          values = np.triu(values) + np.triu(values, 1).T
        k[i : i + rows, j : j + rows] = values
        if symmetric and i != j:
          k[j : j + rows, i : i + rows] = values.T
  # One sum tells: it is finite if all values are, unless they overflow.
  if not math.isfinite(np.sum(k)):
    raise ValueError(
      f"{kernel} gave {int(np.sum(~np.isfinite(k)))} values of {k.size} that "
      "are not finite: points are too large; scale them"
    )
  return k
