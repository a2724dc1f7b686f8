"""Linear maps of images that factor over rows and columns.

Two batched matmuls are fast on every backend and need no gather.
"""

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float

from jssl.typing import Images

# A single bfloat16 pass would be off by half a grey level or more.
_PRECISION = jax.lax.Precision.HIGH


def apply(
  over_height: Float[Array, "b y h"],
  over_width: Float[Array, "b x w"],
  images: Images,
) -> Float[Array, "b y x c"]:
  """Returns `over_height @ image @ over_width.T` for each image and channel."""
  images = jnp.einsum(
    "byh,bhwc->bywc", over_height, images, precision=_PRECISION
  )
  return jnp.einsum("bxw,bywc->byxc", over_width, images, precision=_PRECISION)
