"""What features tell of the image that they are of, in nats.

Augmentations say which images are equivalent; M(x) is the class of equivalence
of x, the maximal invariant. Here that is the image which x is a view of. Linear
probes can be perfect on every invariant task if and only if M is linearly
predictable from the feature, the feature is invariant, and there are enough
dimensions: one less than classes.

Dubois, Hashimoto, Ermon and Liang, "Improving Self-Supervised Learning by
Characterizing Idealized Representations", NeurIPS 2022, arXiv 2209.06235. How
H[M | Z] is estimated is this project's own, and said there.
"""

from functools import partial
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jax.sharding import Mesh
from jaxtyping import Array, Bool, Float, Int

from jssl.diagnostics import blocks
from jssl.diagnostics.checks import (
  check_finite,
  check_views,
  check_views_differ,
)
from jssl.diagnostics.rows import product, unit, unit_rows

# Of the logits, cosines: from the uniform distribution to one-hot. Beyond them
# float32 cosines have no digits left.
_SCALES = np.array([0, *2.0 ** np.arange(11)], np.float32)

# By which probabilities may miss a sum of 1, as bfloat16 ones do.
_OFF_BY = 1e-2


def _entropy(probabilities: Float[np.ndarray, "k"]) -> float:
  positive = probabilities[probabilities > 0]
  return float(-np.sum(positive * np.log(positive)) + 0.0)


def maximal_invariant_entropy(
  classes: int | Float[np.ndarray, "k"],
) -> float:
  """Returns H[M], the entropy of which image a view is of.

  Example:
    >>> round(maximal_invariant_entropy(50_000), 3)
    10.82

  Args:
    classes: the number of images, equally likely and not equivalent to each
      other: log n; or their probabilities, [k].

  Raises:
    ValueError: there is no image, or the probabilities aren't [k] of numbers
      from 0 that sum to 1.
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


def image_means(
  views: Float[np.ndarray, "n v d"], name: str
) -> Float[np.ndarray, "n d"]:
  """Returns the mean of each image's views, in float64, if it is finite."""
  # What is not finite is told of right after.
  with np.errstate(invalid="ignore"):
    means = views.mean(1, dtype=np.float64)
  check_finite(means, views, name=name)
  return means


@jax.jit
def _cross_entropies(
  scales: Float[Array, "s"],
  mean: Float[Array, "d"],
  centres: Float[Array, "n d"],
  counted: Bool[Array, "b"],
  features: Float[Array, "b d"],
  images: Int[Array, "b"],
) -> Float[Array, "s"]:
  """Returns sums of -log q(image | feature), one for each scale."""
  x = unit(features.astype(jnp.float32) - mean[None])
  cosines = product(x, centres.T)
  # Less their own: nothing is lost where the sum is all but 1.
  cosines = cosines - jnp.take_along_axis(cosines, images[:, None], 1)

  def total(scale: Float[Array, ""]) -> Float[Array, ""]:
    each = jax.nn.logsumexp(scale * cosines, axis=1)
    return jnp.sum(jnp.where(counted, each, 0))

  return jax.lax.map(total, scales)


def conditional_entropy(
  views: Float[np.ndarray, "n v d"], *, mesh: Mesh | None = None
) -> float:
  """Estimates an upper bound of H[M | Z]: what features don't tell of M.

  Own recipe. The cross-entropy of any predictor q of the image from the feature
  is at least H[M | Z], by Gibbs' inequality: E[-log q(M | Z)] = H[M | Z] + E
  KL(p(. | Z) || q(. | Z)). The predictor here is

      q(i | z) = softmax_i(scale cos(z, c_i)),

  c_i the mean of the first half of image i's views, cosines about the mean of
  the c_i. The scale (0, or a power of 2 up to 1024) is that with the smallest
  cross-entropy on half of the other views; what is returned is the mean over
  the rest, which chose nothing. So it is an estimate, on new views, of a bound;
  how far above H[M | Z] it is depends on how good such a predictor can be.

  0 where every view is nearest to its own image, by a margin. The limit is H[M]
  = log n, that of a predictor that knows nothing, and of collapsed features.
  Time O(n^2 v d), a tile at a time; memory O(n d) for the c_i.

  Example:
    >>> import numpy as np
    >>> h = np.random.default_rng(0).normal(size=(100, 4, 8)).astype("float32")
    >>> nats = conditional_entropy(h)

  Args:
    views: features of v views of n distinct images, [n, v, d].
    mesh: images are split over all its devices; None is one device.

  Raises:
    ValueError: `views` is not [n, v, d] with n >= 2 and v >= 3, or not finite;
      all views of each image are the same: every view would have been seen.
    TypeError: it is not of a floating dtype.
  """
  check_views(views, num_views=3)
  check_views_differ(views)
  n, v = views.shape[:2]
  known = v // 2
  chosen = known + (v - known) // 2
  centres = image_means(views[:, :known], "views")
  mean = centres.mean(0)
  centres = unit_rows(centres - mean).astype(np.float32)
  constants = blocks.everywhere((mean.astype(np.float32), centres), mesh)
  images = np.arange(n, dtype=np.int32)

  def cross_entropy(
    columns: range, scales: Float[np.ndarray, "s"]
  ) -> Float[np.ndarray, "s"]:
    total = sum(
      blocks.sums(
        partial(_cross_entropies, scales, *constants),
        views[:, i],
        images,
        block_rows=blocks.tile_rows(n),
        mesh=mesh,
      )
      for i in columns
    )
    check_finite(total, views, name="views")
    return np.asarray(total) / (n * len(columns))

  best = int(np.argmin(cross_entropy(range(known, chosen), _SCALES)))
  measured = cross_entropy(range(chosen, v), _SCALES[best : best + 1])
  # Chance can take it above, but log n is a bound too.
  return float(min(measured[0], np.log(n)))


