"""Information about the image that its features keep or lose, in nats.

M(x), the maximal invariant, is the image of which x is a view. Linear probes
can be perfect on every invariant task if and only if M is linearly predictable
from the feature, the feature is invariant, and d is at least the number of
classes minus one.

Dubois, Hashimoto, Ermon and Liang, "Improving Self-Supervised Learning by
Characterizing Idealized Representations", NeurIPS 2022, arXiv 2209.06235. The
estimates of H[M | Z] and of linear predictability are our own.
"""

from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jax.sharding import Mesh
from jaxtyping import Array, Float, Int

from jssl.diagnostics import checks, pairs
from jssl.diagnostics.rows import float64_blocks, unit_rows

# Candidate scales of the logits, from a uniform to a one-hot softmax. Larger
# scales would amplify the rounding of float32 cosines.
_SCALES = np.array([0, *2.0 ** np.arange(11)], np.float32)

# Tolerated error of a sum of probabilities, for bfloat16.
_SUM_TOLERANCE = 1e-2


def _entropy(probabilities: Float[np.ndarray, "k"]) -> float:
  positive = probabilities[probabilities > 0]
  return float(-np.sum(positive * np.log(positive)) + 0.0)


def maximal_invariant_entropy(
  classes: int | np.integer | Float[np.ndarray, "k"],
) -> float:
  """Returns H[M], the entropy of the image that a view comes from.

  Example:
    >>> round(maximal_invariant_entropy(50_000), 3)
    10.82

  Args:
    classes: number n of equally likely images, for log n, or their
      probabilities [k].
  """
  if isinstance(classes, int | np.integer):
    if classes < 1:
      raise ValueError(f"classes must be at least 1, not {classes}")
    return float(np.log(classes))
  wide = np.asarray(classes, np.float64)
  if wide.ndim != 1 or not np.all(wide >= 0) or not abs(wide.sum() - 1) < 1e-4:
    raise ValueError(
      "classes must be a number of images, or [k] probabilities that sum to 1; "
      f"got {wide.shape}, smallest {wide.min(initial=np.inf)}, sum {wide.sum()}"
    )
  return _entropy(wide / wide.sum())


def _image_means(
  **views: Float[np.ndarray, "n v d"],
) -> Float[np.ndarray, "n d"]:
  return np.concatenate([x.mean(1) for (x,) in float64_blocks(**views)])


@jax.jit
def _cross_entropies(
  scales: Float[Array, "s"],
  centres: Float[Array, "n d"],
  rows: Float[Array, "b d"],
  images: Int[Array, "b"],
) -> Float[Array, "b s"]:
  """Returns -log q(image | feature) of normalised features at each scale."""
  cosines = pairs.product(rows, centres.T)
  # Relative to the own image: the log of a sum close to 1 keeps its digits.
  cosines = cosines - jnp.take_along_axis(cosines, images[:, None], 1)
  return jax.lax.map(
    lambda scale: jax.nn.logsumexp(scale * cosines, axis=1), scales
  ).T


def conditional_entropy(
  views: Float[np.ndarray, "n v d"], *, mesh: Mesh | None = None
) -> float:
  """Estimates an upper bound of H[M | Z], the information lost about the image.

  By Gibbs' inequality, the cross-entropy of any predictor q of the image from
  the feature is at least H[M | Z]. The predictor is

      q(i | z) = softmax_i(scale cos(z, c_i)),

  with c_i the mean of the first half of image i's views, and cosines about the
  mean of all c_i. Half of the other views select the scale (0 or a power of 2
  up to 1024); the result is the mean cross-entropy over the rest: 0 if every
  view is nearest to its own image by a margin, log n = H[M] at collapse. Time
  O(n^2 v d), memory O(n d).

  Example:
    >>> h = np.random.default_rng(0).normal(size=(100, 4, 8)).astype("float32")
    >>> nats = conditional_entropy(h)

  Args:
    views: features of v >= 3 views of n distinct images, [n, v, d].
  """
  checks.check_views(views, num_views=3)
  n, v, d = views.shape
  train_end = v // 2
  select_end = train_end + (v - train_end) // 2
  centres = _image_means(views=views[:, :train_end])
  mean = centres.mean(0)
  centres = unit_rows(centres - mean).astype(np.float32)
  images = np.arange(n, dtype=np.int32)

  def cross_entropy(
    part: Float[np.ndarray, "n w d"], scales: Float[np.ndarray, "s"]
  ) -> Float[np.ndarray, "s"]:
    each = [
      pairs.map_tiles(
        _cross_entropies,
        (scales, centres),
        unit_rows(x - mean).reshape(-1, d).astype(np.float32),
        own.repeat(part.shape[1]),
        row_pairs=n,
        mesh=mesh,
      )
      for x, own in float64_blocks(views=part, images=images)
    ]
    return np.concatenate(each).mean(0, dtype=np.float64)

  best = int(np.argmin(cross_entropy(views[:, train_end:select_end], _SCALES)))
  measured = cross_entropy(views[:, select_end:], _SCALES[best : best + 1])
  # log n is a bound too, which the estimate may exceed by chance.
  return float(min(measured[0], np.log(n)))


