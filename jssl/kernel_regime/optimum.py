"""The optima of the kernel regime, in closed form, with and without a ridge.

Kiani et al. 2022 (arXiv 2209.14884); derived from the losses as recalled, see
`losses`. All give M of f(x) = M k(X, x), the factor of B = M^T M. What a loss
sees is P G P with G = K B K, P = I or C, and its distance to T.

The ridge alpha Tr(B K) is linear in G: Tr(B K) = Tr(K^-1 G), so

    ||G - T||^2 + alpha Tr(K^-1 G) = ||G - (T - alpha / 2 K^-1)||^2 + constant

and the optimum over G >= 0 is the positive part of T - alpha / 2 K^-1, of rank
d_out its top d_out eigenpairs. So this semidefinite programme needs no solver;
`fista` solves it as the paper does, and the tests compare both. Where P = C the
same holds on the complement of 1 with C K C for K: what S = K^1/2 B K^1/2 has
outside of the range of K^1/2 C costs trace and changes nothing.
"""

from typing import NamedTuple

import numpy as np
from jaxtyping import Float
from scipy import linalg

from jssl.kernel_regime.losses import Contrastive, Loss
from jssl.kernel_regime.memory import check_square
from jssl.kernel_regime.psd import Gram, factor
from jssl.kernel_regime.targets import (
  Eigenpairs,
  Ids,
  Square,
  check_d_out,
  images,
)

Map = Float[np.ndarray, "d n"]


def closed_form(
  k: Gram, top: Eigenpairs, *, memory_limit_gib: float | None = None
) -> Map:
  """Returns M of B* = K^-1 T_+ K^-1, the optimum without a ridge.

      M = diag(values)^1/2 V^T K^-1,   so Z = K M^T = V diag(values)^1/2

  by two triangular solves, no inverse. Where eigenvalues tie at d_out, which of
  the optima it is depends on the order that T_+ has taken: compare losses or G.

  Memory besides K: two matrices of N x N, three of N x d_out. Time:
  O(N^3 / 3) for the factor.

  Args:
    k: Gram matrix, positive definite: see `with_jitter`, whose result it is
      that Z = K M^T speaks of.
    top: T_+, of `Loss.eigenpairs` or `top_eigenpairs`.
    memory_limit_gib: None takes 80% of what is available.

  Returns:
    [d_out, N]; rows are 0 where T has no positive eigenvalue left.

  Raises:
    ValueError: K isn't positive definite (says which jitter would do), or of
      another size than T, or memory doesn't suffice (says which N would do).
  """
  n, d_out = top.vectors.shape
  _check_size(k, n)
  check_square(
    n,
    matrices=2 + 3 * d_out / n,
    what="the closed form",
    memory_limit_gib=memory_limit_gib,
  )
  z = top.vectors * np.sqrt(top.values)
  return linalg.cho_solve((factor(k), True), z).T


def supervised_form(
  k: Gram,
  labels: Ids,
  *,
  d_out: int | None = None,
  alpha: float = 0.0,
  memory_limit_gib: float | None = None,
) -> Map:
  """Returns M of the closed form with classes in place of images.

  The baseline that knows labels: A_ij = 1 iff i != j are of one class, and the
  loss is the contrastive one.

  Args:
    k: Gram matrix of all views, positive definite.
    labels: class of each view, [n].
    d_out: dimension of the embedding; None is the number of classes, and more
      would add nothing.
    alpha: weight of a ridge, see `ridge_form`; 0 is without.
    memory_limit_gib: None takes 80% of what is available.

  Raises:
    ValueError: as `closed_form` or `ridge_form`, or a view has no label (-1),
      or there is one class.
  """
  missing = int(np.sum(np.asarray(labels) < 0))
  if missing:
    raise ValueError(
      f"{missing} of {len(labels)} views have no label; the supervised kernel "
      "needs them all"
    )
  classes = len(images(labels).counts)
  d_out = classes if d_out is None else d_out
  if alpha:
    return ridge_form(
      k,
      Contrastive(),
      labels,
      alpha=alpha,
      d_out=d_out,
      memory_limit_gib=memory_limit_gib,
    )
  top = Contrastive().eigenpairs(labels, d_out)
  return closed_form(k, top, memory_limit_gib=memory_limit_gib)


class Programme(NamedTuple):
  """What the ridge is minimised in: an eigenbasis of K, or of C K C.

  Attributes:
    kappa: eigenvalues, ascending, positive.
    basis: U, orthonormal columns, a column less than rows where P = C.
    target: U^T T U.
  """

  kappa: Float[np.ndarray, "r"]
  basis: Float[np.ndarray, "n r"]
  target: Float[np.ndarray, "r r"]

  def map(self, half: Float[np.ndarray, "r d"]) -> Map:
    """Returns M of U^T G U = H H^T.

    Args:
      half: H.
    """
    return (self.basis @ (half / self.kappa[:, None])).T