class AssignmentEntropies(NamedTuple):
  """How a soft assignment to k classes spreads, in nats.

  Attributes:
    marginal: H of the mean assignment; log k where all classes are used alike,
      0 at collapse.
    conditional: mean H of one view's assignment; 0 where it is sure.
    invariance: mean KL of the assignments of two different views of an image,
      0 where they agree.
  """

  marginal: float
  conditional: float
  invariance: float


@jax.jit
def _assignment_sums(
  counted: Bool[Array, "b"], probabilities: Float[Array, "b v k"]
) -> tuple[
  Float[Array, "k"], Float[Array, ""], Float[Array, ""], Int[Array, ""]
]:
  """Returns sums of p, p log p, KL times (v - 1), and how many rows are off."""
  p = probabilities.astype(jnp.float32)
  off = (jnp.abs(p.sum(2) - 1) > _OFF_BY) | (p < 0).any(2)
  log_p = jnp.log(jnp.maximum(p, jnp.finfo(p.dtype).tiny))
  # sum_ab p_a (log p_a - log p_b) / v = sum_a (p_a - mean p) (log p_a - mean),
  # where what would cancel is gone, and pairs never exist.
  apart_p = p - p[:, :1]
  apart_log = log_p - log_p[:, :1]
  divergence = jnp.sum(
    (apart_p - apart_p.mean(1, keepdims=True))
    * (apart_log - apart_log.mean(1, keepdims=True)),
    (1, 2),
  )
  return (
    jnp.sum(jnp.where(counted[:, None, None], p, 0), (0, 1)),
    jnp.sum(jnp.where(counted, jnp.sum(p * log_p, (1, 2)), 0)),
    jnp.sum(jnp.where(counted, divergence, 0)),
    jnp.sum(counted[:, None] & off),
  )


def assignment_entropies(
  probabilities: Float[np.ndarray, "n v k"], *, mesh: Mesh | None = None
) -> AssignmentEntropies:
  """Returns entropies and invariance of a soft assignment of views.

  For the teacher of DISSL, whose loss has all three, or any other softmax over
  prototypes. marginal - conditional is the mutual information of view and
  class; a perfect assignment has the marginal log min(n, k), and 0 otherwise.

  Example:
    >>> import numpy as np
    >>> rng = np.random.default_rng(0)
    >>> p = rng.dirichlet(np.ones(8), size=(100, 2)).astype("float32")
    >>> marginal, conditional, invariance = assignment_entropies(p)

  Args:
    probabilities: p(. | x), of v views of n images, [n, v, k]. In logarithms 0
      is the smallest normal float32, so that no KL is infinite; views that are
      copies have an invariance of 0 whatever the model.
    mesh: images are split over all its devices; None is one device.

  Raises:
    ValueError: it is not [n, v, k] with v >= 2, or not finite; rows are
      negative somewhere, or don't sum to 1 within 0.01.
    TypeError: it is not of a floating dtype.

  Reference:
    Dubois et al., 2022 (see the module); KL(p(. | x') || p(. | x'')) as their
    measure of invariance.
  """
  check_views(probabilities, name="probabilities", rows=1)
  n, v = probabilities.shape[:2]
  total, negative, divergence, off = blocks.sums(
    _assignment_sums, probabilities, mesh=mesh
  )
  check_finite((total, negative), probabilities, name="probabilities")
  if off:
    raise ValueError(
      f"probabilities: {int(off)} of {n * v} rows don't sum to 1, or have a "
      "negative entry; are they logits? Take the softmax first"
    )
  return AssignmentEntropies(
    marginal=_entropy(total / total.sum()),
    conditional=float(-negative / (n * v) + 0.0),
    invariance=float(divergence / (n * (v - 1))),
  )
