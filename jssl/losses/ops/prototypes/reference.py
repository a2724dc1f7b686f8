"""The formula, on whole matrices.

    lse_i = log sum_k exp S_ik      m_i = sum_k exp(S_ik - lse_i) v_k

with S the similarities of rows and prototypes (see `similarity.reference`). A
cross-entropy of two softmaxes over the same prototypes needs no more of them:

    CE(softmax S, softmax(U w^T)) = lse(u_j w^T) - <u_j, m_i>,  v = w

because sum_k p_ik <u_j, w_k> is <u_j, sum_k p_ik w_k>. However many views are
compared, each of them meets the prototypes once.
"""

from typing import NamedTuple

import jax.numpy as jnp
from jaxtyping import Array, Float

from jssl.losses.ops.matmul import product
from jssl.losses.ops.similarity.reference import Side, similarities


class Attended(NamedTuple):
  """What a row sees of the prototypes.

  Attributes:
    lse: log-sum-exp of its similarities.
    mean: of the values, under their softmax.
  """

  lse: Float[Array, "n"]
  mean: Float[Array, "n e"]


def attend(rows: Side, columns: Side, values: Float[Array, "k e"]) -> Attended:
  """Returns the log-sum-exp of each row, and its mean of the values."""
  s = similarities(rows, columns)
  # Written out, since `jax.nn.softmax` doesn't return its sum.
  maximum = s.max(axis=1, keepdims=True)
  weights = jnp.exp(s - maximum)
  total = weights.sum(axis=1, keepdims=True)
  mean = product(weights / total, values.astype(s.dtype))
  return Attended((maximum + jnp.log(total))[:, 0], mean)
