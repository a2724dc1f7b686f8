"""Gram matrices that can be solved with: positive definite, with a jitter."""

import math

import numpy as np
from jaxtyping import Float
from scipy import linalg

Gram = Float[np.ndarray, "n n"]


def _check_symmetric(k: Gram) -> None:
  if k.ndim != 2 or k.shape[0] != k.shape[1] or not k.size:
    raise ValueError(f"a Gram matrix must be [n, n], n > 0, not {k.shape}")
  if not np.issubdtype(k.dtype, np.floating):
    raise TypeError(f"a Gram matrix must be floating, not {k.dtype}")
  if not np.all(np.isfinite(k)):
    raise ValueError(
      f"a Gram matrix has {int(np.sum(~np.isfinite(k)))} values that are not "
      "finite"
    )
  gap = float(np.max(np.abs(k - k.T)))
  if gap > 1e-8 * np.max(np.abs(k)):
    raise ValueError(
      f"a Gram matrix must be symmetric; entries differ by {gap:.3g}"
    )


def _mean_diagonal(k: Gram) -> float:
  mean = float(np.trace(k)) / len(k)
  if mean <= 0:
    raise ValueError(
      f"tr(K) / N = {mean:.3g} must be positive: K isn't a Gram matrix, or all "
      "points are zero"
    )
  return mean


def _plus(k: Gram, shift: float) -> Gram:
  shifted = np.array(k, np.float64)
  shifted[np.diag_indices_from(shifted)] += shift
  return shifted


def factor(k: Gram) -> Gram:
  """Returns the lower Cholesky factor of a Gram matrix, [n, n].

  Raises:
    ValueError: K isn't positive definite; says its smallest eigenvalue and the
      jitter that would do.
  """
  return _factor(k, k, 0.0)


def _factor(shifted: Gram, k: Gram, jitter: float) -> Gram:
  try:
    return linalg.cholesky(shifted, lower=True, check_finite=False)
  except linalg.LinAlgError:
    smallest = float(
      linalg.eigh(k, eigvals_only=True, subset_by_index=[0, 0])[0]
    )
    mean = _mean_diagonal(k)
    raise ValueError(
      f"the Gram matrix of N={len(k)} is not positive definite with a jitter "
      f"of {jitter:g}: its smallest eigenvalue is {smallest:.3g}, tr(K) / N is "
      f"{mean:.3g}; kernels.jitter={_enough(k, smallest):.2g} would do (1e-6 "
      "to 1e-4 is usual; if it takes far more, K isn't a kernel's)"
    ) from None


def _enough(k: Gram, smallest: float) -> float:
  """Returns twice the jitter that K lacks, and what rounding takes."""
  rounding = 4 * len(k) * np.finfo(np.float64).eps * np.linalg.norm(k)
  enough = (2 * max(-smallest, 0) + float(rounding)) / _mean_diagonal(k)
  # Two digits, upwards.
  digit = 10.0 ** (math.floor(math.log10(enough)) - 1)
  return math.ceil(enough / digit) * digit


def with_jitter(k: Gram, jitter: float = 1e-6) -> Gram:
  """Returns K + jitter tr(K) / N I, if it is positive definite.

  It is the Gram matrix of the kernel k(x, x') + jitter tr(K) / N 1[x is x'],
  which sets each point of the training set apart from all other points. Two
  more matrices of N x N while it works.

  Args:
    k: [n, n].
    jitter: relative to the mean of the diagonal; 1e-6 to 1e-4.

  Raises:
    ValueError: K is not square, symmetric, finite, or not positive semidefinite
      within the jitter; says its smallest eigenvalue and the jitter that would
      do.
    TypeError: K isn't floating.
  """
  if jitter < 0:
    raise ValueError(f"kernels.jitter={jitter} must not be negative")
  _check_symmetric(k)
  shifted = _plus(k, jitter * _mean_diagonal(k))
  _factor(shifted, k, jitter)
  return shifted


def check_psd(k: Gram, jitter: float = 1e-6) -> None:
  """Raises what `with_jitter` does, and returns nothing."""
  with_jitter(k, jitter)
