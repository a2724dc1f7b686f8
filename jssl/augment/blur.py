"""Gaussian blur with torchvision's kernel and reflected borders."""

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float

from jssl.augment import separable
from jssl.typing import Images, Keys, Scalar


def blur_matrix(
  sigma: Float[Array, ""] | float, *, size_px: int, kernel_px: int
) -> Float[Array, "size_px size_px"]:
  """Returns the matrix that blurs an axis with reflected borders (-j is j)."""
  half = kernel_px // 2
  taps = jnp.exp(-0.5 * (jnp.arange(-half, half + 1) / sigma) ** 2)

  def weight(distance: Array) -> Array:
    inside = jnp.abs(distance) <= half
    return jnp.where(inside, jnp.exp(-0.5 * (distance / sigma) ** 2), 0)

  out, pixel = jnp.arange(size_px)[:, None], jnp.arange(size_px)[None, :]
  last = size_px - 1
  direct = weight(out - pixel)
  before = jnp.where(pixel > 0, weight(out + pixel), 0)
  after = jnp.where(pixel < last, weight(2 * last - out - pixel), 0)
  return (direct + before + after) / taps.sum()


def blur(
  images: Images, sigmas: Float[Array, "b"], *, kernel_px: int
) -> Images:
  """Blurs each image with its own standard deviation, in pixels."""
  over_height, over_width = (
    jax.vmap(lambda s, n=n: blur_matrix(s, size_px=n, kernel_px=kernel_px))(
      sigmas
    )
    for n in images.shape[1:3]
  )
  return separable.apply(over_height, over_width, images)


def random_blur(
  keys: Keys,
  images: Images,
  *,
  probability: Scalar | float,
  kernel_px: int,
  sigmas: tuple[float, float],
) -> Images:
  """Blurs each image with `probability` and a uniform sigma from `sigmas`."""
  chance, place = jax.vmap(lambda key: jax.random.uniform(key, (2,)))(keys).T
  low, high = sigmas
  drawn = low + (high - low) * place
  blurred = blur(images, drawn, kernel_px=kernel_px)
  return jnp.where((chance < probability)[:, None, None, None], blurred, images)
