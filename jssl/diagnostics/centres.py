"""Class centres: how far apart they are, and the nearest-mean classifier.

Centre measures follow Huang et al., ICLR 2023 (arXiv 2111.00743). Ideal
representations of Dubois et al. (NeurIPS 2022, arXiv 2209.06235) have centres
on a simplex; the distance to it is our own measure.
"""

from functools import partial
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jax.sharding import Mesh
from jaxtyping import Array, Bool, Float, Int

from jssl.diagnostics import blocks
from jssl.diagnostics.checks import check_features, check_labels
from jssl.diagnostics.rows import (
  ROUNDING,
  float32_rows,
  float64_mean,
  nan_unless_finite,
  product,
  unit_rows,
)


class ClassMeans(NamedTuple):
  """Means of classes, in float64.

  Attributes:
    counts: number of rows of each class.
    means: mean feature mu_k of each class; NaN for a class without rows.
    radius: root mean square r of the norms of all rows; 1 if normalised.
  """

  counts: Int[np.ndarray, "k"]
  means: Float[np.ndarray, "k d"]
  radius: float

  @property
  def seen(self) -> Float[np.ndarray, "c d"]:
    """Means of the classes that have rows."""
    return self.means[self.counts > 0]


@partial(jax.jit, static_argnames=("num_classes", "normalise"))
def _class_sums(
  shift: Float[Array, "d"],
  counted: Bool[Array, "b"],
  features: Float[Array, "b d"],
  labels: Int[Array, "b"],
  *,
  num_classes: int,
  normalise: bool,
) -> tuple[Float[Array, "k d"], Float[Array, ""]]:
  x = float32_rows(features, normalise=normalise)
  x = jnp.where(counted[:, None], x, shift[None])
  of_class = jax.nn.one_hot(labels, num_classes)
  total = product(of_class.T, x - shift[None])
  return total, jnp.sum(jnp.where(counted[:, None], x, 0) ** 2)


def class_means(
  features: Float[np.ndarray, "n d"],
  labels: Int[np.ndarray, "n"],
  num_classes: int,
  *,
  normalise: bool = True,
  mesh: Mesh | None = None,
) -> ClassMeans:
  """Computes the mean feature of each class in one pass.

  For means over views, as in Huang et al. (2023), pass all views as rows.

  Example:
    >>> rng = np.random.default_rng(0)
    >>> h = rng.normal(size=(100, 8)).astype("float32")
    >>> means = class_means(h, np.arange(100) % 10, 10)

  Args:
    features: [n, d], in memory or memory-mapped.
    labels: class of each row, [n].
    num_classes: number of classes k; at least two must have rows.
    normalise: True to project features onto the unit sphere.
  """
  check_features(features)
  labels = check_labels(labels, len(features), num_classes)
  counts = np.bincount(labels, minlength=num_classes)
  if np.sum(counts > 0) < 2:
    raise ValueError(
      f"all {len(labels)} rows are of class {labels[0]}; this measure needs at "
      "least 2 classes"
    )
  # Float32 sums about a point near the mean lose few digits.
  first = np.asarray(features[: blocks.BLOCK_ROWS])
  shift = float64_mean(unit_rows(first) if normalise else first)
  shift = shift.astype(np.float32)
  total, square = blocks.sums(
    partial(_class_sums, shift, num_classes=num_classes, normalise=normalise),
    features,
    labels.astype(np.int32),
    mesh=mesh,
  )
  means = np.full(total.shape, np.nan)
  seen = counts > 0
  means[seen] = shift + total[seen] / counts[seen, None]
  return ClassMeans(counts, means, float(np.sqrt(square / len(features))))


class CentreDivergence(NamedTuple):
  """Inner products mu_k . mu_l of the means of different classes.

  Attributes:
    max: largest product, that of the nearest two classes.
    mean: mean over all pairs.
  """

  max: float
  mean: float


def centre_divergence(means: ClassMeans) -> CentreDivergence:
  """Returns the largest and mean inner product of class centres.

  `generalisation_bound` needs all products below a number smaller than r^2.
  Products are -1 / (k - 1) for k unit centres on a simplex, r^2 at collapse.

  Example:
    >>> h = np.array([[1.0, 0.0], [0.6, 0.8]])
    >>> round(centre_divergence(class_means(h, np.array([0, 1]), 2)).max, 3)
    0.6

  Args:
    means: result of `class_means`; classes without rows are left out.
  """
  centres = means.seen
  products = centres @ centres.T
  between = products[~np.eye(len(centres), dtype=bool)]
  return CentreDivergence(float(between.max()), float(between.mean()))


def centre_shrinkage(
  means: ClassMeans, *, radius: float | None = None
) -> float:
  """Returns Delta = 1 - min_k ||mu_k||^2 / r^2 of Huang et al. (ICLR 2023).

  0 if every class is one point, 1 if the mean of a class is 0.

  Example:
    >>> h = np.array([[1.0, 0.0], [0.0, 1.0], [-1.0, 0.0]])
    >>> round(centre_shrinkage(class_means(h, np.array([0, 0, 1]), 2)), 3)
    0.5

  Args:
    means: result of `class_means`; classes without rows are left out.
    radius: norm r of all features; None: their root mean square.
  """
  r = means.radius if radius is None else radius
  if not r > 0:
    raise ValueError(f"radius must be positive, not {r}: are all features 0?")
  return float(1 - np.min(np.sum(means.seen**2, 1)) / r**2)


