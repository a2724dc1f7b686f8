"""The bound on the error of the nearest-mean classifier, and what it needs.

Huang, Yi, Zhao and Jiang, "Towards the Generalization of Contrastive
Self-Supervised Learning", ICLR 2023, arXiv 2111.00743.
"""

from typing import Any, NamedTuple

import numpy as np
from jaxtyping import Float

from jssl.diagnostics.checks import (
  check_features,
  check_finite,
  check_not_negative,
)
from jssl.diagnostics.concentration import ConcentrationCurve


class BoundTerms(NamedTuple):
  """The bound on the error of the nearest-mean classifier, term by term.

  Attributes:
    outside: 2 (1 - sigma), the first term of rho.
    diverging: R_eps / min_l p_l, the second.
    diameter: sigma L delta / r, the third.
    tolerance: 2 sigma eps / r, the fourth.
    rho: their sum.
    spread: Delta = 1 - min_k |mu_k|^2 / r^2.
    threshold: r^2 (1 - rho - sqrt(2 rho) - Delta / 2).
    max_inner: max mu_k . mu_l over classes k != l.
    holds: whether max_inner < threshold, so the bound is proven.
    bound: (1 - sigma) + R_eps, on the error; means nothing unless it holds.
  """

  outside: float
  diverging: float
  diameter: float
  tolerance: float
  rho: float
  spread: float
  threshold: float
  max_inner: float
  holds: bool
  bound: float


def _check_share(**shares: float) -> None:
  for name, share in shares.items():
    if not 0 <= share <= 1:
      raise ValueError(f"{name}={share} must be in [0, 1]")


class _Rho(NamedTuple):
  """The four terms of rho, numbers or arrays."""

  outside: Any
  diverging: Any
  diameter: Any
  tolerance: Any


def _rho(
  one_minus_sigma: Any,
  delta: Any,
  divergence: Any,
  epsilon: Any,
  *,
  lipschitz: float,
  radius: float,
  min_share: float,
) -> _Rho:
  sigma = 1 - one_minus_sigma
  return _Rho(
    outside=2 * one_minus_sigma,
    diverging=divergence / min_share,
    diameter=sigma * lipschitz * delta / radius,
    tolerance=2 * sigma * epsilon / radius,
  )


def tightest_bound(
  class_means: Float[np.ndarray, "k d"],
  curve: ConcentrationCurve,
  epsilons: Float[np.ndarray, "t"],
  divergence: Float[np.ndarray, "t"],
  *,
  lipschitz: float,
  radius: float,
  min_share: float,
) -> BoundTerms:
  """Returns the bound at the delta and epsilon where rho is least.

  Example:
    >>> import numpy as np
    >>> rng = np.random.default_rng(0)
    >>> views, labels = rng.random((20, 4, 8)), np.arange(20) % 2
    >>> h = rng.normal(size=(20, 4, 3))
    >>> h = h / np.linalg.norm(h, axis=-1, keepdims=True)
    >>> epsilons = np.linspace(0, 2, 9)
    >>> bound = tightest_bound(
    ...   np.stack([h[labels == k].mean((0, 1)) for k in range(2)]),
    ...   concentration_curve(views, labels),
    ...   epsilons,
    ...   divergence_curve(h, epsilons),
    ...   lipschitz=lipschitz_at_least(views, h),
    ...   radius=1.0,
    ...   min_share=0.5,
    ... )

  Args:
    class_means: see `generalisation_bound`, as all others that aren't here.
    curve: 1 - sigma over delta, of `concentration_curve`.
    epsilons: in units of the features.
    divergence: R_eps at each, of `divergence_curve`.
    lipschitz: L of f.
    radius: r.
    min_share: min_l p_l.

  Raises:
    ValueError: as `generalisation_bound`.
  """
  terms = _rho(
    curve.one_minus_sigma[:, None],
    curve.deltas[:, None],
    np.asarray(divergence)[None],
    np.asarray(epsilons)[None],
    lipschitz=lipschitz,
    radius=radius,
    min_share=min_share,
  )
  rho = sum(terms)
  i, j = np.unravel_index(np.argmin(rho), rho.shape)
  return generalisation_bound(
    class_means,
    one_minus_sigma=float(curve.one_minus_sigma[i]),
    delta=float(curve.deltas[i]),
    divergence=float(divergence[j]),
    epsilon=float(epsilons[j]),
    lipschitz=lipschitz,
    radius=radius,
    min_share=min_share,
  )


