"""Where the centres of classes are, how far apart, and who is nearest to them.

The measures of class centres are those of Huang, Yi, Zhao and Jiang, "Towards
the Generalization of Contrastive Self-Supervised Learning", ICLR 2023 (arXiv
2111.00743). The simplex is where the representations of Dubois et al. (NeurIPS
2022, arXiv 2209.06235) go; how far it is, is measured our own way.
"""

from functools import partial
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jax.sharding import Mesh
from jaxtyping import Array, Bool, Float, Int

from jssl.diagnostics import blocks
from jssl.diagnostics.checks import check_features, check_finite, check_labels
from jssl.diagnostics.rows import (
  ROUNDING,
  not_finite,
  product,
  unit_rows,
  wide_rows,
)


class ClassMeans(NamedTuple):
  """Where the classes are, in float64.

  Attributes:
    counts: rows of each class.
    means: mu_k, the mean feature of each class; NaN for one without rows.
    radius: r, root of the mean squared norm of all rows; 1 if normalised.
  """

  counts: Int[np.ndarray, "k"]
  means: Float[np.ndarray, "k d"]
  radius: float

  @property
  def seen(self) -> Float[np.ndarray, "c d"]:
    """The means of the classes that have rows."""
    return self.means[self.counts > 0]


def _shift(
  features: Float[np.ndarray, "n d"], *, normalise: bool
) -> Float[np.ndarray, "d"]:
  """Returns a point near the mean, about which float32 sums lose little."""
  first = np.asarray(features[: blocks.BLOCK_ROWS])
  with np.errstate(invalid="ignore"):
    mean = (unit_rows(first) if normalise else first).mean(0, dtype=np.float64)
  return mean.astype(np.float32)


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
  x = wide_rows(features, normalise=normalise)
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
  """Returns the mean feature of each class, in one pass.

  Huang et al. (ICLR 2023) take it over views too: give all views as rows, each
  with its image's label.

  Example:
    >>> import numpy as np
    >>> rng = np.random.default_rng(0)
    >>> h = rng.normal(size=(100, 8)).astype("float32")
    >>> means = class_means(h, np.arange(100) % 10, 10)

  Args:
    features: [n, d], in memory or memory-mapped.
    labels: class of each row, [n].
    num_classes: k; some may have no row, two must have.
    normalise: take the features on the unit sphere.
    mesh: rows are split over all its devices; None is one device.

  Raises:
    ValueError: `features` is not [n, d] with n >= 2, or not finite; a row has
      no label, or one of num_classes or more; fewer than two classes have rows.
    TypeError: features are not of a floating dtype, or labels not integers.
  """
  check_features(features)
  labels = check_labels(labels, len(features), num_classes)
  counts = np.bincount(labels, minlength=num_classes)
  if np.sum(counts > 0) < 2:
    raise ValueError(
      f"all {len(labels)} rows are of class {labels[0]}; this measure needs at "
      "least 2 classes"
    )
  shift = _shift(features, normalise=normalise)
  total, square = blocks.sums(
    partial(_class_sums, shift, num_classes=num_classes, normalise=normalise),
    features,
    labels.astype(np.int32),
    mesh=mesh,
  )
  check_finite((total, square), features)
  means = np.full(total.shape, np.nan)
  seen = counts > 0
  means[seen] = shift + total[seen] / counts[seen, None]
  return ClassMeans(counts, means, float(np.sqrt(square / len(features))))


class CentreDivergence(NamedTuple):
  """Products mu_k . mu_l of the means of different classes.

  Attributes:
    max: the largest: how far from divergent the nearest two classes are.
    mean: over all pairs.
  """

  max: float
  mean: float


def centre_divergence(means: ClassMeans) -> CentreDivergence:
  """Returns how far from divergent the class centres are.

  The bound of `nearest_mean_error` wants every product below a number that is
  smaller than r^2. For k unit centres as far apart as can be (a simplex), all
  products are -1 / (k - 1); at collapse they are r^2.

  Example:
    >>> import numpy as np
    >>> h = np.array([[1.0, 0.0], [0.6, 0.8]])
    >>> round(centre_divergence(class_means(h, [0, 1], 2)).max, 3)
    0.6

  Args:
    means: of `class_means`; classes without rows are left out.

  Reference:
    Huang et al., ICLR 2023.
  """
  centres = means.seen
  products = centres @ centres.T
  between = products[~np.eye(len(centres), dtype=bool)]
  return CentreDivergence(float(between.max()), float(between.mean()))


