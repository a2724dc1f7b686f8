"""Log-sum-exps of a similarity matrix: the formula, on whole matrices.

    S_ij = r_i c_j <x_i, y_j> + p_i + q_j
    row_i = log sum_j exp S_ij        column_j = log sum_i exp S_ij

over the pairs whose ids differ. The scales r and c hold inverse norms and the
temperature, so that normalised copies of the features never exist.
"""

from typing import NamedTuple

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float, Int

from jssl.losses.ops.matmul import matmul, upcast_dtype
from jssl.losses.ops.tiles import PAD_ID

# Finite, so that differences of masked values are not NaN, and so large that
# exp(MASKED - s) is 0 for every similarity s.
MASKED = -1e30

Differentiable = tuple[Array, Array, Array]
"""Features, scale and bias of an operand, or the gradients by them."""


class Operand(NamedTuple):
  """The rows or the columns of a similarity matrix.

  Attributes:
    x: features, of any float dtype.
    scale: factor of each row, at least float32.
    bias: summand of each row, of the dtype of the scale.
    ids: pairs with equal ids are masked, and so is every pair with `PAD_ID`.
  """

  x: Float[Array, "n d"]
  scale: Float[Array, "n"]
  bias: Float[Array, "n"]
  ids: Int[Array, "n"]


def operand(
  x: Float[Array, "n d"],
  scale: Float[Array, "n"] | Float[Array, ""] | float,
  *,
  ids: Int[Array, "n"] | int,
  bias: Float[Array, "n"] | None = None,
) -> Operand:
  """Builds the rows or columns of a similarity matrix.

  Args:
    x: features.
    scale: factor of the similarities; 0 only where `x` is 0.
    ids: nonnegative ids; pairs with equal ids are masked. Ids 0 for all rows
      and 1 for all columns mask nothing.
    bias: summand of the similarities.
  """
  zero = jnp.zeros_like(x[:, 0], upcast_dtype(x.dtype))
  return Operand(
    x,
    zero + scale,
    zero if bias is None else zero + bias,
    zero.astype(jnp.int32) + ids,
  )


def similarities(rows: Operand, columns: Operand) -> Float[Array, "n m"]:
  """Returns S, with `MASKED` where a pair is masked."""
  s = matmul(rows.x, columns.x.T) * (rows.scale[:, None] * columns.scale[None])
  s = s + (rows.bias[:, None] + columns.bias[None])
  counts = rows.ids[:, None] != columns.ids[None]
  counts &= (rows.ids != PAD_ID)[:, None] & (columns.ids != PAD_ID)[None]
  return jnp.where(counts, s, MASKED)


def log_sum_exps(
  rows: Operand, columns: Operand
) -> tuple[Float[Array, "n"], Float[Array, "m"]]:
  """Returns row and column log-sum-exps; `MASKED` where all pairs are."""
  s = similarities(rows, columns)

  def along(axis: int) -> Array:
    lse = jax.nn.logsumexp(s, axis=axis, where=s > MASKED)
    return jnp.maximum(lse, MASKED)

  return along(1), along(0)
