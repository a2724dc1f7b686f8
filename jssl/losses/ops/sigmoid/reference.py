"""Sum of sigmoid losses: the formula, on whole matrices.

    sum_ij -log sigmoid(l_ij S_ij),   S_ij = scale <x_i, y_j> + bias

with l_ij = 1 where the ids of row and column are equal, else -1.
"""

from typing import NamedTuple

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float, Int

from jssl.losses.ops.matmul import matmul
from jssl.losses.ops.tiles import PAD_ID
from jssl.typing import Scalar


class Operands(NamedTuple):
  """Differentiable arguments of the sum, or the gradients by them."""

  x: Float[Array, "n d"]
  y: Float[Array, "m d"]
  scale: Scalar
  bias: Scalar


class Ids(NamedTuple):
  """Ids of rows and of columns; `PAD_ID` for padding."""

  x: Int[Array, "n"]
  y: Int[Array, "m"]


def pairs(
  operands: Operands, ids: Ids
) -> tuple[Float[Array, "n m"], Float[Array, "n m"], Float[Array, "n m"]]:
  """Returns <x_i, y_j>, l_ij (0 for padding), and l_ij S_ij."""
  products = matmul(operands.x, operands.y.T)
  same = ids.x[:, None] == ids.y[None]
  valid = (ids.x != PAD_ID)[:, None] & (ids.y != PAD_ID)[None]
  label = jnp.where(valid, jnp.where(same, 1, -1), 0).astype(products.dtype)
  logits = operands.scale * products + operands.bias
  return products, label, label * logits


def losses(
  label: Float[Array, "n m"], logits: Float[Array, "n m"]
) -> Float[Array, "n m"]:
  """Returns -log sigmoid of each pair, 0 for padding."""
  return jnp.where(label == 0, 0, jax.nn.softplus(-logits))


def total(operands: Operands, ids: Ids) -> Scalar:
  """Returns the sum over all pairs."""
  _, label, logits = pairs(operands, ids)
  return jnp.sum(losses(label, logits))