@partial(jax.jit, static_argnames="normalise")
def count_wrong(
  shift: Float[Array, "d"],
  centres: Float[Array, "k d"],
  bias: Float[Array, "k"],
  counted: Bool[Array, "b"],
  features: Float[Array, "b d"],
  labels: Int[Array, "b"],
  *,
  normalise: bool,
) -> tuple[Int[Array, ""], Float[Array, ""]]:
  """Counts labels >= 0 without the largest score <x - shift, centre> + bias.

  The second result is NaN if features are not finite.
  """
  x = float32_rows(features, normalise=normalise) - shift[None]
  # With bias = -|mu|^2 / 2 the argmax is the nearest centre, because
  # |x - mu|^2 = |x|^2 - 2 (<x, mu> - |mu|^2 / 2).
  scores = product(x, centres.T) + bias[None]
  known = counted & (labels >= 0)
  wrong = jnp.sum(known & (jnp.argmax(scores, 1) != labels))
  return wrong, nan_unless_finite(x)


def nearest_mean_error(
  features: Float[np.ndarray, "n d"],
  labels: Int[np.ndarray, "n"],
  means: ClassMeans,
  *,
  normalise: bool = True,
  mesh: Mesh | None = None,
) -> float:
  """Returns the error of the nearest-class-mean classifier.

  Distances are Euclidean; ties go to the lowest class, so the error at collapse
  is 1 - (share of the lowest class). Rows of classes without a mean are left
  out. Huang et al. bound the error for one view of each image, with means over
  all views.

  Example:
    >>> rng = np.random.default_rng(0)
    >>> h, y = rng.normal(size=(100, 8)).astype("float32"), np.arange(100) % 10
    >>> error = nearest_mean_error(h, y, class_means(h, y, 10))

  Args:
    features: [n, d], in memory or memory-mapped.
    labels: class of each row, [n].
    means: result of `class_means`, on these or other rows.
    normalise: same value as in `class_means`.
  """
  check_features(features, rows=1)
  labels = check_labels(labels, len(features), len(means.counts))
  if features.shape[1] != means.means.shape[1]:
    raise ValueError(
      f"features {features.shape} must be as wide as means {means.means.shape}"
    )
  shift = means.seen.mean(0).astype(np.float32)
  seen = means.counts > 0
  known = seen[labels]
  if not known.any():
    raise ValueError(
      f"no row of {len(labels)} is of the {seen.sum()} classes that have a mean"
    )
  centres = np.where(seen[:, None], means.means - shift, 0)
  bias = np.where(seen, -np.sum(centres**2, 1) / 2, -np.inf)
  constants = (shift, centres.astype(np.float32), bias.astype(np.float32))
  wrong, _ = blocks.sums(
    partial(count_wrong, *constants, normalise=normalise),
    features,
    np.where(known, labels, -1).astype(np.int32),
    mesh=mesh,
  )
  return float(wrong / known.sum())


class SimplexDistance(NamedTuple):
  """Distance of centres to a simplex equiangular tight frame.

  Attributes:
    distance: Frobenius norm of the difference to the cosines of the simplex,
      over the norm of those: 0 for a simplex, 1 if all centres are one point.
    norm_variation: standard deviation of the centres' norms over their mean: 0
      for a simplex, and if all centres are one point.
  """

  distance: float
  norm_variation: float


def simplex_distance(means: Float[np.ndarray, "k d"]) -> SimplexDistance:
  """Returns the distance of centres to the vertices of a regular simplex.

  Centres are taken about their mean. In a simplex they have equal norms and
  cosines of -1 / (k - 1), which needs d >= k - 1 dimensions; with fewer the
  distance is at least sqrt((k - 1) / d - 1). Centres that are equal up to
  float32 rounding count as one point.

  Example:
    >>> round(simplex_distance(np.eye(10)).distance, 6)
    0.0

  Args:
    means: centres of classes (`ClassMeans.seen`) or of images, [k, d].
  """
  check_features(means, "means")
  blocks.check_finite(means, means, name="means")
  k = len(means)
  # Relative to the first, so that equal centres have exactly that mean.
  wide = means.astype(np.float64)
  centres = wide - wide[0]
  centres -= centres.mean(0)
  if np.sum(centres**2) <= ROUNDING * np.sum(wide**2):
    # Otherwise the directions of rounding errors would count.
    centres = np.zeros_like(centres)
  norms = np.linalg.norm(centres, axis=1)
  directions = unit_rows(centres)
  rows = blocks.tile_rows(k)
  square = 0.0
  for start in range(0, k, rows):
    gap = directions[start : start + rows] @ directions.T + 1 / (k - 1)
    own = np.arange(len(gap))
    gap[own, start + own] -= k / (k - 1)
    square += float(np.sum(gap**2))
  variation = norms.std() / norms.mean() if norms.any() else 0.0
  return SimplexDistance(
    distance=float(np.sqrt(square * (k - 1)) / k),
    norm_variation=float(variation),
  )
