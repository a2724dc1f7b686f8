"""Matrix products that accumulate in float32 or wider."""

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float


def upcast_dtype(dtype: jnp.dtype) -> jnp.dtype:
  """Returns float32, or the dtype itself if that is wider."""
  return jnp.promote_types(dtype, jnp.float32)


def precision(dtype: jnp.dtype) -> jax.lax.Precision:
  """Returns the precision: a TPU's default multiplies float32 as bfloat16."""
  half = jnp.finfo(dtype).bits < 32
  return jax.lax.Precision.DEFAULT if half else jax.lax.Precision.HIGHEST


def matmul(
  a: Float[Array, "n m"], b: Float[Array, "m d"]
) -> Float[Array, "n d"]:
  """Multiplies operands in their own dtype; the result is at least float32."""
  dtype = jnp.promote_types(a.dtype, b.dtype)
  return jnp.matmul(
    a, b, precision=precision(dtype), preferred_element_type=upcast_dtype(dtype)
  )


def cast_matmul(
  weights: Float[Array, "n m"], x: Float[Array, "m d"]
) -> Float[Array, "n d"]:
  """Multiplies weights, cast to the dtype of the features, with the features.

  With bfloat16 features this halves the bytes, and needs one pass of the
  matrix unit instead of several.
  """
  return matmul(weights.astype(x.dtype), x)
