"""Cross-entropies between soft assignments to prototypes.

The logits never exist as an array: a cross-entropy between two softmaxes over
the same prototypes is a log-sum-exp minus a dot product of features (see
`ops.prototypes.reference`), for any number of pairs of views.
"""

import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Bool, Float

from jssl.losses.ops import similarity
from jssl.losses.ops.layout import Layout
from jssl.losses.rows import dots
from jssl.typing import Scalar


def columns_of(
  weights: Float[Array, "k d"], bias: Float[Array, "k"] | None = None
) -> similarity.Operand:
  """Returns prototypes as columns, with an optional bias of the logits."""
  return similarity.operand(weights, 1.0, ids=1, bias=bias)


def rows_of(
  z: Float[Array, "b v d"],
  temperature: Scalar,
  bias: Float[Array, "b v"] | Float[Array, "b*v"] | None = None,
) -> similarity.Operand:
  """Returns all views as rows, grouped by image; bias is one of the logits."""
  flat = z.reshape(-1, z.shape[-1])
  return similarity.operand(
    flat,
    1 / temperature,
    ids=0,
    bias=None if bias is None else bias.reshape(-1),
  )


def log_sum_exp(
  layout: Layout,
  z: Float[Array, "b v d"],
  weights: Float[Array, "k d"],
  temperature: Scalar,
) -> Float[Array, "b v"]:
  """Returns the log-sum-exp of each view's logits."""
  lse = similarity.log_sum_exp(
    layout, rows_of(z, temperature), columns_of(weights), replicated=True
  )
  return lse.reshape(z.shape[:2])


def cross_entropy(
  layout: Layout,
  mean: Float[Array, "b u d"],
  z: Float[Array, "b v d"],
  lse: Float[Array, "b v"],
  temperature: Scalar,
  weights: Float[Array, "b"] | None = None,
) -> Scalar:
  """Returns the cross-entropy, averaged over images and views a != c.

  Args:
    layout: layout of the images.
    mean: mean prototype under the assignment of each target view a.
    z: features of the predicting views c.
    lse: log-sum-exp of their logits.
    temperature: temperature of their logits.
    weights: weights of the images.
  """
  pairs = _other_views(mean.shape[1], z.shape[1])
  products = dots(mean[:, :, None], z[:, None])
  by_pair = layout.mean(lse[:, None] - products / temperature, weights)
  return jnp.sum(by_pair * pairs) / pairs.sum()


def _other_views(u: int, v: int) -> Bool[np.ndarray, "u v"]:
  return np.arange(u)[:, None] != np.arange(v)


def one_width(*arrays: Array) -> tuple[Array, ...]:
  """Casts all arrays to float64 if any is float64.

  Otherwise dtypes stay: features may be bfloat16 and prototypes float32, since
  products accumulate in float32.
  """
  if jnp.result_type(*arrays) == jnp.float64:
    return tuple(x.astype(jnp.float64) for x in arrays)
  return arrays