def programme(
  k: Gram,
  loss: Loss,
  image_ids: Ids,
  *,
  alpha: float,
  memory_limit_gib: float | None,
) -> Programme:
  """Returns the eigenbasis and the target in it.

  Args:
    k: Gram matrix, positive definite.
    loss: whose target it is.
    image_ids: [n].
    alpha: weight of the ridge.
    memory_limit_gib: None takes 80% of what is available.

  Raises:
    ValueError: alpha isn't positive, K isn't positive definite or of another
      size than the target, or memory doesn't suffice (says which N would do).
  """
  n = len(image_ids)
  if not alpha > 0:
    raise ValueError(
      f"kernels.alpha={alpha} must be positive; closed_form is the optimum "
      "without a ridge"
    )
  _check_size(k, n)
  check_square(
    n, matrices=10, what="the ridge", memory_limit_gib=memory_limit_gib
  )
  if loss.shift_invariant:
    rows = k - k.mean(0, keepdims=True)
    k = rows - rows.mean(1, keepdims=True)
  kappa, basis = np.linalg.eigh(k)
  if loss.shift_invariant:
    # The first is 1 / sqrt(N), of eigenvalue 0.
    kappa, basis = kappa[1:], basis[:, 1:]
  if kappa[0] <= n * np.finfo(np.float64).eps * kappa[-1]:
    raise ValueError(
      f"the Gram matrix of N={n} is singular within rounding: eigenvalues from "
      f"{kappa[0]:.3g} to {kappa[-1]:.3g}; give it a jitter (kernels.jitter, "
      "1e-6 to 1e-4 is usual)"
    )
  return Programme(kappa, basis, basis.T @ loss.target(image_ids) @ basis)


def ridge_form(
  k: Gram,
  loss: Loss,
  image_ids: Ids,
  *,
  alpha: float,
  d_out: int | None = None,
  memory_limit_gib: float | None = None,
) -> Map:
  """Returns M of the optimum with a ridge alpha Tr(B K), in closed form.

      contrastive      ||G - (I + A)||^2 + alpha Tr(B K)
      non-contrastive  ||C G C||^2 - 2 Tr(C G) + beta Tr(Lap G) + alpha Tr(B K)

  over B >= 0 of rank d_out. G, or C G C, is what is positive of
  T - alpha / 2 K^-1, or of T - alpha / 2 (C K C)^+: see the head of the module.
  As alpha goes to 0 it goes to `closed_form`, which is cheaper.

  Memory besides K: 10 matrices of N x N. Time: the eigenvectors of two.

  Args:
    k: Gram matrix, positive definite: see `with_jitter`.
    loss: `Contrastive()` or `NonContrastive(beta)`.
    image_ids: [n].
    alpha: weight of the ridge, > 0; a fraction of `vanishing_alpha`.
    d_out: dimension of the embedding; None is the rank of the optimum.
    memory_limit_gib: None takes 80% of what is available.

  Returns:
    [d_out, N], rows 0 where the optimum has a lower rank, or [rank, N]; the
    rank is 0 from `vanishing_alpha` on.

  Raises:
    ValueError: as `programme`, or d_out isn't from 1 to n.
  """
  if d_out is not None:
    check_d_out(d_out, len(image_ids))
  basis = programme(
    k, loss, image_ids, alpha=alpha, memory_limit_gib=memory_limit_gib
  )
  shrunk = basis.target.copy()
  shrunk[np.diag_indices_from(shrunk)] -= alpha / 2 / basis.kappa
  values, vectors = np.linalg.eigh(shrunk)
  rank = int(np.sum(values > 0))
  kept = slice(-1, -1 - min(rank, rank if d_out is None else d_out), -1)
  m = basis.map(vectors[:, kept] * np.sqrt(values[kept]))
  if d_out is None:
    return m
  return np.pad(m, [(0, d_out - len(m)), (0, 0)])


def ridge_loss(
  k: Gram, m: Map, loss: Loss, image_ids: Ids, *, alpha: float
) -> float:
  """Returns `loss.of_gram(K B K) + alpha Tr(B K)`; no other [N, N] array.

  Args:
    k: Gram matrix.
    m: M, of any rank.
    loss: of the embedding K M^T.
    image_ids: [n].
    alpha: weight of the ridge.
  """
  z = k @ m.T
  value = loss.of_embedding(z, image_ids) - loss.constant(len(m))
  return value + alpha * float(np.sum(z * m.T))


def vanishing_alpha(
  k: Gram,
  loss: Loss,
  image_ids: Ids,
  *,
  memory_limit_gib: float | None = None,
) -> float:
  """Returns the least alpha whose optimum is 0: 2 lmax(K^1/2 T K^1/2).

  Alphas to try are fractions of it.

  Args:
    k: Gram matrix, positive definite.
    loss: whose target counts.
    image_ids: [n].
    memory_limit_gib: None takes 80% of what is available.

  Raises:
    ValueError: K isn't positive definite or of another size than the target, or
      memory doesn't suffice (says which N would do).
  """
  n = len(image_ids)
  _check_size(k, n)
  check_square(
    n,
    matrices=5,
    what="the largest alpha",
    memory_limit_gib=memory_limit_gib,
  )
  # Any root has these eigenvalues; the Cholesky factor is the cheapest.
  root = factor(k)
  turned = root.T @ loss.target(image_ids) @ root
  return max(2 * largest_eigenvalue(turned), 0.0)


def largest_eigenvalue(x: Square) -> float:
  """Returns the largest eigenvalue of a symmetric matrix."""
  n = len(x)
  top = linalg.eigh(x, eigvals_only=True, subset_by_index=[n - 1, n - 1])
  return float(top[0])


def _check_size(k: Gram, n: int) -> None:
  if k.shape != (n, n):
    raise ValueError(f"K must be [{n}, {n}], as the target is, not {k.shape}")
