"""Losses on balanced cluster assignments."""

from typing import Unpack

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float

from jssl.losses import arguments
from jssl.losses.assignment import (
  columns_of,
  cross_entropy,
  log_sum_exp,
  rows_of,
  sinkhorn_scales,
)
from jssl.losses.ops import prototypes
from jssl.losses.ops.layout import AxisNames, Layout, Options, with_layout
from jssl.losses.rows import upcast
from jssl.typing import Scalar


def sinkhorn(
  scores: Float[Array, "b k"],
  *,
  epsilon: float | Scalar,
  iterations: int,
  axis_name: AxisNames | None = None,
) -> Float[Array, "b k"]:
  """Sinkhorn-Knopp: balanced soft assignments of rows to prototypes.

  Alternately scales the columns and rows of exp(scores / epsilon) to sums of
  1/k and 1/b, in the log domain. Rows come last. `swav` computes the same
  assignments without materialising the scores.

  Example:
    >>> import jax
    >>> scores = jax.random.normal(jax.random.key(0), (8, 4))
    >>> q = sinkhorn(scores, epsilon=0.05, iterations=3)

  Args:
    scores: similarities of rows and prototypes, [b, k].
    epsilon: positive weight of the entropy; 0.05 in SwAV.
    iterations: number of iterations, at least 1; 3 in SwAV.
    axis_name: see `jssl.losses`; prototypes are not sharded.

  Returns:
    The assignments, [b, k], float32 or wider; each row sums to 1.

  Raises:
    ValueError: if `scores` is not [b, k], epsilon <= 0, or iterations < 1.

  Reference:
    Caron et al., "Unsupervised Learning of Visual Features by Contrasting
    Cluster Assignments", NeurIPS 2020, eq. 5 and listing in its appendix.
  """
  (scores,) = arguments.floats({"scores": scores}, "b k")
  (epsilon,) = arguments.positive(scores, epsilon=epsilon)
  arguments.count(iterations=iterations)
  return with_layout(
    _sinkhorn,
    (scores,),
    (epsilon,),
    axis_name=axis_name,
    rows_out=True,
    iterations=iterations,
  )


def _sinkhorn(
  layout: Layout, scores: Float[Array, "b k"], epsilon: Scalar, iterations: int
) -> Float[Array, "b k"]:
  logits = upcast(scores) / epsilon
  by_row = jnp.zeros_like(logits[:, 0])
  by_column = logits[0]
  for _ in range(iterations):
    by_column = -layout.log_sum_exp(logits + by_row[:, None])
    by_row = -jax.nn.logsumexp(logits + by_column[None], axis=1)
  return jnp.exp(logits + by_row[:, None] + by_column[None])


def swav(
  z: Float[Array, "v b d"],
  prototypes: Float[Array, "k d"],
  *,
  temperature: float | Scalar,
  epsilon: float | Scalar,
  iterations: int,
  num_large: int,
  weights: Float[Array, "b"] | None = None,
  **options: Unpack[Options],
) -> Scalar:
  """SwAV: each view predicts the balanced assignments of the large crops.

      mean over a < num_large, c != a of 1/b sum_i CE(q_a, softmax(s_c/T))

  with logits s = features times prototypes and q_a = sinkhorn(s_a) over the
  batch, without gradient. Neither factor is normalised here; SwAV normalises
  both beforehand. The loss is log k for uniform predictions, and at least log k
  at collapse.

  Example:
    >>> import jax
    >>> z = jax.random.normal(jax.random.key(0), (2, 8, 16)) / 4
    >>> w = jax.random.normal(jax.random.key(1), (32, 16)) / 4
    >>> loss = swav(
    ...   z, w, temperature=0.1, epsilon=0.05, iterations=3, num_large=2
    ... )

  Args:
    z: features, large crops first, [v, b, d].
    prototypes: prototypes, [k, d].
    temperature: positive temperature T; 0.1 in the paper.
    epsilon: positive, see `sinkhorn`; 0.05 in the paper.
    iterations: at least 1, see `sinkhorn`; 3 in the paper.
    num_large: number of large crops, whose assignments are the targets; 2 in
      the paper.
    weights: weight of each image in the mean, [b], not in the assignments; see
      `jssl.losses`.
    **options: axis_name, batch_axes, implementation; see `jssl.losses`.

  Returns:
    The mean over images and pairs of views, float32 or wider.

  Raises:
    ValueError: if shapes don't match, v < 2, num_large is not in [1, v],
      iterations < 1, or temperature or epsilon <= 0.

  Reference:
    Caron et al., "Unsupervised Learning of Visual Features by Contrasting
    Cluster Assignments", NeurIPS 2020, eq. 2 to 6.
  """
  (z,) = arguments.floats({"z": z}, "v b d")
  arguments.count(iterations=iterations, num_large=num_large)
  if len(z) < 2 or not 1 <= num_large <= len(z):
    raise ValueError(
      f"expected at least 2 views and 1 <= num_large <= views, got {len(z)} "
      f"views and num_large={num_large}"
    )
  (matrix,) = arguments.prototypes({"z": z}, prototypes=prototypes)
  z, matrix = arguments.one_width(z, matrix)
  temperatures = arguments.positive(z, temperature=temperature, epsilon=epsilon)
  w = arguments.weights(weights, z.shape[1], z)
  return with_layout(
    _swav,
    (jnp.moveaxis(z, 0, 1), w),
    (matrix, *temperatures),
    iterations=iterations,
    num_large=num_large,
    **options,
  )


def _swav(
  layout: Layout,
  z: Float[Array, "b v d"],
  image_weights: Float[Array, "b"] | None,
  weights: Float[Array, "k d"],
  temperature: Scalar,
  epsilon: Scalar,
  *,
  iterations: int,
  num_large: int,
) -> Scalar:
  weights = layout.as_varying(weights)
  means = []
  for view in range(num_large):
    large, fixed, eps = jax.lax.stop_gradient(
      (z[:, view : view + 1], weights, epsilon)
    )
    bias = sinkhorn_scales(layout, large, fixed, eps, iterations)
    mean = prototypes.attend(
      layout,
      rows_of(large, eps),
      columns_of(fixed, layout.as_varying(bias)),
      weights,
    ).mean
    means.append(mean)
  lse = log_sum_exp(layout, z, weights, temperature)
  mean = jnp.stack(means, axis=1)
  return cross_entropy(layout, mean, z, lse, temperature, image_weights)
