"""The bound on the error of the nearest-mean classifier, and what it needs.

Huang, Yi, Zhao and Jiang, "Towards the Generalization of Contrastive
Self-Supervised Learning", ICLR 2023, arXiv 2111.00743.
"""

from collections.abc import Sequence
from functools import partial
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jax.sharding import Mesh
from jaxtyping import Array, Bool, Float, Int

from jssl.diagnostics import blocks
from jssl.diagnostics.checks import (
  check_features,
  check_finite,
  check_not_negative,
  check_views,
  flat_pixels,
)
from jssl.diagnostics.concentration import ConcentrationCurve


def _spans(x: Float[Array, "b v d"]) -> Float[Array, "v b v"]:
  """Distances between all views of an image."""
  x = x.astype(jnp.float32)
  return jax.lax.map(
    lambda view: jnp.sqrt(jnp.sum((x - view[:, None]) ** 2, -1)),
    x.swapaxes(0, 1),
  )


@jax.jit
def _count_wider(
  limits: Float[Array, "t"], counted: Bool[Array, "b"], x: Float[Array, "b v d"]
) -> tuple[Int[Array, "t"], Float[Array, ""]]:
  width = _spans(x).max((0, 2))
  wider = (width[:, None] > limits[None]) & counted[:, None]
  return wider.sum(0), width.sum()


def divergence_curve(
  features: Float[np.ndarray, "n v d"],
  epsilons: Sequence[float] | Float[np.ndarray, "t"],
  *,
  mesh: Mesh | None = None,
) -> Float[np.ndarray, "t"]:
  """Returns R_eps: the share of images with views further apart than eps.

  R_eps = P[sup |f(x') - f(x'')| > eps], the supremum over the views that are
  given: a lower bound of that over all views.

  Example:
    >>> import numpy as np
    >>> h = np.array([[[1.0, 0], [1, 0]], [[1, 0], [0, 1]]])
    >>> divergence_curve(h, [0.5, 1.5])
    array([0.5, 0. ])

  Args:
    features: f of v views of n images.
    epsilons: not negative, in any order.
    mesh: images are split over all its devices; None is one device.

  Returns:
    A share for each epsilon, from differences in float32.

  Raises:
    ValueError: `features` are not [n, v, d] with v >= 2, or not finite, or an
      epsilon is negative or not finite.
    TypeError: `features` are not floating.

  Reference:
    Huang et al., ICLR 2023.
  """
  check_views(features, name="features", rows=1)
  limits = check_not_negative("epsilons", epsilons)
  counts, widths = blocks.sums(
    partial(_count_wider, jnp.asarray(limits, jnp.float32)), features, mesh=mesh
  )
  check_finite(widths, features)
  return counts / len(features)


@jax.jit
def _steepest(
  x: Float[Array, "b v p"], f: Float[Array, "b v d"]
) -> tuple[Float[Array, ""], Float[Array, "2"]]:
  of_x, of_f = _spans(x), _spans(f)
  ratio = jnp.where(of_x > 0, of_f / jnp.where(of_x > 0, of_x, 1), 0)
  return ratio.max(), jnp.stack([of_x.sum(), of_f.sum()])


def lipschitz_at_least(
  views: Float[np.ndarray, "n v *pixel"],
  features: Float[np.ndarray, "n v d"],
  *,
  mesh: Mesh | None = None,
) -> float:
  """Returns max |f(x') - f(x'')| / |x' - x''| over the views of each image.

  A lower bound of the Lipschitz constant L of f: what is built on it
  (`diameter` and `rho` of `generalisation_bound`) is too small, so optimistic.
  Views that differ by rounding only would show the rounding of f instead.

  Example:
    >>> import numpy as np
    >>> views = np.random.default_rng(0).random((5, 4, 8))
    >>> round(lipschitz_at_least(views, 3 * views), 3)
    3.0

  Args:
    views: v views of n images, [n, v, p] or [n, v, h, w, c], pixels in [0, 1].
    features: f of the same views.
    mesh: images are split over all its devices; None is one device.

  Raises:
    ValueError: shapes don't fit, v < 2, values are not finite, or all views of
      each image are identical.
    TypeError: `views` or `features` are not floating.
  """
  pixels = flat_pixels(views)
  check_views(features, name="features", rows=1)
  if pixels.shape[:2] != features.shape[:2]:
    raise ValueError(
      f"views {views.shape} and features {features.shape} must be of the same "
      "images and views: their first two dimensions differ"
    )
  rows = min(blocks.block_images(pixels), len(pixels))
  rows = blocks.rounded(rows, mesh)
  steepest, widths = 0.0, np.zeros(2)
  for start in range(0, len(pixels), rows):
    stop = start + rows
    # Rows of zeros that fill up a block are identical views, so not counted.
    ratio, block_widths = _steepest(
      blocks.put(pixels[start:stop], rows, mesh),
      blocks.put(features[start:stop], rows, mesh),
    )
    steepest = max(steepest, float(ratio))
    widths += np.asarray(block_widths, np.float64)
  check_finite(widths[0], pixels, name="views")
  check_finite(widths[1], features)
  if not widths[0]:
    raise ValueError(
      f"the {features.shape[1]} views of each of {len(features)} images are "
      "identical: the Lipschitz constant needs views that differ"
    )
  return steepest


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
