"""Matrix products as all operations want them."""

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float


def wide(dtype: jnp.dtype) -> jnp.dtype:
  """Returns float32, or the dtype itself if that is wider."""
  return jnp.promote_types(dtype, jnp.float32)


def precision(dtype: jnp.dtype) -> jax.lax.Precision:
  """Returns that of products: TPUs would take float32 as bfloat16."""
  half = jnp.finfo(dtype).bits < 32
  return jax.lax.Precision.DEFAULT if half else jax.lax.Precision.HIGHEST


def product(
  a: Float[Array, "n m"], b: Float[Array, "m d"]
) -> Float[Array, "n d"]:
  """Returns the product, float32 or wider, of operands as they are."""
  dtype = jnp.promote_types(a.dtype, b.dtype)
  return jnp.matmul(
    a, b, precision=precision(dtype), preferred_element_type=wide(dtype)
  )


def weighted(
  weights: Float[Array, "n m"], x: Float[Array, "m d"]
) -> Float[Array, "n d"]:
  """Returns the product of wide weights with features of any dtype.

  The weights go into it as the features do: half as many bytes, and one pass
  of the multiplier, where those are bfloat16.
  """
  return product(weights.astype(x.dtype), x)
