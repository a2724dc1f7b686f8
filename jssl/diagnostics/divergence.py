"""How far apart a feature map leaves the views of an image.

R_eps and the Lipschitz constant of Huang, Yi, Zhao and Jiang, "Towards the
Generalization of Contrastive Self-Supervised Learning", ICLR 2023, arXiv
2111.00743; both are terms of `generalisation_bound`.
"""

from collections.abc import Sequence
from functools import partial

import jax
import jax.numpy as jnp
import numpy as np
from jax.sharding import Mesh
from jaxtyping import Array, Bool, Float

from jssl.diagnostics import blocks
from jssl.diagnostics.checks import (
  check_features,
  check_not_negative,
  check_views,
  flat_pixels,
)


def _pair_distances(x: Float[Array, "b v d"]) -> Float[Array, "v b v"]:
  """Returns the distances between all views of each image."""
  x = x.astype(jnp.float32)
  return jax.lax.map(
    lambda view: jnp.sqrt(jnp.sum((x - view[:, None]) ** 2, -1)),
    x.swapaxes(0, 1),
  )


@jax.jit
def _count_wider(
  limits: Float[Array, "t"],
  counted: Bool[Array, "b"],
  x: Float[Array, "b v d"],
  weights: Float[Array, "b"],
) -> tuple[Float[Array, "t"], Float[Array, ""]]:
  width = _pair_distances(x).max((0, 2))
  wider = (width[:, None] > limits[None]) & counted[:, None]
  return jnp.where(wider, weights[:, None], 0).sum(0), width.sum()


def divergence_curve(
  features: Float[np.ndarray, "n v d"],
  epsilons: Sequence[float] | Float[np.ndarray, "t"],
  *,
  weights: Float[np.ndarray, "n"] | None = None,
  mesh: Mesh | None = None,
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
    weights: weight of each image, not negative; None: equal weights. Class
      frequencies turn a class-balanced sample into an estimate for the set.
    mesh: mesh to split images over; None: one device.

  Returns:
    The share for each epsilon, from float32 differences.
  """
  check_views(features, "features", rows=1)
  limits = check_not_negative("epsilons", epsilons)
  n = len(features)
  own = np.ones(n) if weights is None else weights
  own = check_not_negative("weights", own)
  if own.shape != (n,) or not own.any():
    raise ValueError(
      f"weights must be [n] = ({n},) and not all zero, not {own.shape} with "
      f"the sum {own.sum():g}"
    )
  # Scaled to mean 1: equal weights then add up to whole numbers exactly.
  wider, _ = blocks.sums(
    partial(_count_wider, jnp.asarray(limits, jnp.float32)),
    features,
    own / own.mean(),
    mesh=mesh,
  )
  return np.minimum(wider / n, 1)


@jax.jit
def _steepest(
  x: Float[Array, "b v p"], f: Float[Array, "b v d"]
) -> tuple[Float[Array, ""], Float[Array, "2"]]:
  of_x, of_f = _pair_distances(x), _pair_distances(f)
  ratio = jnp.where(of_x > 0, of_f / jnp.where(of_x > 0, of_x, 1), 0)
  return ratio.max(), jnp.stack([of_x.sum(), of_f.sum()])


def lipschitz_at_least(
  views: Float[np.ndarray, "n v *pixel"],
  features: Float[np.ndarray, "n v d"],
  *,
  mesh: Mesh | None = None,
) -> float:
  """Returns max |f(x') - f(x'')| / |x' - x''| over pairs of views of an image.

  This is a lower bound of the Lipschitz constant L of f, so `diameter` and
  `rho` of `generalisation_bound` come out too small. Views that differ only by
  rounding measure the rounding of f instead.

  Example:
    >>> views = np.random.default_rng(0).random((5, 4, 8))
    >>> round(lipschitz_at_least(views, 3 * views), 3)
    3.0

  Args:
    views: v >= 2 views of n images, [n, v, p] or [n, v, h, w, c], in [0, 1].
    features: features f of the same views.
    mesh: mesh to split images over; None: one device.
  """
  pixels = flat_pixels(views)
  check_features(features, rows=1, views=2)
  if pixels.shape[:2] != features.shape[:2]:
    raise ValueError(
      f"views {views.shape} and features {features.shape} must be of the same "
      "images and views: their first two dimensions differ"
    )
  steepest, widths = 0.0, np.zeros(2)
  # Zero rows that pad a block are identical views, which do not count.
  for _, *block in blocks.device_blocks(pixels, features, mesh=mesh):
    ratio, block_widths = _steepest(*block)
    steepest = max(steepest, float(ratio))
    widths += np.asarray(block_widths, np.float64)
  blocks.check_finite(widths[0], pixels, name="views")
  blocks.check_finite(widths[1], features)
  if not widths[0]:
    raise ValueError(
      f"the {features.shape[1]} views of each of {len(features)} images are "
      "identical; the Lipschitz constant needs views that differ"
    )
  return steepest
