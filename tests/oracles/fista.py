"""The ridge problem of the kernel regime as a semidefinite programme, by FISTA.

    min over S >= 0 of ||P K^1/2 S K^1/2 P - T||^2 + alpha Tr S

with S = K^1/2 B K^1/2 (Kiani et al. 2022, arXiv 2209.14884; recalled). An
iterative check of `jssl.kernel_regime.ridge_closed_form`.
"""

from typing import NamedTuple

import numpy as np

from jssl.kernel_regime.losses import Loss
from jssl.kernel_regime.psd import Gram
from jssl.kernel_regime.solvers import Map
from jssl.kernel_regime.targets import Ids, Square

# The bound needs an eigenvalue, a third of the work of an iteration.
_CHECK_EVERY = 10


class Ridge(NamedTuple):
  """Solution with a ridge.

  Attributes:
    m: [rank, N] map M.
    loss: `ridge_loss` of m.
    gap: duality gap, an upper bound of the distance to the minimum.
    iterations: number of iterations.
    converged: True if the gap is within the tolerance.
  """

  m: Map
  loss: float
  gap: float
  iterations: int
  converged: bool


class _Problem(NamedTuple):
  """||W o S - T||^2 + alpha Tr S, in the eigenbasis of K.

  K^1/2 is diagonal in this basis, so products with it are elementwise.

  Attributes:
    weights: W = sqrt(kappa kappa^T).
    target: T.
    alpha: weight of the trace.
  """

  weights: Square
  target: Square
  alpha: float

  def residual(self, s: Square) -> Square:
    """Returns R = W o S - T."""
    return self.weights * s - self.target

  def gradient(self, s: Square) -> Square:
    """Returns 2 W o R + alpha I."""
    gradient = 2 * self.weights * self.residual(s)
    gradient[np.diag_indices_from(gradient)] += self.alpha
    return gradient

  def value(self, s: Square) -> float:
    """Returns ||R||^2 + alpha Tr S."""
    return float(np.sum(self.residual(s) ** 2) + self.alpha * np.trace(s))

  def bound(self, s: Square) -> float:
    """Returns a lower bound of the minimum, by duality.

    For all Y with W o Y <= alpha I the minimum is at least
    <Y, T> - ||Y||^2 / 4, with equality for Y = -2 R of the optimum. Y is the
    best feasible multiple of -2 R.
    """
    y = -2 * self.residual(s)
    squares = float(np.sum(y**2))
    product = float(np.sum(y * self.target))
    if not squares or product <= 0:
      return 0.0
    largest = float(np.linalg.eigvalsh(self.weights * y)[-1])
    best = 2 * product / squares
    scale = min(best, self.alpha / largest) if largest > 0 else best
    return scale * product - scale**2 * squares / 4


def _positive_part(x: Square) -> Square:
  values, vectors = np.linalg.eigh(x)
  kept = values > 0
  half = vectors[:, kept] * np.sqrt(values[kept])
  return half @ half.T


def ridge_fista(
  k: Gram,
  loss: Loss,
  image_ids: Ids,
  *,
  alpha: float,
  tolerance: float = 1e-7,
  max_iterations: int = 5000,
) -> Ridge:
  """Minimises the loss of G plus alpha Tr(B K) over all B >= 0, by FISTA.

  Beck and Teboulle 2009, with projection on the cone, step 0.9 / (2 lmax(K)^2)
  (of C K C for a shift-invariant loss), and a restart of the momentum where it
  points uphill (O'Donoghue and Candes 2015, gradient scheme). The number of
  iterations grows with (lmax / lmin)(K) as alpha goes to 0.

  Args:
    k: [N, N] positive definite Gram matrix.
    loss: `Contrastive()` or `NonContrastive(beta)`.
    image_ids: [N].
    alpha: weight of the ridge, > 0.
    tolerance: bound of the duality gap, relative to the objective.
    max_iterations: number of iterations after which to stop.
  """
  if loss.shift_invariant:
    c = np.eye(len(k)) - 1 / len(k)
    # The first eigenvector is 1 / sqrt(N), of eigenvalue 0.
    kappa, basis = (x[..., 1:] for x in np.linalg.eigh(c @ k @ c))
  else:
    kappa, basis = np.linalg.eigh(k)
  target = basis.T @ loss.target(image_ids) @ basis
  root = np.sqrt(kappa)
  problem = _Problem(np.outer(root, root), target, alpha)
  step = 0.9 / (2 * kappa[-1] ** 2)
  s = ahead = np.zeros_like(problem.weights)
  t = 1.0
  gap, iteration, converged = np.inf, 0, False
  while iteration < max_iterations and not converged:
    iteration += 1
    new = _positive_part(ahead - step * problem.gradient(ahead))
    if np.sum((ahead - new) * (new - s)) > 0:
      t = 1.0
    t_new = (1 + np.sqrt(1 + 4 * t**2)) / 2
    ahead = new + (t - 1) / t_new * (new - s)
    s, t = new, t_new
    if iteration % _CHECK_EVERY == 0 or iteration == max_iterations:
      value = problem.value(s)
      gap = value - problem.bound(s)
      converged = bool(gap <= tolerance * value)
  values, vectors = np.linalg.eigh(s)
  kept = values > 1e-12 * max(values[-1], np.finfo(np.float64).tiny)
  half = (vectors[:, kept] * np.sqrt(values[kept]))[:, ::-1]
  # The objective is `value_of_gram`, plus ||T||^2 for a shift-invariant loss.
  constant = loss.target_norm_sq(image_ids) if loss.shift_invariant else 0.0
  return Ridge(
    m=(basis @ (half * (root / kappa)[:, None])).T,
    loss=problem.value(s) - constant,
    gap=float(gap),
    iterations=iteration,
    converged=converged,
  )
