"""What a map does to views of an image: how far apart it leaves them.

R_eps and a Lipschitz constant of Huang, Yi, Zhao and Jiang, "Towards the
Generalization of Contrastive Self-Supervised Learning", ICLR 2023, arXiv
2111.00743; terms of their bound (`jssl.diagnostics.bound`).
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
  check_finite,
  check_not_negative,
  check_views,
  check_views_differ,
  flat_pixels,
)


def _spans(x: Float[Array, "b v d"]) -> Float[Array, "v b v"]:
  """Distances between all views of an image."""
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
  width = _spans(x).max((0, 2))
  wider = (width[:, None] > limits[None]) & counted[:, None]
  return jnp.where(wider, weights[:, None], 0).sum(0), width.sum()


def divergence_curve(
  features: Float[np.ndarray, "n v d"],
  epsilons: Sequence[float] | Float[np.ndarray, "t"],
  *,
  weights: Float[np.ndarray, "n"] | None = None,
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
    weights: of the images, not negative; None: all count alike. A sample that
      has as many images of each class says R_eps of the set where each counts
      as much as its class has images there.
    mesh: images are split over all its devices; None is one device.

  Returns:
    A share for each epsilon, from differences in float32.

  Raises:
    ValueError: `features` are not [n, v, d] with v >= 2, or not finite, or all
      views of each image are the same; there is not one weight an image, or all
      are 0; an epsilon or a weight is negative or not finite.
    TypeError: `features` are not floating.

  Reference:
    Huang et al., ICLR 2023.
  """
  check_views(features, name="features", rows=1)
  check_views_differ(features, name="features")
  limits = check_not_negative("epsilons", epsilons)
  n = len(features)
  own = np.ones(n) if weights is None else weights
  own = check_not_negative("weights", own)
  if own.shape != (n,) or not own.any():
    raise ValueError(
      f"weights must be [n] = ({n},), some of them positive, not {own.shape} "
      f"with the sum {own.sum():g}"
    )
  # Of mean 1: whole numbers, where all are alike, have no rounding.
  wider, widths = blocks.sums(
    partial(_count_wider, jnp.asarray(limits, jnp.float32)),
    features,
    own / own.mean(),
    mesh=mesh,
  )
  check_finite(widths, features)
  return np.minimum(wider / n, 1)


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
