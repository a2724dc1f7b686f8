"""Attention to prototypes: the formula, on whole matrices.

    lse_i = log sum_k exp S_ik      m_i = sum_k exp(S_ik - lse_i) v_k

with S the similarities of rows and prototypes (see `similarity.reference`). A
cross-entropy between two softmaxes over the same prototypes needs only these:

    CE(softmax S, softmax(U w^T)) = lse(u_j w^T) - <u_j, m_i>,  v = w

because sum_k p_ik <u_j, w_k> = <u_j, sum_k p_ik w_k>. The cost is one pass over
the prototypes per view, for any number of pairs of views.
"""

from typing import NamedTuple

import jax.numpy as jnp
from jaxtyping import Array, Float

from jssl.losses.ops.matmul import matmul
from jssl.losses.ops.similarity.reference import Operand, similarities


class Attention(NamedTuple):
  """The result of attending to prototypes.

  Attributes:
    lse: log-sum-exp of each row's similarities.
    mean: mean of the values under each row's softmax.
  """

  lse: Float[Array, "n"]
  mean: Float[Array, "n e"]


def attend(
  rows: Operand, columns: Operand, values: Float[Array, "k e"]
) -> Attention:
  """Returns log-sum-exp and mean of the values of each row."""
  s = similarities(rows, columns)
  # Written out, since `jax.nn.softmax` doesn't return its sum.
  maximum = s.max(axis=1, keepdims=True)
  weights = jnp.exp(s - maximum)
  total = weights.sum(axis=1, keepdims=True)
  mean = matmul(weights / total, values.astype(s.dtype))
  return Attention((maximum + jnp.log(total))[:, 0], mean)
