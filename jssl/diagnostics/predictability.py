"""Whether linear maps tell from the feature of a view which image it is of.

One of the conditions of perfect linear probes, see `entropies`: Dubois et al.,
NeurIPS 2022, arXiv 2209.06235. How it is measured is this project's own.
"""

from functools import partial

import jax
import jax.numpy as jnp
import numpy as np
from jax.sharding import Mesh
from jaxtyping import Array, Bool, Float, Int

from jssl.diagnostics import blocks
from jssl.diagnostics.checks import (
  check_finite,
  check_positive,
  check_views,
  check_views_differ,
)
from jssl.diagnostics.entropies import image_means
from jssl.diagnostics.rows import not_finite, product
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
  return hits, not_finite(x)


def linear_predictability(
  train_views: Float[np.ndarray, "n v d"],
  test_views: Float[np.ndarray, "n w d"],
  *,
  l2: float = 1e-3,
  mesh: Mesh | None = None,
) -> float:
  """Returns how often a linear map tells the image of a new view.

  Linear predictability of M is what perfect linear probes on all invariant
  tasks need (see `entropies`). Own recipe: the accuracy, best of n, of ridge
  regression onto one-hot images with a bias,

      argmax_i <x - m, (S + lambda I)^-1 (c_i - m)>,

  S the covariance and m the mean of all training views, c_i the mean of those
  of image i: a closed form that needs no more than these. It is a lower bound
  of what linear maps can do. 1/n at collapse. Time O(n^2 w d), a tile at a
  time; memory O(n d + d^2).

  Example:
    >>> import numpy as np
    >>> h = np.random.default_rng(0).normal(size=(100, 4, 8)).astype("float32")
    >>> accuracy = linear_predictability(h[:, :2], h[:, 2:])

  Args:
    train_views: features of v views of n images, [n, v, d]; fitted to.
    test_views: of other views of the same images in the same order, [n, w, d].
    l2: lambda over the mean of the eigenvalues of S; positive.
    mesh: images are split over all its devices; None is one device.

  Raises:
    ValueError: the two aren't [n, v, d] and [n, w, d] with n >= 2 and v, w >=
      1, or not finite; all views of each image, in both, are the same: the test
      would be of what was fitted; l2 isn't positive.
    TypeError: one is not of a floating dtype.
  """
  check_views(train_views, name="train_views", num_views=1)
  check_views(test_views, name="test_views", num_views=1)
  shapes = train_views.shape, test_views.shape
  if shapes[0][::2] != shapes[1][::2]:
    raise ValueError(
      f"train_views {shapes[0]} and test_views {shapes[1]} must be of the same "
      "images and the same model: equal n and d"
    )
  check_positive(l2=l2)
  check_views_differ(train_views, test_views, name="train_views and test_views")
  n, v, d = train_views.shape
  centres = image_means(train_views, "train_views")
  mean = centres.mean(0)
  # View by view: a slice of a memory-mapped array can't be made a matrix
  # without being read whole.
  covariance = np.zeros((d, d))
  for i in range(v):
    moment = second_moment(train_views[:, i], mesh=mesh)
    gap = moment.mean - mean
    covariance += (moment.scatter / n + np.outer(gap, gap)) / v
  # Collapsed features have none, and any will do.
  ridge = l2 * np.trace(covariance) / d or 1.0
  weights = np.linalg.solve(covariance + ridge * np.eye(d), (centres - mean).T)
  constants = blocks.everywhere(
    (mean.astype(np.float32), weights.astype(np.float32)), mesh
  )
  images = np.arange(n, dtype=np.int32)
  hits = 0.0
  for i in range(test_views.shape[1]):
    right, total = blocks.sums(
      partial(_hits, *constants),
      test_views[:, i],
      images,
      block_rows=blocks.tile_rows(n),
      mesh=mesh,
    )
    check_finite(total, test_views, name="test_views")
    hits += float(right)
  return hits / (n * test_views.shape[1])
