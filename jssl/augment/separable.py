"""Linear maps of an image that act on its rows and its columns apart.

Resizing and blurring are both of this kind, with matrices that differ from
image to image. Two small batched matmuls need no gather over pixels, and every
backend is good at them.
"""

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float

from jssl.typing import Images

# One bfloat16 pass would cost the pixels half a grey level or more.
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
