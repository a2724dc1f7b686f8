"""Losses of assignments to prototypes as equal in size."""

import functools
from typing import Any

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float

from jssl.losses import arguments
from jssl.losses.assignment import (
  columns_of,
  cross_entropy,
  log_sum_exp,
  one_width,
  rows_of,
)
from jssl.losses.ops import prototypes, similarity
from jssl.losses.ops.autodiff import Implementation
from jssl.losses.ops.layout import AxisNames, Layout, run
from jssl.losses.rows import wide
from jssl.typing import Scalar


def sinkhorn(
  scores: Float[Array, "b k"],
  *,
  epsilon: float | Scalar,
  iterations: int,
  axis_name: AxisNames | None = None,
) -> Float[Array, "b k"]:
  """The Sinkhorn-Knopp assignment of rows to prototypes, as equal in size.

  Columns and rows of exp(scores / epsilon) are scaled in turns to sums of 1/k
  and 1/b, rows last, in the domain of logarithms. `swav` does the same without
  scores; this is for those who have them.

  Example:
    >>> import jax
    >>> scores = jax.random.normal(jax.random.key(0), (8, 4))
    >>> q = sinkhorn(scores, epsilon=0.05, iterations=3)

  Args:
    scores: of rows and prototypes, [b, k].
    epsilon: of the entropy, positive; 0.05 in SwAV.
    iterations: at least 1; 3 in SwAV.
    axis_name: see `jssl.losses`; the prototypes are all on each device.

  Returns:
    Assignments, [b, k], float32 or wider; each row sums to 1.

  Raises:
    ValueError: `scores` is not [b, k], epsilon <= 0, or iterations < 1.
    TypeError: `scores` is not of a floating dtype.

  Reference:
    Caron et al., "Unsupervised Learning of Visual Features by Contrasting
    Cluster Assignments", NeurIPS 2020, eq. 5 and listing in its appendix.
  """
  (scores,) = arguments.floats({"scores": scores}, "b k")
  (epsilon,) = arguments.positive(scores, epsilon=epsilon)
  arguments.count(iterations=iterations)
  assign = functools.partial(_sinkhorn, iterations=iterations)
  return run(assign, scores, epsilon, axis_name=axis_name, rows_out=True)


def _sinkhorn(
  layout: Layout,
  scores: Float[Array, "b k"],
  epsilon: Scalar,
  iterations: int,
) -> Float[Array, "b k"]:
  logits = wide(scores) / epsilon
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
  axis_name: AxisNames | None = None,
  batch_axes: AxisNames | None = None,
  implementation: Implementation | None = None,
) -> Scalar:
  """SwAV: each view predicts the equal-sized assignments of the large crops.

      mean over a < num_large, c != a of 1/b sum_i CE(q_a, softmax(s_c/T))

  with logits s = features times prototypes, neither of which is normalised here
  (SwAV normalises both beforehand), and q_a = sinkhorn(s_a) over the batch of
  the view, stopped. log k where predictions are uniform, and no less where all
  rows are equal.

  Example:
    >>> import jax
    >>> z = jax.random.normal(jax.random.key(0), (2, 8, 16)) / 4
    >>> w = jax.random.normal(jax.random.key(1), (32, 16)) / 4
    >>> loss = swav(
    ...   z, w, temperature=0.1, epsilon=0.05, iterations=3, num_large=2
    ... )

  Args:
    z: features, large crops first, [v, b, d].
    prototypes: [k, d].
    temperature: T, positive; 0.1 in the paper.
    epsilon: of the assignments, positive; 0.05 in the paper.
    iterations: of the assignments, at least 1; 3 in the paper.
    num_large: views that assignments are made of; 2 in the paper.
    axis_name: see `jssl.losses`.
    batch_axes: see `jssl.losses`.
    implementation: see `jssl.losses`.

  Returns:
    The mean over images and pairs of views, float32 or wider.

  Raises:
    ValueError: shapes don't fit, v < 2, num_large is not in 1 .. v,
      iterations < 1, or temperature or epsilon <= 0.
    TypeError: an input is not of a floating dtype.

  Reference:
    Caron et al., "Unsupervised Learning of Visual Features by Contrasting
    Cluster Assignments", NeurIPS 2020, eq. 2 to 6.
  """
  (z,) = arguments.floats({"z": z}, "v b d")
  arguments.count(iterations=iterations, num_large=num_large)
  if len(z) < 2 or not 1 <= num_large <= len(z):
    raise ValueError(
      f"z [v={len(z)}, b, d], num_large={num_large}: expected v >= 2 views, "
      "of which 1 to v are large"
    )
  (weights,) = arguments.prototypes({"z": z}, prototypes=prototypes)
  z, weights = one_width(z, weights)
  temperatures = arguments.positive(z, temperature=temperature, epsilon=epsilon)
  loss = functools.partial(
    _swav,
    iterations=iterations,
    num_large=num_large,
    implementation=implementation,
  )
  return run(
    loss,
    jnp.moveaxis(z, 0, 1),
    weights,
    *temperatures,
    axis_name=axis_name,
    batch_axes=batch_axes,
  )


def _swav(
  layout: Layout,
  z: Float[Array, "b v d"],
  weights: Float[Array, "k d"],
  temperature: Scalar,
  epsilon: Scalar,
  *,
  iterations: int,
  num_large: int,
  implementation: Implementation | None,
) -> Scalar:
  weights = layout.per_device(weights)
  means = []
  for view in range(num_large):
    large, fixed, eps = jax.lax.stop_gradient(
      (z[:, view : view + 1], weights, epsilon)
    )
    bias = _sinkhorn_scales(
      layout, large, fixed, eps, iterations, implementation
    )
    mean = prototypes.attend(
      layout,
      rows_of(large, eps),
      columns_of(fixed, layout.per_device(bias)),
      weights,
      implementation=implementation,
    ).mean
    means.append(mean)
  lse = log_sum_exp(layout, z, weights, temperature, implementation)
  mean = jnp.stack(means, axis=1)
  return cross_entropy(layout, mean, z, lse, temperature)


def _sinkhorn_scales(
  layout: Layout,
  z: Float[Array, "b 1 d"],
  weights: Float[Array, "k d"],
  epsilon: Scalar,
  iterations: int,
  implementation: Implementation | None,
) -> Float[Array, "k"]:
  """Returns the logarithms g of column scales: q = softmax_k(S_ik + g_k)."""
  options: dict[str, Any] = {
    "shared": True,
    "implementation": implementation,
  }
  by_row = None
  for _ in range(iterations - 1):
    _, columns = similarity.log_sum_exps(
      layout, rows_of(z, epsilon, by_row), columns_of(weights), **options
    )
    scaled = columns_of(weights, layout.per_device(-columns))
    by_row = -similarity.log_sum_exp(
      layout, rows_of(z, epsilon), scaled, **options
    )
  _, columns = similarity.log_sum_exps(
    layout, rows_of(z, epsilon, by_row), columns_of(weights), **options
  )
  return -columns
