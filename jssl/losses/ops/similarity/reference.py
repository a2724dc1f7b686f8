"""The formula, on whole matrices.

    S_ij = r_i c_j <x_i, y_j> + p_i + q_j
    row_i = log sum_j exp S_ij        column_j = log sum_i exp S_ij

over the pairs whose ids differ. Scales r and c carry inverse norms and the
temperature, so that normalised copies of the features never exist.
"""

from typing import NamedTuple

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float, Int

from jssl.losses.ops.matmul import product

# Finite, so that differences of masked values are not NaN, and so large that
# exp(MASKED - anything real) is 0.
MASKED = -1e30

# The id of rows that only fill up a tile.
FILL = -1


class Side(NamedTuple):
  """The rows, or the columns, of a similarity matrix.

  Attributes:
    x: features, of any float dtype.
    scale: factor of each, at least float32.
    bias: summand of each, the same dtype.
    ids: pairs with equal ids don't count, nor does anything of id `FILL`.
  """

  x: Float[Array, "n d"]
  scale: Float[Array, "n"]
  bias: Float[Array, "n"]
  ids: Int[Array, "n"]


class Floats(NamedTuple):
  """What a side can be differentiated by, or its gradients."""

  x: Float[Array, "n d"]
  scale: Float[Array, "n"]
  bias: Float[Array, "n"]


# A `Side` of rows that only fill up.
FILLING = (0, 0, 0, FILL)


def similarities(rows: Side, columns: Side) -> Float[Array, "n m"]:
  """Returns S, `MASKED` where a pair doesn't count."""
  products = product(rows.x, columns.x.T)
  s = products * (rows.scale[:, None] * columns.scale[None])
  s = s + (rows.bias[:, None] + columns.bias[None])
  counts = rows.ids[:, None] != columns.ids[None]
  counts &= (rows.ids != FILL)[:, None] & (columns.ids != FILL)[None]
  return jnp.where(counts, s, MASKED)


def _masked_lse(s: Float[Array, "n m"], axis: int) -> Array:
  lse = jax.nn.logsumexp(s, axis=axis, where=s > MASKED)
  return jnp.maximum(lse, MASKED)


def log_sum_exp(
  rows: Side, columns: Side
) -> tuple[Float[Array, "n"], Float[Array, "m"]]:
  """Returns row and column log-sum-exp; `MASKED` where no pair counts."""
  s = similarities(rows, columns)
  return _masked_lse(s, 1), _masked_lse(s, 0)