def centre_shrinkage(
  means: ClassMeans, *, radius: float | None = None
) -> float:
  """Returns Delta = 1 - min_k ||mu_k||^2 / r^2 of Huang et al. (ICLR 2023).

  How much the widest class has shrunk towards 0 on averaging: 0 where every
  class is one point, 1 where one has its mean at 0.

  Example:
    >>> import numpy as np
    >>> h = np.array([[1.0, 0.0], [0.0, 1.0], [-1.0, 0.0]])
    >>> round(centre_shrinkage(class_means(h, [0, 0, 1], 2)), 3)
    0.5

  Args:
    means: of `class_means`; classes without rows are left out.
    radius: r, the norm of all features; None takes their root mean square,
      which is it where all norms are the same.

  Raises:
    ValueError: the radius isn't positive (all features are 0).
  """
  r = means.radius if radius is None else radius
  if not r > 0:
    raise ValueError(f"radius must be positive, not {r}: are all features 0?")
  return float(1 - np.min(np.sum(means.seen**2, 1)) / r**2)


@partial(jax.jit, static_argnames="normalise")
def _wrong(
  shift: Float[Array, "d"],
  centres: Float[Array, "k d"],
  bias: Float[Array, "k"],
  counted: Bool[Array, "b"],
  features: Float[Array, "b d"],
  labels: Int[Array, "b"],
  *,
  normalise: bool,
) -> tuple[Int[Array, ""], Float[Array, ""]]:
  x = wide_rows(features, normalise=normalise) - shift[None]
  # |x - mu|^2 = |x|^2 - 2 (<x, mu> - |mu|^2 / 2)
  scores = product(x, centres.T) + bias[None]
  known = counted & (labels >= 0)
  wrong = jnp.sum(known & (jnp.argmax(scores, 1) != labels))
  return wrong, not_finite(x)


def nearest_mean_error(
  features: Float[np.ndarray, "n d"],
  labels: Int[np.ndarray, "n"],
  means: ClassMeans,
  *,
  normalise: bool = True,
  mesh: Mesh | None = None,
) -> float:
  """Returns the fraction of rows whose nearest class mean isn't their class's.

  Distances are Euclidean; of equal ones the lowest class wins, so it is
  1 - (share of the lowest class) at collapse. Rows of a class without a mean
  are left out: it is the error over the classes that have one. Huang et al.
  bound it for one view of each image, with means over all views.

  Example:
    >>> import numpy as np
    >>> rng = np.random.default_rng(0)
    >>> h, y = rng.normal(size=(100, 8)).astype("float32"), np.arange(100) % 10
    >>> error = nearest_mean_error(h, y, class_means(h, y, 10))

  Args:
    features: [n, d], in memory or memory-mapped.
    labels: class of each row, [n].
    means: of `class_means`, of these or other rows; classes without rows are
      nobody's nearest.
    normalise: as it was for `means`.
    mesh: rows are split over all its devices; None is one device.

  Raises:
    ValueError: `features` is not [n, d] with the d of `means`, or not finite; a
      row has no label, or one of num_classes or more; no row is of a class that
      has a mean.
    TypeError: features are not of a floating dtype, or labels not integers.

  Reference:
    Huang et al., ICLR 2023: the classifier G_f.
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
  wrong, total = blocks.sums(
    partial(_wrong, *constants, normalise=normalise),
    features,
    np.where(known, labels, -1).astype(np.int32),
    mesh=mesh,
  )
  check_finite(total, features)
  return float(wrong / known.sum())


class SimplexDistance(NamedTuple):
  """How far centres are from a simplex equiangular tight frame.

  Attributes:
    distance: ||cosines - those of the simplex|| / ||those of the simplex||, in
      Frobenius norm: 0 for a simplex, 1 where all centres are one point.
    norm_variation: standard deviation of the centres' norms over their mean: 0
      for a simplex, and where all centres are one point.
  """

  distance: float
  norm_variation: float


def simplex_distance(means: Float[np.ndarray, "k d"]) -> SimplexDistance:
  """Returns the distance of centres to the vertices of a regular simplex.

  Centres are taken about their mean, and are one point where they differ from
  it by no more than the rounding of float32; those of a simplex have cosines of
  -1 / (k - 1) to each other and equal norms. It takes k - 1 dimensions: where d
  < k - 1 the distance can't be 0, but is at least sqrt((k - 1) / d - 1), that
  of a tight frame. Two centres are always a simplex. O(k^2 d) in float64 on the
  host, some rows at a time.

  Example:
    >>> import numpy as np
    >>> round(simplex_distance(np.eye(10)).distance, 6)
    0.0

  Args:
    means: of classes of labels, `ClassMeans.seen`, or of images, [k, d].

  Raises:
    ValueError: it is not [k, d] with k >= 2, or not finite.
    TypeError: it is not of a floating dtype.
  """
  check_features(means, name="means")
  check_finite(means, means, name="means")
  k = len(means)
  # From the first, so that the mean of equal ones is exactly theirs.
  wide = means.astype(np.float64)
  centres = wide - wide[0]
  centres -= centres.mean(0)
  if np.sum(centres**2) <= ROUNDING * np.sum(wide**2):
    # One point: the directions of what rounding left would be random.
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
