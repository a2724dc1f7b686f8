"""Optimal maps of the kernel regime, in closed form, with and without a ridge.

Derived from the losses as recalled, see `losses`. Each solver returns M of
f(x) = M k(X, x), [d_out, N]. A loss depends on P G P with G = K B K, B = M^T M,
P = I or C, and its distance to T.

The ridge alpha Tr(B K) = alpha Tr(K^-1 G) is linear in G:

    ||G - T||^2 + alpha Tr(K^-1 G) = ||G - (T - alpha / 2 K^-1)||^2 + constant

so the optimum over G >= 0 of rank d_out consists of the top d_out positive
eigenpairs of T - alpha / 2 K^-1. For P = C the same holds on the complement of
1, with C K C for K: the part of K^1/2 B K^1/2 outside the range of K^1/2 C adds
to the trace and does not change the loss.
"""

import numpy as np
from jaxtyping import Float
from scipy import linalg

from jssl.kernel_regime.losses import Loss
from jssl.kernel_regime.memory import check_memory, gram_gib
from jssl.kernel_regime.psd import Gram, cholesky
from jssl.kernel_regime.targets import (
  Eigenpairs,
  Ids,
  centre_gram,
  check_d_out,
)

Map = Float[np.ndarray, "d n"]


def _check(what: str, k: Gram, n: int, matrices: float) -> None:
  if k.shape != (n, n):
    raise ValueError(f"K must be [{n}, {n}], like the target; got {k.shape}.")
  check_memory(f"{what} of N={n} points", matrices * gram_gib(n))


def closed_form(k: Gram, top: Eigenpairs) -> Map:
  """Optimal map without a ridge: M of B* = K^-1 T_+ K^-1.

      M = diag(values)^1/2 V^T K^-1,   so Z = K M^T = V diag(values)^1/2

  by two triangular solves, O(N^3 / 3), in two [N, N] and three [N, d_out]
  matrices besides K. If eigenvalues tie at d_out the optimum is not unique, and
  depends on the order in T_+; `solve` picks a canonical one.

  Args:
    k: [N, N] positive definite Gram matrix, see `with_jitter`.
    top: T_+, from `Loss.top_eigenpairs` or `top_eigenpairs`.

  Returns:
    [d_out, N]; rows are 0 where T has no positive eigenvalue left.

  Raises:
    ValueError: if K is not positive definite, or memory does not suffice.
  """
  n, d_out = top.vectors.shape
  _check("The closed form", k, n, 2 + 3 * d_out / n)
  z = top.vectors * np.sqrt(top.values)
  return linalg.cho_solve((cholesky(k), True), z).T


def ridge_closed_form(
  k: Gram,
  loss: Loss,
  image_ids: Ids,
  *,
  alpha: float,
  d_out: int | None = None,
) -> Map:
  """Optimal map with a ridge alpha Tr(B K).

      contrastive      ||G - (I + A)||^2 + alpha Tr(B K)
      non-contrastive  ||C G C||^2 - 2 Tr(C G) + beta Tr(Lap G) + alpha Tr(B K)

  over B >= 0 of rank d_out. Converges to `closed_form`, which is cheaper, as
  alpha goes to 0. Takes ten [N, N] matrices besides K.

  Args:
    k: [N, N] positive definite Gram matrix, see `with_jitter`.
    loss: `Contrastive()` or `NonContrastive(beta)`.
    image_ids: [N].
    alpha: weight of the ridge, > 0; usually a fraction of `alpha_max`.
    d_out: dimension of the embedding; None is the rank of the optimum.

  Returns:
    [d_out, N], padded with zeros if the optimum has a lower rank, or [rank, N].

  Raises:
    ValueError: if alpha is not positive, d_out is not from 1 to N, K is not
      positive definite, or memory does not suffice.
  """
  n = len(image_ids)
  if d_out is not None:
    check_d_out(d_out, n)
  if not alpha > 0:
    raise ValueError(
      f"alpha={alpha} must be positive; closed_form is the optimum without a "
      "ridge."
    )
  _check("The ridge", k, n, 10)
  if loss.shift_invariant:
    kappa, basis = np.linalg.eigh(centre_gram(k))
    # The first eigenvector is 1 / sqrt(N), of eigenvalue 0.
    kappa, basis = kappa[1:], basis[:, 1:]
  else:
    kappa, basis = np.linalg.eigh(k)
  if kappa[0] <= n * np.finfo(np.float64).eps * kappa[-1]:
    raise ValueError(
      f"The Gram matrix of N={n} points is singular within rounding: its "
      f"eigenvalues are from {kappa[0]:.3g} to {kappa[-1]:.3g}. Add jitter, "
      "usually 1e-6 to 1e-4."
    )
  # T - alpha / 2 K^-1, in the eigenbasis of K.
  shrunk = basis.T @ loss.target(image_ids) @ basis
  shrunk[np.diag_indices_from(shrunk)] -= alpha / 2 / kappa
  values, vectors = np.linalg.eigh(shrunk)
  rank = int(np.sum(values > 0))
  kept = slice(-1, -1 - min(rank, rank if d_out is None else d_out), -1)
  half = vectors[:, kept] * np.sqrt(values[kept])
  m = (basis @ (half / kappa[:, None])).T
  if d_out is None:
    return m
  return np.pad(m, [(0, d_out - len(m)), (0, 0)])


