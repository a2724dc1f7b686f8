"""Losses as what aligns the views of an image and what drives others apart.

Huang, Yi, Zhao and Jiang, "Towards the Generalization of Contrastive
Self-Supervised Learning", ICLR 2023, arXiv 2111.00743.
"""

from functools import partial
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jax.sharding import Mesh
from jaxtyping import Array, Bool, Float, Int

from jssl.diagnostics import blocks
from jssl.diagnostics.checks import (
  check_finite,
  check_views,
  check_views_differ,
)
from jssl.diagnostics.rows import product

# How far from 1 the norm of a unit vector may be: bfloat16 rounds by 4e-3.
_UNIT_TOLERANCE = 1e-2


class LossSplit(NamedTuple):
  """A loss as what aligns views and what drives classes apart.

  Attributes:
    alignment: L1.
    divergence: L2.
  """

  alignment: float
  divergence: float


def _check_two_views(features: Float[np.ndarray, "n 2 d"]) -> None:
  check_views(features, name="features")
  if features.shape[1] != 2:
    raise ValueError(f"features must be [n, 2, d], not {features.shape}")
  check_views_differ(features, name="features")


@jax.jit
def _positives(
  counted: Bool[Array, "b"],
  first: Float[Array, "b d"],
  second: Float[Array, "b d"],
) -> tuple[Float[Array, ""], Int[Array, ""]]:
  first, second = first.astype(jnp.float32), second.astype(jnp.float32)

  def off(x: Float[Array, "b d"]) -> Bool[Array, "b"]:
    return jnp.abs(jnp.linalg.norm(x, axis=1) - 1) > _UNIT_TOLERANCE

  off_norm = (off(first) | off(second)) & counted
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
  """Splits InfoNCE with one negative, T = 1, into L1 + L2.

      L1 = L_align / 2 - 1 = -E f1 . f2,  L2 = E log(e^{f1.f2} + e^{f1.f-})

  f1 and f2 are the views of an image; f- goes through the second views of all
  other images. Collapse: -1 and 1 + log 2. Time is O(n^2 d), in tiles.

  Example:
    >>> import numpy as np
    >>> h = np.zeros((10, 2, 8))
    >>> h[..., 0] = 1  # collapsed
    >>> np.round(info_nce_split(h), 3)
    array([-1.   ,  1.693])

  Args:
    features: unit vectors of two views of n images.
    mesh: rows of tiles are split over all its devices; None is one device.

  Raises:
    ValueError: `features` are not [n, 2, d] with n >= 2, not finite, or not of
      norm 1 to a hundredth, or both views of each image are the same.
    TypeError: `features` are not floating.

  Reference:
    Huang et al., ICLR 2023.
  """
  _check_two_views(features)
  first, second = features[:, 0], features[:, 1]
  n = len(features)
  ids = np.arange(n)
  rows = min(blocks.tile_side(), n)
  positives, off_norm = blocks.sums(
    _positives, first, second, block_rows=rows, mesh=mesh
  )
  check_finite(positives, features)
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

  with each dimension of each view standardised over the rows (mean removed,
  biased deviation), as the loss has it; of such features
  L_align = E |f1 - f2|^2 <= 2 sqrt(d L1). A constant dimension is 0. Collapse:
  d and d. One pass, O(d^2) memory.

  Example:
    >>> import numpy as np
    >>> barlow_split(np.ones((10, 2, 8)))  # collapsed
    LossSplit(alignment=8.0, divergence=8.0)

  Args:
    features: of two views of n images.
    mesh: images are split over all its devices; None is one device.

  Raises:
    ValueError: `features` are not [n, 2, d] with n >= 2, or not finite, or
      both views of each image are the same.
    TypeError: `features` are not floating.

  Reference:
    Huang et al., ICLR 2023.
  """
  _check_two_views(features)
  # Near the mean: products of float32 blocks cancel less.
  shift = (
    features[: blocks.BLOCK_ROWS].mean(0, dtype=np.float64).astype(np.float32)
  )
  total, squares, products = blocks.sums(
    partial(_moments, shift), features[:, 0], features[:, 1], mesh=mesh
  )
  check_finite((total, squares, products), features)
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
