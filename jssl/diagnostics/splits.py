"""Losses split into a term that aligns views and one that separates images.

Huang et al., ICLR 2023, arXiv 2111.00743.
"""

from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jax.sharding import Mesh
from jaxtyping import Array, Float, Int

from jssl.diagnostics import pairs
from jssl.diagnostics.checks import check_views
from jssl.diagnostics.rows import float64_blocks

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
def _log_sums(
  columns: Float[Array, "n d"],
  first: Float[Array, "b d"],
  second: Float[Array, "b d"],
  ids: Int[Array, "b"],
) -> Float[Array, "b"]:
  """Returns sum_{j != i} log(e^{f1.f2} + e^{f1.f-}) of each row i."""
  positive = jnp.sum(first * second, 1)
  negative = pairs.product(first, columns.T)
  others = ids[:, None] != jnp.arange(len(columns))[None]
  each = jnp.logaddexp(positive[:, None], negative)
  return jnp.sum(jnp.where(others, each, 0), 1)


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
  n, off_norm, positives = len(features), 0, 0.0
  for (x,) in float64_blocks(features=features):
    off = np.abs(np.linalg.norm(x, axis=2) - 1) > _UNIT_TOLERANCE
    off_norm += int(off.any(1).sum())
    positives += np.sum(x[:, 0] * x[:, 1])
  if off_norm:
    raise ValueError(
      f"features must have norm 1, but {off_norm} of {n} images have views "
      f"that are off by more than {_UNIT_TOLERANCE}; normalise them"
    )
  first, second = np.asarray(features, np.float32).swapaxes(0, 1)
  each = pairs.map_tiles(
    _log_sums, (second,), first, second, np.arange(n), row_pairs=n, mesh=mesh
  )
  divergence = each.sum(dtype=np.float64) / (n * (n - 1))
  return LossSplit(
    alignment=float(-positives / n), divergence=float(divergence)
  )


def barlow_split(features: Float[np.ndarray, "n 2 d"]) -> LossSplit:
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
  n = len(features)
  # Relative to the first row, so that a constant dimension is exactly 0.
  first = np.asarray(features[0], np.float64)
  mean = (
    sum((x - first).sum(0) for (x,) in float64_blocks(features=features)) / n
  )
  squares, products = 0.0, 0.0
  for (x,) in float64_blocks(features=features):
    x = x - first - mean
    squares = squares + np.sum(x**2, 0)
    products = products + x[:, 0].T @ x[:, 1]
  deviation = np.sqrt(squares / n)
  inverse = np.divide(
    1, deviation, out=np.zeros_like(deviation), where=deviation > 0
  )
  correlation = products / n * np.outer(inverse[0], inverse[1])
  return LossSplit(
    alignment=float(np.sum((1 - correlation.diagonal()) ** 2)),
    divergence=float(np.sum((correlation - np.eye(len(correlation))) ** 2)),
  )
