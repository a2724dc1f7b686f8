"""Nearest rows: the formula, x_j with j = argmax_{j != i} S_ij."""

import jax.numpy as jnp
from jaxtyping import Array, Float, Int

from jssl.losses.ops.similarity.reference import Operand, similarities


def argmax(rows: Operand) -> Int[Array, "n"]:
  """Returns the index of each row's most similar other row."""
  return jnp.argmax(similarities(rows, rows), axis=1)


def take(x: Float[Array, "n d"], index: Int[Array, "m"]) -> Float[Array, "m d"]:
  """Returns rows of `x`."""
  return x[index]