def ridge_loss(
  k: Gram, m: Map, loss: Loss, image_ids: Ids, *, alpha: float
) -> float:
  """Returns `loss.value_of_gram(K B K) + alpha Tr(B K)`, B = M^T M."""
  z = k @ m.T
  value = loss.value(z, image_ids) - loss.gram_offset(len(m))
  return value + alpha * float(np.sum(z * m.T))


def alpha_max(k: Gram, loss: Loss, image_ids: Ids) -> float:
  """Smallest alpha for which the optimum is 0: 2 lambda_max(K^1/2 T K^1/2).

  Arguments and errors are those of `ridge_closed_form`.
  """
  n = len(image_ids)
  _check("alpha_max", k, n, 5)
  # Any root of K gives these eigenvalues; the Cholesky factor is the cheapest.
  root = cholesky(k)
  product = root.T @ loss.target(image_ids) @ root
  top = linalg.eigh(product, eigvals_only=True, subset_by_index=[n - 1, n - 1])
  return max(2 * float(top[0]), 0.0)


def smoothest_eigenpairs(k: Gram, top: Eigenpairs, d_out: int) -> Eigenpairs:
  """First d_out eigenpairs; among ties at d_out, those of least Tr(B K).

  If the last eigenvalue kept ties with the next one, `closed_form` is not
  unique: with fewer dimensions than images any images' means are optimal. This
  choice is the limit of the ridge's optimum as alpha goes to 0, up to its mean
  if the loss is shift invariant. For equal eigenvalues Tr(B K) =
  tr(V^T K^-1 V) is minimal for the smallest eigenvectors of U^T K^-1 U. `top`
  has all positive eigenpairs; for a shift-invariant loss, `k` is the centred
  Gram matrix plus any multiple of 11^T.
  """
  values, vectors = top.values, top.vectors.copy()
  tied = np.flatnonzero(np.isclose(values, values[d_out - 1]))
  if tied[-1] >= d_out and values[d_out - 1] > 0:
    u = vectors[:, tied]
    half = linalg.solve_triangular(cholesky(k), u, lower=True)
    vectors[:, tied] = u @ np.linalg.eigh(half.T @ half)[1]
  return Eigenpairs(values[:d_out], vectors[:, :d_out])


def solve(
  k: Gram,
  loss: Loss,
  image_ids: Ids,
  *,
  d_out: int | None = None,
  alpha: float = 0.0,
) -> Map:
  """Optimal map of a loss: `ridge_closed_form`, or `closed_form` for alpha 0.

  Without a ridge, ties are broken by least Tr(B K). With classes in place of
  images, the contrastive loss gives the supervised baseline.

  Args:
    k: [N, N] Gram matrix, see `with_jitter`.
    loss: `Contrastive()` or `NonContrastive(beta)`.
    image_ids: [N], equal for views of one image.
    d_out: dimension of the embedding; None is `loss.directions(image_ids)`.
    alpha: weight of the ridge, >= 0.

  Returns:
    [d_out, N].
  """
  if d_out is None:
    d_out = loss.directions(image_ids)
  if alpha:
    return ridge_closed_form(k, loss, image_ids, alpha=alpha, d_out=d_out)
  candidates = max(d_out, len(image_ids) - loss.shift_invariant)
  metric = k
  if loss.shift_invariant:
    metric = centre_gram(k) + np.trace(k) / k.size
  pairs = loss.top_eigenpairs(image_ids, candidates)
  return closed_form(k, smoothest_eigenpairs(metric, pairs, d_out))
