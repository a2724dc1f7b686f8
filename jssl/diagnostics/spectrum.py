"""The singular spectrum of features, and how collapsed it is.

Li, Efros and Pathak, "Understanding Collapse in Non-contrastive Siamese
Representation Learning", ECCV 2022, arXiv 2209.15007, and its official code.
"""

from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float

_BLOCK_ROWS = 8192


class SecondMoment(NamedTuple):
  """The first two moments of the rows of a matrix, in float64.

  Attributes:
    rows: n, the number of rows.
    mean: of the rows.
    scatter: sum of (x - mean) (x - mean)^T over the rows.
  """

  rows: int
  mean: Float[np.ndarray, "d"]
  scatter: Float[np.ndarray, "d d"]

  @property
  def std(self) -> Float[np.ndarray, "d"]:
    """Standard deviation of each column, dividing by n."""
    return np.sqrt(np.diag(self.scatter) / self.rows)


@jax.jit
def _block_sums(
  block: Float[Array, "n d"], shift: Float[Array, "d"]
) -> tuple[Float[Array, "d"], Float[Array, "d d"]]:
  x = block - jnp.broadcast_to(shift, block.shape)
  return x.sum(0), jnp.matmul(x.T, x, precision=jax.lax.Precision.HIGHEST)


def second_moment(
  features: Float[np.ndarray, "n d"], *, block_rows: int = _BLOCK_ROWS
) -> SecondMoment:
  """Accumulates mean and scatter in one pass, a block of rows at a time.

  Args:
    features: [n, d], in memory or memory-mapped.
    block_rows: rows that go to the device at once.

  Raises:
    ValueError: `features` is not a matrix with rows.
  """
  if features.ndim != 2 or not len(features):
    raise ValueError(f"features must be [n, d], n > 0, not {features.shape}")
  # Any shift gives the same moments; one near the mean keeps the products
  # of the float32 blocks free of the cancellation that a large mean brings.
  shift = np.mean(features[:block_rows], axis=0, dtype=np.float64)
  shift = shift.astype(features.dtype)
  total = np.zeros(features.shape[1])
  products = np.zeros((features.shape[1],) * 2)
  for start in range(0, len(features), block_rows):
    block = features[start : start + block_rows]
    for sums, part in zip(
      (total, products), _block_sums(block, shift), strict=True
    ):
      sums += np.asarray(part, np.float64)
  offset = total / len(features)
  return SecondMoment(
    rows=len(features),
    mean=shift + offset,
    scatter=products - len(features) * np.outer(offset, offset),
  )


def singular_values(
  features: Float[np.ndarray, "n d"],
) -> Float[np.ndarray, "d"]:
  """Returns the singular values of the features, their mean removed.

  Rows are not normalised. Values below 1e-4 of the largest are rounding: they
  are roots of eigenvalues of a float32 product.

  Args:
    features: [n, d] of the backbone, in eval mode, on the training set.

  Returns:
    d values, descending; zeros at the end where n - 1 < d.
  """
  eigenvalues = np.linalg.eigvalsh(second_moment(features).scatter)
  return np.sqrt(np.maximum(eigenvalues[::-1], 0))


def collapse_auc(singular_values: Float[np.ndarray, "d"]) -> float:
  """Returns the area under the cumulative singular values; higher: collapsed.

  AUC = mean_j (sum_{i <= j} s_i / sum_i s_i), the s_i not squared: (d + 1) / 2d
  where all directions vary alike, 1 where only one does, or none.

  Args:
    singular_values: d values, descending.
  """
  total = np.sum(singular_values)
  return float(np.mean(np.cumsum(singular_values) / total)) if total else 1.0
