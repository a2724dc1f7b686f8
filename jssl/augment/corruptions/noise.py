"""Noise: Gaussian, shot and impulse."""

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float, Int

from jssl.augment.corruptions.resampling import Image
from jssl.typing import Key


def draw_normal(key: Key, image: Image, scale: float) -> Image:
  """Draws a normal number for each value."""
  return jax.random.normal(key, image.shape, image.dtype)


def gaussian_noise(image: Image, normal: Image, scale: float) -> Image:
  """Adds normal noise of a standard deviation."""
  return image + scale * normal


def draw_photons(key: Key, image: Image, photons: int) -> Int[Array, "h w c"]:
  """Draws Poisson counts with mean `photons * image`."""
  return jax.random.poisson(key, photons * image)


def shot_noise(
  image: Image, counts: Int[Array, "h w c"], photons: int
) -> Image:
  """Returns the counts over the number of photons at full intensity."""
  return counts.astype(image.dtype) / photons


def draw_impulses(
  key: Key, image: Image, amount: float
) -> Float[Array, "2 h w c"]:
  """Draws two uniform numbers for each value."""
  return jax.random.uniform(key, (2, *image.shape), image.dtype)


def impulse_noise(
  image: Image, uniform: Float[Array, "2 h w c"], amount: float
) -> Image:
  """Replaces a share of the values by 1 (salt) or 0 (pepper)."""
  replaced, salt = uniform[0] <= amount, uniform[1] <= 0.5
  return jnp.where(replaced, salt.astype(image.dtype), image)
