"""Linear predictability of the image from the feature of a view.

One of the conditions for perfect linear probes in Dubois et al., NeurIPS 2022,
arXiv 2209.06235 (see `jssl.diagnostics.entropies`). The estimate is our own.
"""

from functools import partial

import jax
import jax.numpy as jnp
import numpy as np
from jax.sharding import Mesh
from jaxtyping import Array, Bool, Float, Int

from jssl.diagnostics import blocks
from jssl.diagnostics.checks import (
  check_features,
  check_positive,
  check_views_differ,
)
from jssl.diagnostics.entropies import image_means
from jssl.diagnostics.rows import nan_unless_finite, product
from jssl.diagnostics.spectrum import second_moment


@jax.jit
def _hits(
  mean: Float[Array, "d"],
  weights: Float[Array, "d n"],
  counted: Bool[Array, "b"],
  features: Float[Array, "b d"],
  images: Int[Array, "b"],
) -> tuple[Int[Array, ""], Float[Array, ""]]:
  x = features.astype(jnp.float32) - mean[None]
  scores = product(x, weights)
  hits = jnp.sum(counted & (jnp.argmax(scores, 1) == images))
  return hits, nan_unless_finite(x)


def linear_predictability(
  train_views: Float[np.ndarray, "n v d"],
  test_views: Float[np.ndarray, "n w d"],
  *,
  l2: float = 1e-3,
  mesh: Mesh | None = None,
) -> float:
  """Returns the accuracy of a linear map from a new view to its image.

  The map is ridge regression onto one-hot images with a bias, in closed form:

      argmax_i <x - m, (S + lambda I)^-1 (c_i - m)>,

  with S the covariance and m the mean of all training views, and c_i the mean
  of those of image i. The accuracy is a lower bound of what linear maps reach;
  1/n at collapse. Time O(n^2 w d), memory O(n d + d^2).

  Example:
    >>> h = np.random.default_rng(0).normal(size=(100, 4, 8)).astype("float32")
    >>> accuracy = linear_predictability(h[:, :2], h[:, 2:])

  Args:
    train_views: features of v views of n images, [n, v, d], to fit.
    test_views: features of w other views of the same images in the same order,
      [n, w, d].
    l2: lambda relative to the mean eigenvalue of S.
    mesh: mesh to split images over; None: one device.
  """
  check_features(train_views, "train_views", views=1)
  check_features(test_views, "test_views", views=1)
  n, v, d = train_views.shape
  w = test_views.shape[1]
  if test_views.shape != (n, w, d):
    raise ValueError(
      f"train_views {train_views.shape} and test_views {test_views.shape} must "
      "be of the same images and the same model: equal n and d"
    )
  check_positive(l2=l2)
  check_views_differ(train_views, test_views, name="train_views and test_views")
  centres = image_means(train_views, "train_views")
  mean = centres.mean(0)
  # One view at a time: reshaping a slice of a memory-mapped array would read
  # all of it.
  covariance = np.zeros((d, d))
  for i in range(v):
    moment = second_moment(train_views[:, i], mesh=mesh)
    gap = moment.mean - mean
    covariance += (moment.scatter / n + np.outer(gap, gap)) / v
  # The covariance of collapsed features is 0, and any ridge gives the same.
  ridge = l2 * np.trace(covariance) / d or 1.0
  weights = np.linalg.solve(covariance + ridge * np.eye(d), (centres - mean).T)
  constants = blocks.replicate(
    (mean.astype(np.float32), weights.astype(np.float32)), mesh
  )
  hits = 0.0
  for i in range(w):
    correct, _ = blocks.sums(
      partial(_hits, *constants),
      test_views[:, i],
      np.arange(n, dtype=np.int32),
      name="test_views",
      block_rows=blocks.tile_rows(n),
      mesh=mesh,
    )
    hits += float(correct)
  return hits / (n * w)
