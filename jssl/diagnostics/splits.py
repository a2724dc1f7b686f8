"""Losses split into a term that aligns views and one that separates images.

Huang et al., ICLR 2023, arXiv 2111.00743.
"""

from functools import partial
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jax.sharding import Mesh
from jaxtyping import Array, Bool, Float, Int

from jssl.diagnostics import blocks
from jssl.diagnostics.checks import check_views
from jssl.diagnostics.rows import float64_mean, product

# Tolerated error of the norm of a unit vector; bfloat16 rounds by 4e-3.
_UNIT_TOLERANCE = 1e-2


class LossSplit(NamedTuple):
  """The two terms of a loss.

  Attributes:
    alignment: L1, which aligns views.
    divergence: L2, which separates class centres.
  """

  alignment: float
  divergence: float


def _check_two_views(features: Float[np.ndarray, "n 2 d"]) -> None:
  check_views(features, "features")
  if features.shape[1] != 2:
    raise ValueError(f"features must be [n, 2, d], not {features.shape}")


@jax.jit
def _positives(
  counted: Bool[Array, "b"],
  first: Float[Array, "b d"],
  second: Float[Array, "b d"],
) -> tuple[Float[Array, ""], Int[Array, ""]]:
  first, second = first.astype(jnp.float32), second.astype(jnp.float32)

  def is_off(x: Float[Array, "b d"]) -> Bool[Array, "b"]:
    return jnp.abs(jnp.linalg.norm(x, axis=1) - 1) > _UNIT_TOLERANCE

  off_norm = (is_off(first) | is_off(second)) & counted
  return jnp.sum(first * second), off_norm.sum()


@jax.jit
def _log_sums(
  columns: Float[Array, "c d"],
  column_ids: Int[Array, "c"],
  counted: Bool[Array, "b"],
  first: Float[Array, "b d"],
  second: Float[Array, "b d"],
  ids: Int[Array, "b"],
) -> Float[Array, ""]:
  first, second = first.astype(jnp.float32), second.astype(jnp.float32)
  positive = jnp.sum(first * second, 1)
  negative = product(first, columns.T)
  others = (
    (ids[:, None] != column_ids[None])
    & (column_ids >= 0)[None]
    & counted[:, None]
  )
  return jnp.sum(
    jnp.where(others, jnp.logaddexp(positive[:, None], negative), 0)
  )


def info_nce_split(
  features: Float[np.ndarray, "n 2 d"], *, mesh: Mesh | None = None
) -> LossSplit:
  """Splits InfoNCE with one negative and temperature 1 into L1 + L2.

      L1 = L_align / 2 - 1 = -E f1 . f2,  L2 = E log(e^{f1.f2} + e^{f1.f-})

  f1 and f2 are the views of an image; f- runs over the second views of all
  other images. Collapse: -1 and 1 + log 2. Time O(n^2 d), in tiles.

  Example:
    >>> h = np.zeros((10, 2, 8))
    >>> h[..., 0] = 1  # collapsed
    >>> np.round(info_nce_split(h), 3)
    array([-1.   ,  1.693])

  Args:
    features: unit vectors (to 0.01) of two views of n images.
  """
  _check_two_views(features)
  first, second = features[:, 0], features[:, 1]
  n = len(features)
  ids = np.arange(n)
  rows = min(blocks.tile_side(), n)
  positives, off_norm = blocks.sums(
    _positives, first, second, block_rows=rows, mesh=mesh
  )
  if off_norm:
    raise ValueError(
      f"features must have norm 1, but {int(off_norm)} of {n} images have "
      f"views that are off by more than {_UNIT_TOLERANCE}; normalise them"
    )
  total = 0.0
  for start in range(0, n, rows):
    columns = blocks.put(second[start : start + rows], rows)
    column_ids = np.full(rows, -1)
    column_ids[: n - start] = ids[start : start + rows]
    total += blocks.sums(
      partial(_log_sums, columns, column_ids),
      first,
      second,
      ids,
      block_rows=rows,
      mesh=mesh,
    )
  return LossSplit(
    alignment=-float(positives) / n, divergence=float(total) / (n * (n - 1))
  )


@jax.jit
def _moments(
  shift: Float[Array, "2 d"],
  counted: Bool[Array, "b"],
  first: Float[Array, "b d"],
  second: Float[Array, "b d"],
) -> tuple[Float[Array, "2 d"], Float[Array, "2 d"], Float[Array, "d d"]]:
  x = jnp.stack([first, second], 1).astype(jnp.float32) - shift[None]
  x = jnp.where(counted[:, None, None], x, 0)
  products = product(x[:, 0].T, x[:, 1])
  return x.sum(0), jnp.sum(x * x, 0), products


def barlow_split(
  features: Float[np.ndarray, "n 2 d"], *, mesh: Mesh | None = None
) -> LossSplit:
  """Splits Barlow Twins, (1 - lambda) L1 + lambda L2, into its terms.

      L1 = sum_i (1 - F_ii)^2,  L2 = |F - I|_F^2,  F = E f1 f2^T

  Each dimension of each view is standardised over the rows (mean removed,
  biased deviation), as in the loss; a constant dimension is 0. For such
  features L_align = E |f1 - f2|^2 <= 2 sqrt(d L1). Collapse: d and d.

  Example:
    >>> barlow_split(np.ones((10, 2, 8)))  # collapsed
    LossSplit(alignment=8.0, divergence=8.0)

  Args:
    features: features of two views of n images.
  """
  _check_two_views(features)
  # A shift near the mean keeps float32 products from cancelling.
  shift = float64_mean(features[: blocks.BLOCK_ROWS]).astype(np.float32)
  total, squares, products = blocks.sums(
    partial(_moments, shift), features[:, 0], features[:, 1], mesh=mesh
  )
  n = len(features)
  mean = total / n
  deviation = np.sqrt(np.maximum(squares / n - mean**2, 0))
  inverse = np.divide(
    1, deviation, out=np.zeros_like(deviation), where=deviation > 0
  )
  covariance = products / n - np.outer(mean[0], mean[1])
  correlation = covariance * np.outer(inverse[0], inverse[1])
  return LossSplit(
    alignment=float(np.sum((1 - correlation.diagonal()) ** 2)),
    divergence=float(np.sum((correlation - np.eye(len(correlation))) ** 2)),
  )
