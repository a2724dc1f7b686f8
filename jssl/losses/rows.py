"""Norms and dot products of rows."""

import jax.numpy as jnp
from jax import lax
from jaxtyping import Array, Float

from jssl.losses.ops import matmul

# Shorter rows count as zero rows: cosine 0 to everything, and no gradient.
_MIN_NORM = 1e-12


def upcast(x: Float[Array, "*shape"]) -> Float[Array, "*shape"]:
  """Casts an array to float32, unless its dtype is wider."""
  return x.astype(matmul.upcast_dtype(x.dtype))


def dots(
  x: Float[Array, "*#n d"], y: Float[Array, "*#n d"]
) -> Float[Array, "*#n"]:
  """Returns the dot product of each row with its counterpart."""
  return jnp.sum(upcast(x) * upcast(y), axis=-1)


def inverse_norms(z: Float[Array, "*n d"]) -> Float[Array, "*n"]:
  """Returns 1 / |z| of each row, 0 for zero rows."""
  square = dots(z, z)
  zero = square < _MIN_NORM**2
  # Two `where`s, so that no gradient is 0 * inf.
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
  """Returns the cosine similarity of each row with its counterpart."""
  return dots(x, y) * inverse_norms(x) * inverse_norms(y)


def interleaved(
  x: Float[Array, "b *d"], y: Float[Array, "b *d"]
) -> Float[Array, "2*b *d"]:
  """Returns x_0, y_0, x_1, y_1, ...: views of an image share a device."""
  return jnp.stack([x, y], axis=1).reshape(-1, *x.shape[1:])