@jax.jit
def _best(
  weights: Float[Array, "n d"], rows: Float[Array, "b d"]
) -> Int[Array, "b"]:
  return jnp.argmax(pairs.product(rows, weights.T), 1)


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
    test_views: features of w other views of the same images, [n, w, d].
    l2: lambda relative to the mean eigenvalue of S.
  """
  checks.check_features(train_views, "train_views", views=1)
  checks.check_features(test_views, "test_views", views=1)
  n, v, d = train_views.shape
  w = test_views.shape[1]
  if test_views.shape != (n, w, d):
    raise ValueError(
      f"train_views {train_views.shape} and test_views {test_views.shape} must "
      "be of the same images and the same model: equal n and d"
    )
  checks.check_positive(l2=l2)
  checks.check_views_differ(train_views=train_views, test_views=test_views)
  centres = _image_means(train_views=train_views)
  mean = centres.mean(0)
  covariance = np.zeros((d, d))
  for (x,) in float64_blocks(train_views=train_views):
    rows = (x - mean).reshape(-1, d)
    covariance += rows.T @ rows / (n * v)
  # The covariance of collapsed features is 0, and any ridge gives the same.
  ridge = l2 * np.trace(covariance) / d or 1.0
  weights = np.linalg.solve(covariance + ridge * np.eye(d), (centres - mean).T)
  hits = 0
  for x, own in float64_blocks(test_views=test_views, images=np.arange(n)):
    rows = (x - mean).reshape(-1, d).astype(np.float32)
    columns = (weights.T.astype(np.float32),)
    best = pairs.map_tiles(_best, columns, rows, row_pairs=n, mesh=mesh)
    hits += int(np.sum(best == own.repeat(w)))
  return hits / (n * w)


class AssignmentEntropies(NamedTuple):
  """Entropies of soft assignments to k classes, in nats.

  Attributes:
    marginal: entropy of the mean assignment; log k if all classes are used
      equally, 0 at collapse.
    conditional: mean entropy of the assignment of a view; 0 if one-hot.
    invariance: mean KL divergence between the assignments of two views of an
      image; 0 if they agree.
  """

  marginal: float
  conditional: float
  invariance: float


def assignment_entropies(
  probabilities: Float[np.ndarray, "n v k"],
) -> AssignmentEntropies:
  """Returns entropies and invariance of soft assignments of views.

  For the teacher of DISSL, whose loss has all three terms, or any softmax over
  prototypes. marginal - conditional is the mutual information of view and
  class.

  Example:
    >>> rng = np.random.default_rng(0)
    >>> p = rng.dirichlet(np.ones(8), size=(100, 2)).astype("float32")
    >>> marginal, conditional, invariance = assignment_entropies(p)

  Args:
    probabilities: p(. | x) of v >= 2 views of n images, [n, v, k]. Logarithms
      clip at the smallest normal float32, so that KL divergences are finite.
  """
  checks.check_features(probabilities, "probabilities", rows=1, views=2)
  n, v, k = probabilities.shape
  total, negative, divergence, invalid = np.zeros(k), 0.0, 0.0, 0
  for (p,) in float64_blocks(probabilities=probabilities):
    valid = (np.abs(p.sum(2) - 1) <= _SUM_TOLERANCE) & (p >= 0).all(2)
    invalid += int(np.sum(~valid))
    log_p = np.log(np.maximum(p, np.finfo(np.float32).tiny))
    total += p.sum((0, 1))
    negative += np.sum(p * log_p)
    # sum_ab p_a (log p_a - log p_b) / v = sum_a (p_a - mean p) log p_a, which
    # avoids an array of all pairs.
    divergence += np.sum((p - p.mean(1, keepdims=True)) * log_p)
  if invalid:
    raise ValueError(
      f"probabilities: {invalid} of {n * v} rows do not sum to 1 or have "
      "negative entries; pass softmax outputs, not logits"
    )
  return AssignmentEntropies(
    marginal=_entropy(total / total.sum()),
    conditional=float(-negative / (n * v) + 0.0),
    invariance=float(divergence / (n * (v - 1))),
  )