def generalisation_bound(
  class_means: Float[np.ndarray, "k d"],
  *,
  one_minus_sigma: float,
  delta: float,
  divergence: float,
  epsilon: float,
  lipschitz: float,
  radius: float,
  min_share: float,
) -> BoundTerms:
  """Returns all terms of the bound and whether its condition holds.

  If mu_k . mu_l < r^2 (1 - rho - sqrt(2 rho) - Delta / 2) for all k != l, the
  nearest-mean classifier errs on at most (1 - sigma) + R_eps, with

      rho = 2 (1 - sigma) + R_eps / min p_l + sigma (L delta / r + 2 eps / r)
      Delta = 1 - min_k |mu_k|^2 / r^2

  It rarely holds: the terms are the result. From estimates of this module
  sigma is too low, R_eps and L are too low, so rho may err either way.

  Example:
    >>> import numpy as np
    >>> bound = generalisation_bound(
    ...   np.eye(4),
    ...   one_minus_sigma=0.001,
    ...   delta=0.0,
    ...   divergence=0.0,
    ...   epsilon=0.0,
    ...   lipschitz=1.0,
    ...   radius=1.0,
    ...   min_share=0.25,
    ... )
    >>> bound.holds, bound.bound
    (True, 0.001)

  Args:
    class_means: mu_k, mean feature of class k over its images and their views.
    one_minus_sigma: 1 - sigma at `delta`, in [0, 1].
    delta: diameter of the main parts, as `lipschitz` in units of pixels.
    divergence: R_eps at `epsilon`, in [0, 1].
    epsilon: in units of the features.
    lipschitz: L of f, features over pixels.
    radius: r, the norm of all features.
    min_share: min_l p_l, the share of the rarest class, in (0, 1 / k].

  Raises:
    ValueError: there are fewer than two classes, a number is outside of its
      range or not finite, or a mean is longer than `radius`.

  Reference:
    Huang et al., ICLR 2023.
  """
  means = np.asarray(class_means, np.float64)
  check_features(means, name="class_means")
  check_finite(means, means, name="class_means")
  _check_share(one_minus_sigma=one_minus_sigma, divergence=divergence)
  check_not_negative(
    "delta, epsilon, lipschitz and radius", [delta, epsilon, lipschitz, radius]
  )
  # Shares and norms come from counts and from float32.
  if not 0 < min_share <= (1 + 1e-6) / len(means):
    raise ValueError(
      f"min_share={min_share} must be in (0, 1/{len(means)}]: the rarest of "
      f"{len(means)} classes has no more"
    )
  inner = means @ means.T
  longest = float(np.sqrt(inner.diagonal().max()))
  if not radius or longest > radius * (1 + 1e-3):
    raise ValueError(
      f"radius={radius} must be the norm of all features, but a class mean has "
      f"norm {longest:.6g}"
    )
  terms = _rho(
    one_minus_sigma,
    delta,
    divergence,
    epsilon,
    lipschitz=lipschitz,
    radius=radius,
    min_share=min_share,
  )
  rho = sum(terms)
  spread = 1 - float(inner.diagonal().min()) / radius**2
  threshold = radius**2 * (1 - rho - np.sqrt(2 * rho) - spread / 2)
  max_inner = float(inner[~np.eye(len(means), dtype=bool)].max())
  return BoundTerms(
    **{name: float(term) for name, term in terms._asdict().items()},
    rho=float(rho),
    spread=spread,
    threshold=float(threshold),
    max_inner=max_inner,
    holds=bool(max_inner < threshold),
    bound=float(one_minus_sigma + divergence),
  )
