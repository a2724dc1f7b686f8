"""The formula, on whole matrices.

    sum_ij -log sigmoid(l_ij S_ij),   S_ij = scale <x_i, y_j> + bias

with l_ij = 1 where the ids of row and column are equal, else -1.
"""

from typing import NamedTuple

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float, Int

from jssl.losses.ops.matmul import product
from jssl.losses.ops.similarity.reference import FILL
from jssl.typing import Scalar


class Floats(NamedTuple):
  """What the sum can be differentiated by, or its gradients."""

  x: Float[Array, "n d"]
  y: Float[Array, "m d"]
  scale: Scalar
  bias: Scalar


class Ids(NamedTuple):
  """Of rows and of columns; `FILL` where they only fill up a tile."""

  x: Int[Array, "n"]
  y: Int[Array, "m"]


def pairs(
  floats: Floats, ids: Ids
) -> tuple[Float[Array, "n m"], Float[Array, "n m"], Float[Array, "n m"]]:
  """Returns <x_i, y_j>, l_ij, and l_ij S_ij; l is 0 where a pair is filling."""
  products = product(floats.x, floats.y.T)
  same = ids.x[:, None] == ids.y[None]
  real = (ids.x != FILL)[:, None] & (ids.y != FILL)[None]
  label = jnp.where(real, jnp.where(same, 1, -1), 0).astype(products.dtype)
  return products, label, label * (floats.scale * products + floats.bias)


def losses(
  label: Float[Array, "n m"], logits: Float[Array, "n m"]
) -> Float[Array, "n m"]:
  """Returns -log sigmoid of each pair, 0 for filling."""
  return jnp.where(label == 0, 0, jax.nn.softplus(-logits))


def total(floats: Floats, ids: Ids) -> Scalar:
  """Returns the sum over all pairs."""
  _, label, logits = pairs(floats, ids)
  return jnp.sum(losses(label, logits))
