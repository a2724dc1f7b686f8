"""The formula, on whole matrices: x_j, j = argmax_{j != i} S_ij."""

import jax.numpy as jnp
from jaxtyping import Array, Float, Int

from jssl.losses.ops.similarity.reference import Side, similarities


def index(rows: Side) -> Int[Array, "n"]:
  """Returns each row's most similar other row."""
  return jnp.argmax(similarities(rows, rows), axis=1)


def take(x: Float[Array, "n d"], index: Int[Array, "m"]) -> Float[Array, "m d"]:
  """Returns rows of `x`."""
  return x[index]
