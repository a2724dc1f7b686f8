"""The bound on the error of the nearest-mean classifier, and its terms.

Huang, Yi, Zhao and Jiang, "Towards the Generalization of Contrastive
Self-Supervised Learning", ICLR 2023, arXiv 2111.00743.
"""

from collections.abc import Sequence
from typing import Any, NamedTuple

import numpy as np
from jaxtyping import Float

from jssl.diagnostics import checks
from jssl.diagnostics.concentration import ConcentrationCurve
from jssl.diagnostics.rows import float64_blocks, float64_rows


def _pair_distances(
  x: Float[np.ndarray, "b v d"],
) -> Float[np.ndarray, "b v v"]:
  """Returns the distances between all views of each image."""
  views = range(x.shape[1])
  return np.stack([np.linalg.norm(x - x[:, [i]], axis=2) for i in views], 1)


def divergence_curve(
  features: Float[np.ndarray, "n v d"],
  epsilons: Sequence[float] | Float[np.ndarray, "t"],
  *,
  weights: Float[np.ndarray, "n"] | None = None,
) -> Float[np.ndarray, "t"]:
  """Returns R_eps, the share of images with views further apart than eps.

      R_eps = P[ sup |f(x') - f(x'')| > eps ]

  The supremum over the given views is a lower bound of that over all views.

  Example:
    >>> h = np.array([[[1.0, 0], [1, 0]], [[1, 0], [0, 1]]])
    >>> divergence_curve(h, [0.5, 1.5])
    array([0.5, 0. ])

  Args:
    features: features f of v >= 2 views of n images.
    epsilons: distances, not negative, in any order.
    weights: weight of each image, not negative; None: equal. Class frequencies
      turn a class-balanced sample into an estimate for the set.
  """
  checks.check_views(features, "features", rows=1)
  limits = checks.check_not_negative("epsilons", epsilons)
  n = len(features)
  own = np.ones(n) if weights is None else weights
  own = checks.check_not_negative("weights", own)
  if own.shape != (n,) or not own.any():
    raise ValueError(
      f"weights must be [n] = ({n},) and not all zero, not {own.shape} with "
      f"the sum {own.sum():g}"
    )
  widths = np.concatenate(
    [
      _pair_distances(x).max((1, 2))
      for (x,) in float64_blocks(features=features)
    ]
  )
  # Scaled to mean 1: equal weights then add up to whole numbers exactly.
  wider = own / own.mean() @ (widths[:, None] > limits)
  return np.minimum(wider / n, 1)


def lipschitz_at_least(
  views: Float[np.ndarray, "n v *pixel"],
  features: Float[np.ndarray, "n v d"],
) -> float:
  """Returns max |f(x') - f(x'')| / |x' - x''| over pairs of views of an image.

  A lower bound of the Lipschitz constant L, so `diameter` and `rho` of
  `generalisation_bound` come out too small. Views that differ only by rounding
  measure the rounding of f instead.

  Example:
    >>> views = np.random.default_rng(0).random((5, 4, 8))
    >>> round(lipschitz_at_least(views, 3 * views), 3)
    3.0

  Args:
    views: v >= 2 views of n images, [n, v, p] or [n, v, h, w, c], in [0, 1].
    features: features f of the same views.
  """
  pixels = checks.flat_pixels(views)
  checks.check_features(features, rows=1, views=2)
  if pixels.shape[:2] != features.shape[:2]:
    raise ValueError(
      f"views {views.shape} and features {features.shape} must be of the same "
      "images and views: their first two dimensions differ"
    )
  steepest, differ = 0.0, False
  for x, f in float64_blocks(views=pixels, features=features):
    of_x, of_f = _pair_distances(x), _pair_distances(f)
    apart = of_x > 0
    steepest = max(steepest, np.max(of_f[apart] / of_x[apart], initial=0))
    differ |= bool(apart.any())
  if not differ:
    raise ValueError(
      f"the {features.shape[1]} views of each of {len(features)} images are "
      "identical; the Lipschitz constant needs views that differ"
    )
  return float(steepest)


