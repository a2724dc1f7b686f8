"""Jitter and Cholesky factors of Gram matrices."""

import numpy as np
from jaxtyping import Float
from scipy import linalg

Gram = Float[np.ndarray, "n n"]


def _mean_diagonal(k: Gram) -> float:
  mean = float(np.trace(k)) / len(k)
  if mean <= 0:
    raise ValueError(
      f"The mean of the diagonal, tr(K) / N = {mean:.3g}, must be positive; "
      "check that K is a Gram matrix and that not all points are zero."
    )
  return mean


def _check_symmetric(k: Gram) -> None:
  if k.ndim != 2 or k.shape[0] != k.shape[1] or not k.size:
    raise ValueError(f"A Gram matrix must be [n, n], n > 0; got {k.shape}.")
  if not np.issubdtype(k.dtype, np.floating):
    raise TypeError(f"A Gram matrix must be floating; got {k.dtype}.")
  if not np.all(np.isfinite(k)):
    raise ValueError(
      f"The Gram matrix has {np.sum(~np.isfinite(k))} non-finite values."
    )
  gap = float(np.max(np.abs(k - k.T)))
  if gap > 1e-8 * np.max(np.abs(k)):
    raise ValueError(
      f"A Gram matrix must be symmetric; entries differ by {gap:.3g}."
    )


def _add_jitter(k: Gram, jitter: float) -> Gram:
  shifted = np.array(k, np.float64)
  shifted[np.diag_indices_from(shifted)] += jitter * _mean_diagonal(k)
  return shifted


def cholesky(k: Gram, *, jitter: float = 0.0) -> Gram:
  """Lower Cholesky factor of K + jitter tr(K) / N I.

  Raises ValueError with a sufficient jitter if it is not positive definite.
  """
  shifted = _add_jitter(k, jitter) if jitter else k
  try:
    return linalg.cholesky(shifted, lower=True, check_finite=False)
  except linalg.LinAlgError:
    smallest = float(
      linalg.eigh(k, eigvals_only=True, subset_by_index=[0, 0])[0]
    )
    # Twice the missing jitter, and that of rounding errors.
    rounding = 4 * len(k) * np.finfo(np.float64).eps * np.linalg.norm(k)
    sufficient = (2 * max(-smallest, 0) + rounding) / _mean_diagonal(k)
    raise ValueError(
      f"The Gram matrix of N={len(k)} points is not positive definite with "
      f"jitter={jitter:g}: its smallest eigenvalue is {smallest:.3g}, "
      f"tr(K) / N is {_mean_diagonal(k):.3g}. "
      f"jitter={sufficient:.2g} would suffice; if that is far "
      "above the usual 1e-6 to 1e-4, K is not a kernel matrix."
    ) from None


def with_jitter(k: Gram, jitter: float = 1e-6) -> Gram:
  """Checks a Gram matrix and returns K + jitter tr(K) / N I.

  The result is the Gram matrix of k(x, x') + jitter tr(K) / N 1[x is x'], which
  separates each training point from all others. Uses three further
  [n, n] matrices.

  Args:
    k: [n, n] Gram matrix.
    jitter: relative to the mean of the diagonal, usually 1e-6 to 1e-4.

  Raises:
    ValueError: if K is not square, symmetric and finite, or not positive
      definite with this jitter.
    TypeError: if K is not floating.
  """
  if jitter < 0:
    raise ValueError(f"jitter={jitter} must not be negative.")
  _check_symmetric(k)
  shifted = _add_jitter(k, jitter)
  cholesky(k, jitter=jitter)
  return shifted
