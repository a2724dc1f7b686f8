"""Class centres: how far apart they are, and the nearest-mean classifier.

Centre measures follow Huang et al., ICLR 2023 (arXiv 2111.00743). Ideal
representations of Dubois et al. (NeurIPS 2022, arXiv 2209.06235) have centres
on a simplex; the distance to it is our own measure.
"""

from typing import NamedTuple

import numpy as np
from jaxtyping import Float, Int

from jssl.diagnostics.checks import check_features, check_labels
from jssl.diagnostics.pairs import TILE
from jssl.diagnostics.rows import (
  ROUNDING,
  Matrix,
  float64_blocks,
  float64_rows,
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


def class_means(
  features: Float[np.ndarray, "n d"],
  labels: Int[np.ndarray, "n"],
  num_classes: int,
  *,
  normalise: bool = True,
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
  total, square = np.zeros((num_classes, features.shape[1])), 0.0
  for x, own in float64_blocks(features=features, labels=labels):
    x = unit_rows(x) if normalise else x
    np.add.at(total, own, x)
    square += np.sum(x**2)
  with np.errstate(invalid="ignore"):
    means = total / counts[:, None]
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


def nearest_mean_error(
  features: Matrix,
  labels: Int[np.ndarray, "n"],
  means: ClassMeans,
  *,
  normalise: bool = True,
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
  classes = np.flatnonzero(means.counts)
  known = np.isin(labels, classes)
  if not known.any():
    raise ValueError(
      f"no row of {len(labels)} is of the {len(classes)} classes that have a "
      "mean"
    )
  centres = means.seen
  wrong = 0
  for x, own in float64_blocks(features=features, labels=labels):
    x = unit_rows(x) if normalise else x
    # |x - mu|^2 = |x|^2 - 2 (<x, mu> - |mu|^2 / 2)
    scores = x @ centres.T - np.sum(centres**2, 1) / 2
    nearest = classes[scores.argmax(1)]
    wrong += np.sum((nearest != own) & np.isin(own, classes))
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
  wide = float64_rows(means=means)
  k = len(wide)
  # Relative to the first, so that equal centres have exactly that mean.
  centres = wide - wide[0]
  centres -= centres.mean(0)
  if np.sum(centres**2) <= ROUNDING * np.sum(wide**2):
    # Otherwise the directions of rounding errors would count.
    centres = np.zeros_like(centres)
  norms = np.linalg.norm(centres, axis=1)
  directions = unit_rows(centres)
  rows = max(1, TILE // k)
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
