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

from jssl.kernel_regime.losses import Contrastive, Loss
from jssl.kernel_regime.memory import check_memory
from jssl.kernel_regime.psd import Gram, cholesky
from jssl.kernel_regime.targets import (
  Eigenpairs,
  Ids,
  centre_gram,
  check_d_out,
  view_groups,
)

Map = Float[np.ndarray, "d n"]


def _check_size(k: Gram, n: int) -> None:
  if k.shape != (n, n):
    raise ValueError(f"K must be [{n}, {n}], like the target; got {k.shape}.")


def closed_form(
  k: Gram, top: Eigenpairs, *, memory_limit_gib: float | None = None
) -> Map:
  """Optimal map without a ridge: M of B* = K^-1 T_+ K^-1.

      M = diag(values)^1/2 V^T K^-1,   so Z = K M^T = V diag(values)^1/2

  by two triangular solves, O(N^3 / 3), in two [N, N] and three [N, d_out]
  matrices besides K. If eigenvalues tie at d_out the optimum is not unique, and
  depends on the order in T_+; `solve` picks a canonical one.

  Args:
    k: [N, N] positive definite Gram matrix, see `with_jitter`.
    top: T_+, from `Loss.top_eigenpairs` or `top_eigenpairs`.
    memory_limit_gib: limit for the matrices besides K.

  Returns:
    [d_out, N]; rows are 0 where T has no positive eigenvalue left.

  Raises:
    ValueError: if K is not positive definite, or memory does not suffice.
  """
  n, d_out = top.vectors.shape
  _check_size(k, n)
  matrices = 2 + 3 * d_out / n
  check_memory("The closed form", memory_limit_gib, n, matrices=matrices)
  z = top.vectors * np.sqrt(top.values)
  return linalg.cho_solve((cholesky(k), True), z).T


def ridge_closed_form(
  k: Gram,
  loss: Loss,
  image_ids: Ids,
  *,
  alpha: float,
  d_out: int | None = None,
  memory_limit_gib: float | None = None,
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
    memory_limit_gib: limit for the matrices besides K.

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
  _check_size(k, n)
  check_memory("The ridge", memory_limit_gib, n, matrices=10)
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


def alpha_max(
  k: Gram,
  loss: Loss,
  image_ids: Ids,
  *,
  memory_limit_gib: float | None = None,
) -> float:
  """Smallest alpha for which the optimum is 0: 2 lambda_max(K^1/2 T K^1/2).

  Arguments and errors are those of `ridge_closed_form`.
  """
  n = len(image_ids)
  _check_size(k, n)
  check_memory("alpha_max", memory_limit_gib, n, matrices=5)
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
  d_out: int,
  alpha: float = 0.0,
  memory_limit_gib: float | None = None,
) -> Map:
  """Optimal map of a loss: `ridge_closed_form`, or `closed_form` for alpha 0.

  Without a ridge, ties are broken by least Tr(B K).

  Args:
    k: [N, N] Gram matrix, see `with_jitter`.
    loss: `Contrastive()` or `NonContrastive(beta)`.
    image_ids: [N], equal for views of one image.
    d_out: dimension of the embedding.
    alpha: weight of the ridge, >= 0.
    memory_limit_gib: limit for the matrices besides K.

  Returns:
    [d_out, N].
  """
  if alpha:
    return ridge_closed_form(
      k,
      loss,
      image_ids,
      alpha=alpha,
      d_out=d_out,
      memory_limit_gib=memory_limit_gib,
    )
  candidates = max(d_out, len(image_ids) - loss.shift_invariant)
  metric = k
  if loss.shift_invariant:
    metric = centre_gram(k) + np.trace(k) / k.size
  pairs = loss.top_eigenpairs(image_ids, candidates)
  top = smoothest_eigenpairs(metric, pairs, d_out)
  return closed_form(k, top, memory_limit_gib=memory_limit_gib)


def solve_supervised(
  k: Gram,
  labels: Ids,
  *,
  d_out: int | None = None,
  alpha: float = 0.0,
  memory_limit_gib: float | None = None,
) -> Map:
  """Supervised baseline: the contrastive loss with classes in place of images.

  Args:
    k: [N, N] positive definite Gram matrix of all views.
    labels: [N] class of each view.
    d_out: dimension of the embedding; None is the number of classes, and more
      dimensions would be 0.
    alpha: weight of the ridge, >= 0.
    memory_limit_gib: see `solve`.

  Raises:
    ValueError: as `solve`, or if a view has no label (-1) or there is only one
      class.
  """
  missing = int(np.sum(np.asarray(labels) < 0))
  if missing:
    raise ValueError(
      f"{missing} of {len(labels)} views have no label; the supervised kernel "
      "needs all labels."
    )
  return solve(
    k,
    Contrastive(),
    labels,
    d_out=d_out or len(view_groups(labels).counts),
    alpha=alpha,
    memory_limit_gib=memory_limit_gib,
  )
