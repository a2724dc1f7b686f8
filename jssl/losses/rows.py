"""Norms and products of rows, in float32 or wider."""

import jax.numpy as jnp
from jax import lax
from jaxtyping import Array, Float

from jssl.losses.ops import matmul

# A shorter row is a zero row: similar to nothing, and without a gradient.
_MIN_NORM = 1e-12


def wide(x: Float[Array, "*shape"]) -> Float[Array, "*shape"]:
  """Returns the array in float32, or as it is if that is wider."""
  return x.astype(matmul.wide(x.dtype))


def dots(
  x: Float[Array, "*n d"], y: Float[Array, "*n d"]
) -> Float[Array, "*n"]:
  """Returns the product of each row with its counterpart."""
  return jnp.sum(wide(x) * wide(y), axis=-1)


def inverse_norms(z: Float[Array, "*n d"]) -> Float[Array, "*n"]:
  """Returns 1 / |z| of each row, 0 where a row is zero."""
  square = dots(z, z)
  zero = square < _MIN_NORM**2
  # Twice, so that no gradient is 0 * inf.
  return jnp.where(zero, 0, lax.rsqrt(jnp.where(zero, 1, square)))


def l2_normalize(x: Float[Array, "*n d"]) -> Float[Array, "*n d"]:
  """Scales rows to unit L2 norm; rows of zeros stay zero.

  Args:
    x: [..., d] array; the result has its dtype.

  Returns:
    The array x / |x|, normalised over the last dimension.
  """
  square = jnp.sum(x**2, axis=-1, keepdims=True)
  return x * lax.rsqrt(jnp.where(square == 0, 1, square))


def cosines(
  x: Float[Array, "*n d"], y: Float[Array, "*n d"]
) -> Float[Array, "*n"]:
  """Returns the cosine of each row with its counterpart."""
  return dots(x, y) * inverse_norms(x) * inverse_norms(y)


def interleaved(
  x: Float[Array, "b *d"], y: Float[Array, "b *d"]
) -> Float[Array, "2b *d"]:
  """Returns x_0, y_0, x_1, y_1, ...: views of an image stay on their device."""
  return jnp.stack([x, y], axis=1).reshape(-1, *x.shape[1:])
