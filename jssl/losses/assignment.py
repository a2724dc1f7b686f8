"""What losses of assignments to prototypes share.

Features and prototypes come in, never their products: a cross-entropy of two
softmaxes over the same prototypes is a log-sum-exp and one product of features
(see `ops.prototypes.reference`), however many pairs of views there are.
"""

import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Bool, Float

from jssl.losses.ops import similarity
from jssl.losses.ops.autodiff import Implementation
from jssl.losses.ops.layout import Layout
from jssl.losses.rows import dots
from jssl.typing import Scalar


def columns_of(
  weights: Float[Array, "k d"], bias: Float[Array, "k"] | None = None
) -> similarity.Side:
  """Returns prototypes as what rows are compared with.

  Args:
    weights: the prototypes.
    bias: of their logits.
  """
  return similarity.side(weights, 1.0, ids=1, bias=bias)


def rows_of(
  z: Float[Array, "b v d"],
  temperature: Scalar,
  bias: Float[Array, "b v"] | None = None,
) -> similarity.Side:
  """Returns all views as rows, those of an image side by side.

  Args:
    z: features.
    temperature: that logits are divided by.
    bias: of their logits.
  """
  flat = z.reshape(-1, z.shape[-1])
  return similarity.side(
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
  implementation: Implementation | None,
) -> Float[Array, "b v"]:
  """Returns that of each view's logits, over all prototypes."""
  lse = similarity.log_sum_exp(
    layout,
    rows_of(z, temperature),
    columns_of(weights),
    shared=True,
    implementation=implementation,
  )
  return lse.reshape(z.shape[:2])


def cross_entropy(
  layout: Layout,
  mean: Float[Array, "b u d"],
  z: Float[Array, "b v d"],
  lse: Float[Array, "b v"],
  temperature: Scalar,
) -> Scalar:
  """Returns CE(a, c), the mean over images and pairs of views a != c.

  Args:
    layout: of the images.
    mean: of the prototypes of `z`, under the assignments of views a.
    z: views c.
    lse: of their logits.
    temperature: of those.
  """
  pairs = _other_views(mean.shape[1], z.shape[1])
  products = dots(mean[:, :, None], z[:, None])
  by_pair = layout.mean(lse[:, None] - products / temperature)
  return jnp.sum(by_pair * pairs) / pairs.sum()


def _other_views(u: int, v: int) -> Bool[np.ndarray, "u v"]:
  return np.arange(u)[:, None] != np.arange(v)


def one_width(*arrays: Array) -> tuple[Array, ...]:
  """Returns float64 arrays if any is, else arrays as they are.

  Features may be bfloat16 where prototypes are float32: what is summed is
  float32 for both.
  """
  if jnp.result_type(*arrays) == jnp.float64:
    return tuple(x.astype(jnp.float64) for x in arrays)
  return arrays
