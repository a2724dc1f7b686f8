"""Losses that align two views, without negatives."""

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float

from jssl.losses import arguments
from jssl.losses.ops.layout import AxisNames, Layout, with_layout
from jssl.losses.rows import cosines, upcast
from jssl.typing import Scalar


def negative_cosine(
  p: Float[Array, "b d"],
  z: Float[Array, "b d"],
  *,
  weights: Float[Array, "b"] | None = None,
  axis_name: AxisNames | None = None,
) -> Scalar:
  """Negative mean cosine similarity, from 1 to -1 (equal directions).

      -1/b sum_i <p_i, z_i> / (|p_i| |z_i|)

  Gradients flow to both inputs; `simsiam` and `byol` stop the targets.

  Example:
    >>> import jax
    >>> p, z = jax.random.normal(jax.random.key(0), (2, 8, 16))
    >>> loss = negative_cosine(p, jax.lax.stop_gradient(z))

  Args:
    p: predictions, [b, d].
    z: targets, [b, d].
    weights: weight of each image in the mean, [b]; see `jssl.losses`.
    axis_name: see `jssl.losses`.

  Returns:
    The mean over b rows, float32 or wider; a zero row counts as cosine 0.

  Raises:
    ValueError: if shapes differ or are not [b, d].

  Reference:
    Chen and He, "Exploring Simple Siamese Representation Learning", CVPR 2021,
    eq. 1.
  """
  p, z = arguments.same_shape("b d", p=p, z=z)
  w = arguments.weights(weights, len(p), p)
  return with_layout(_negative_cosine, (p, z, w), (), axis_name=axis_name)


def _negative_cosine(
  layout: Layout,
  p: Float[Array, "b d"],
  z: Float[Array, "b d"],
  weights: Float[Array, "b"] | None,
) -> Scalar:
  return -layout.mean(cosines(p, z), weights)


def simsiam(
  p1: Float[Array, "b d"],
  p2: Float[Array, "b d"],
  z1: Float[Array, "b d"],
  z2: Float[Array, "b d"],
  *,
  weights: Float[Array, "b"] | None = None,
  axis_name: AxisNames | None = None,
) -> Scalar:
  """SimSiam: symmetric negative cosine with stopped targets (sg).

      -1/2 [cos(p1, sg z2) + cos(p2, sg z1)]

  The mean of both directions, from 1 to -1; at collapse it is -1 as well.

  Example:
    >>> import jax
    >>> p1, p2, z1, z2 = jax.random.normal(jax.random.key(0), (4, 8, 16))
    >>> loss = simsiam(p1, p2, z1, z2)

  Args:
    p1: predictions from the first view, [b, d].
    p2: predictions from the second view, [b, d].
    z1: projections of the first view, [b, d]; no gradient.
    z2: projections of the second view, [b, d]; no gradient.
    weights: weight of each image in the mean, [b]; see `jssl.losses`.
    axis_name: see `jssl.losses`.

  Returns:
    The mean over b rows, float32 or wider.

  Raises:
    ValueError: if shapes differ or are not [b, d].

  Reference:
    Chen and He, "Exploring Simple Siamese Representation Learning", CVPR 2021,
    eq. 4.
  """
  p1, p2, z1, z2 = arguments.same_shape("b d", p1=p1, p2=p2, z1=z1, z2=z2)
  w = arguments.weights(weights, len(p1), p1)
  total = with_layout(_both_ways, (p1, p2, z2, z1, w), (), axis_name=axis_name)
  return total / -2


def byol(
  p1: Float[Array, "b d"],
  p2: Float[Array, "b d"],
  target1: Float[Array, "b d"],
  target2: Float[Array, "b d"],
  *,
  weights: Float[Array, "b"] | None = None,
  axis_name: AxisNames | None = None,
) -> Scalar:
  """BYOL: squared distance of unit vectors, with stopped targets (sg).

      2 - 2 cos(p1, sg target2) + 2 - 2 cos(p2, sg target1)

  The sum of both directions, as in the paper, from 8 to 0; at collapse it is 0.

  Example:
    >>> import jax
    >>> p1, p2, t1, t2 = jax.random.normal(jax.random.key(0), (4, 8, 16))
    >>> loss = byol(p1, p2, t1, t2)

  Args:
    p1: predictions of the online network from the first view, [b, d].
    p2: predictions from the second view, [b, d].
    target1: projections of the target network of the first view, [b, d].
    target2: projections of the second view, [b, d].
    weights: weight of each image in the mean, [b]; see `jssl.losses`.
    axis_name: see `jssl.losses`.

  Returns:
    The mean over b rows, float32 or wider.

  Raises:
    ValueError: if shapes differ or are not [b, d].

  Reference:
    Grill et al., "Bootstrap Your Own Latent", NeurIPS 2020, eq. 2 and the
    symmetric loss below it.
  """
  p1, p2, target1, target2 = arguments.same_shape(
    "b d", p1=p1, p2=p2, target1=target1, target2=target2
  )
  w = arguments.weights(weights, len(p1), p1)
  total = with_layout(
    _both_ways, (p1, p2, target2, target1, w), (), axis_name=axis_name
  )
  return 4 - 2 * total


def _both_ways(
  layout: Layout,
  p1: Float[Array, "b d"],
  p2: Float[Array, "b d"],
  target1: Float[Array, "b d"],
  target2: Float[Array, "b d"],
  weights: Float[Array, "b"] | None,
) -> Scalar:
  """Returns the sum of both directions' mean cosines."""
  target1, target2 = jax.lax.stop_gradient((target1, target2))
  return layout.mean(cosines(p1, target1) + cosines(p2, target2), weights)


def alignment(
  z1: Float[Array, "b d"],
  z2: Float[Array, "b d"],
  *,
  weights: Float[Array, "b"] | None = None,
  axis_name: AxisNames | None = None,
) -> Scalar:
  """Alignment (L_align): mean squared distance of two views.

      1/b sum_i |z1_i - z2_i|^2

  Rows are not normalised; on unit vectors it is the mean of 2 - 2 cos.

  Example:
    >>> import jax
    >>> z1, z2 = jax.random.normal(jax.random.key(0), (2, 8, 16))
    >>> loss = alignment(z1, z2)

  Args:
    z1: features of the first view, [b, d].
    z2: features of the second view of the same images, [b, d].
    weights: weight of each image in the mean, [b]; see `jssl.losses`.
    axis_name: see `jssl.losses`.

  Returns:
    The mean over b rows, float32 or wider.

  Raises:
    ValueError: if shapes differ or are not [b, d].

  Reference:
    Wang and Isola, "Understanding Contrastive Representation Learning through
    Alignment and Uniformity on the Hypersphere", ICML 2020, eq. 6, alpha = 2.
  """
  z1, z2 = arguments.same_shape("b d", z1=z1, z2=z2)
  w = arguments.weights(weights, len(z1), z1)
  return with_layout(_alignment, (z1, z2, w), (), axis_name=axis_name)


def _alignment(
  layout: Layout,
  z1: Float[Array, "b d"],
  z2: Float[Array, "b d"],
  weights: Float[Array, "b"] | None,
) -> Scalar:
  squares = jnp.sum((upcast(z1) - upcast(z2)) ** 2, axis=1)
  return layout.mean(squares, weights)
