"""The ridge as a semidefinite programme, by FISTA.

    min over S >= 0 of ||P K^1/2 S K^1/2 P - T||^2 + alpha Tr S

with S = K^1/2 B K^1/2, as the paper has it (Kiani et al. 2022, arXiv
2209.14884; recalled). The same optimum as `optimum.ridge_form`, which needs no
iterations and no well-conditioned K: that is what to use, and this is what
checks it.
"""

from typing import NamedTuple

import numpy as np

from jssl.kernel_regime.losses import Loss
from jssl.kernel_regime.optimum import Map, largest_eigenvalue, programme
from jssl.kernel_regime.psd import Gram
from jssl.kernel_regime.targets import Ids, Square

# A bound takes an eigenvalue, a third of the work of an iteration.
_CHECK_EVERY = 10


class Ridge(NamedTuple):
  """The optimum with a ridge, as far as it was found.

  Attributes:
    m: M, [rank, N].
    loss: `ridge_loss` of it.
    gap: duality gap: the loss is at most this much above the minimum.
    iterations: that it took.
    converged: whether the gap is within the tolerance.
  """

  m: Map
  loss: float
  gap: float
  iterations: int
  converged: bool


class _Problem(NamedTuple):
  """||W o S - T||^2 + alpha Tr S, in the eigenbasis of K.

  K^1/2 is diagonal there, and its products are elementwise.

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
    <Y, T> - ||Y||^2 / 4, and equal to it for Y = -2 R of the optimum. Here Y is
    the best multiple of -2 R that is allowed.
    """
    y = -2 * self.residual(s)
    squares = float(np.sum(y**2))
    product = float(np.sum(y * self.target))
    if not squares or product <= 0:
      return 0.0
    largest = largest_eigenvalue(self.weights * y)
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
  memory_limit_gib: float | None = None,
) -> Ridge:
  """Minimises the loss of G and alpha Tr(B K) over all B >= 0, by FISTA.

  Beck and Teboulle 2009, with projection on the cone, step 0.9 / (2 lmax(K)^2)
  (of C K C where only C G C matters), and the momentum restarted where it
  points uphill (O'Donoghue and Candes 2015, the gradient scheme). As alpha goes
  to 0 the number of iterations grows with (lmax / lmin)(K).

  Memory besides K: 10 matrices of N x N. Time: the eigenvectors of a matrix of
  N x N, each iteration.

      >>> import numpy as np
      >>> from jssl.kernel_regime import RBF, Contrastive, gram, ridge_fista
      >>> x = np.random.default_rng(0).normal(size=(12, 3))
      >>> image_ids = np.repeat(np.arange(4), 3)
      >>> k = gram(RBF(1.0), x)
      >>> found = ridge_fista(k, Contrastive(), image_ids, alpha=1.0)
      >>> found.converged, len(found.m)
      (True, 4)

  Args:
    k: Gram matrix, positive definite: see `with_jitter`.
    loss: `Contrastive()` or `NonContrastive(beta)`.
    image_ids: [n].
    alpha: weight of the ridge, > 0; a fraction of `vanishing_alpha`.
    tolerance: of the duality gap, relative to ||P G P - T||^2 + alpha Tr S.
    max_iterations: after which it returns what it has.
    memory_limit_gib: None takes 80% of what is available.

  Raises:
    ValueError: as `ridge_form`, or a number isn't positive.
  """
  if max_iterations < 1 or not tolerance > 0:
    raise ValueError(
      f"kernels.max_iterations={max_iterations} and kernels.tolerance="
      f"{tolerance} must be positive"
    )
  basis = programme(
    k, loss, image_ids, alpha=alpha, memory_limit_gib=memory_limit_gib
  )
  root = np.sqrt(basis.kappa)
  problem = _Problem(np.outer(root, root), basis.target, alpha)
  step = 0.9 / (2 * basis.kappa[-1] ** 2)
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
  # What is squared is `of_gram` as it stands, or with ||T||^2 added.
  constant = loss.target_squares(image_ids) if loss.shift_invariant else 0.0
  return Ridge(
    m=basis.map(half * root[:, None]),
    loss=problem.value(s) - constant,
    gap=float(gap),
    iterations=iteration,
    converged=converged,
  )