class BoundTerms(NamedTuple):
  """Terms of `generalisation_bound`.

  Attributes:
    outside: 2 (1 - sigma), first term of rho.
    diverging: R_eps / min_l p_l, second term of rho.
    diameter: sigma L delta / r, third term of rho.
    tolerance: 2 sigma eps / r, fourth term of rho.
    rho: sum of the four terms.
    spread: Delta.
    threshold: r^2 (1 - rho - sqrt(2 rho) - Delta / 2).
    max_inner: max mu_k . mu_l over classes k != l.
    holds: True if max_inner < threshold, so that the bound is proven.
    bound: (1 - sigma) + R_eps, an upper bound on the error if `holds`.
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


def _rho_terms(
  one_minus_sigma: Any,
  delta: Any,
  divergence: Any,
  epsilon: Any,
  lipschitz: float,
  radius: float,
  min_share: float,
) -> dict[str, Any]:
  """Returns the four terms of rho, numbers or arrays."""
  sigma = 1 - one_minus_sigma
  return {
    "outside": 2 * one_minus_sigma,
    "diverging": divergence / min_share,
    "diameter": sigma * lipschitz * delta / radius,
    "tolerance": 2 * sigma * epsilon / radius,
  }


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
  """Evaluates `generalisation_bound` at the delta and epsilon of least rho.

  Example:
    >>> rng = np.random.default_rng(0)
    >>> views, labels = rng.random((20, 4, 8)), np.arange(20) % 2
    >>> h = unit_rows(rng.normal(size=(20, 4, 3)))
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
    class_means: mu_k, see `generalisation_bound` for all arguments.
    curve: result of `concentration_curve`.
    epsilons: distances in feature space.
    divergence: R_eps at each epsilon, from `divergence_curve`.
  """
  terms = _rho_terms(
    curve.one_minus_sigma[:, None],
    curve.deltas[:, None],
    np.asarray(divergence)[None],
    np.asarray(epsilons)[None],
    lipschitz,
    radius,
    min_share,
  )
  rho = sum(terms.values())
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
  """Bounds the error of the nearest-mean classifier, and says if it holds.

  If mu_k . mu_l < r^2 (1 - rho - sqrt(2 rho) - Delta / 2) for all k != l, the
  error is at most (1 - sigma) + R_eps, with

      rho = 2 (1 - sigma) + R_eps / min p_l + sigma (L delta / r + 2 eps / r)
      Delta = 1 - min_k |mu_k|^2 / r^2

  The condition rarely holds; the terms show why. The estimates of sigma, R_eps
  and L in this package are lower bounds, so rho may err either way.

  Example:
    >>> exact = dict(delta=0.0, divergence=0.0, epsilon=0.0, lipschitz=1.0)
    >>> bound = generalisation_bound(
    ...   np.eye(4), one_minus_sigma=0.001, radius=1.0, min_share=0.25, **exact
    ... )
    >>> bound.holds, bound.bound
    (True, 0.001)

  Args:
    class_means: mu_k, mean feature over all views of all images of class k.
    one_minus_sigma: 1 - sigma at `delta`, in [0, 1].
    delta: diameter of the main parts, in pixel space.
    divergence: R_eps at `epsilon`, in [0, 1].
    epsilon: distance in feature space.
    lipschitz: Lipschitz constant L from pixels to features.
    radius: norm r of all features.
    min_share: min_l p_l, share of the rarest class, in (0, 1 / k].
  """
  checks.check_features(class_means, "class_means")
  means = float64_rows(class_means=class_means)
  shares = {"one_minus_sigma": one_minus_sigma, "divergence": divergence}
  for name, share in shares.items():
    if not 0 <= share <= 1:
      raise ValueError(f"{name}={share} must be in [0, 1]")
  checks.check_not_negative(
    "delta, epsilon, lipschitz and radius", [delta, epsilon, lipschitz, radius]
  )
  # The tolerances below allow for shares and norms in float32.
  if not 0 < min_share <= (1 + 1e-6) / len(means):
    raise ValueError(
      f"min_share={min_share} must be in (0, 1/{len(means)}], the largest "
      f"possible share of the rarest of {len(means)} classes"
    )
  inner = means @ means.T
  longest = float(np.sqrt(inner.diagonal().max()))
  if not radius or longest > radius * (1 + 1e-3):
    raise ValueError(
      f"radius={radius} must be the norm of all features, but a class mean has "
      f"norm {longest:.6g}"
    )
  terms = _rho_terms(
    one_minus_sigma, delta, divergence, epsilon, lipschitz, radius, min_share
  )
  rho = sum(terms.values())
  spread = 1 - float(inner.diagonal().min()) / radius**2
  threshold = radius**2 * (1 - rho - np.sqrt(2 * rho) - spread / 2)
  max_inner = float(inner[~np.eye(len(means), dtype=bool)].max())
  return BoundTerms(
    **{name: float(term) for name, term in terms.items()},
    rho=float(rho),
    spread=spread,
    threshold=float(threshold),
    max_inner=max_inner,
    holds=bool(max_inner < threshold),
    bound=float(one_minus_sigma + divergence),
  )
