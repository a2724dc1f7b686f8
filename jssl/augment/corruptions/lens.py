"""Blurs of a camera: out of focus, behind glass, in motion and zooming."""

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float, Int

from jssl.augment.corruptions import resampling
from jssl.augment.corruptions.resampling import Image
from jssl.typing import Key, Scalar

Offsets = Int[Array, "rounds 2 h w"]


def disk(radius: float, sigma: float) -> Float[np.ndarray, "side side"]:
  """Returns a disk, smoothed by 3 x 3 taps, or 5 x 5 above 8 px."""
  half, smoothing = (8, 1) if radius <= 8 else (int(radius), 2)
  offset = np.arange(-half, half + 1)
  inside = offset[:, None] ** 2 + offset**2 <= radius**2
  taps = resampling.gaussian_taps(sigma, smoothing)
  matrix = np.zeros((len(offset), len(offset)))
  for shift, tap in enumerate(taps, start=-smoothing):
    columns = resampling.mirror(np.arange(len(offset)) + shift, len(offset))
    np.add.at(matrix, (np.arange(len(offset)), columns), tap)
  return matrix @ (inside / inside.sum()) @ matrix.T


def defocus_blur(image: Image, draws: tuple, c: tuple[float, float]) -> Image:
  """Convolves with a disk; borders are mirrored."""
  kernel = disk(*c)
  half = len(kernel) // 2
  fill = (half, half)
  padded = jnp.pad(image, (fill, fill, (0, 0)), mode="reflect")
  planes = jax.lax.conv_general_dilated(
    jnp.moveaxis(padded, 2, 0)[:, None],
    jnp.asarray(kernel, image.dtype)[None, None],
    window_strides=(1, 1),
    padding="VALID",
    precision=jax.lax.Precision.HIGHEST,
  )
  return jnp.moveaxis(planes[:, 0], 0, 2)


def draw_offsets(key: Key, image: Image, c: tuple[float, int, int]) -> Offsets:
  """Draws an offset (down, right) of each pixel in each round."""
  _, distance, rounds = c
  return jax.random.randint(
    key, (rounds, 2, *image.shape[:2]), -distance, distance
  )


def _sources(offset: Int[Array, "2 h w"], distance: int) -> Int[Array, "n"]:
  """Returns the pixel that each pixel has in the end, by flat indices.

  In reverse order, each pixel becomes the present one at its offset: the one
  that an earlier step left there, or the original. A pixel therefore refers to
  another one until a step reads an original, and following all references at
  once, twice as far each time, takes log2(n) gathers in place of n steps.
  """
  _, height, width = offset.shape
  row, column = jnp.indices((height, width))
  pixel, other = width * row + column, [row + offset[0], column + offset[1]]

  def moved(y: Array, x: Array) -> Array:
    return (
      (y > distance)
      & (y <= height - distance)
      & (x > distance)
      & (x <= width - distance)
    )

  moves = moved(row, column)
  target = jnp.where(moves, width * other[0] + other[1], pixel).ravel()
  refers = (moves & moved(*other)).ravel() & (target > pixel.ravel())
  reference = jnp.where(refers, target, pixel.ravel())
  doublings = int(np.ceil(np.log2(height * width)))
  last = jax.lax.fori_loop(0, doublings, lambda _, at: at[at], reference)
  return target[last]


def glass_blur(
  image: Image, offsets: Offsets, c: tuple[float, int, int]
) -> Image:
  """Replaces pixels by others nearby, between two Gaussian blurs.

  The authors' code assigns `x[a], x[b] = x[b], x[a]` to views of one array,
  which copies x[b] to x[a] and does not swap. The published sets have these
  copies, and so does this function.
  """
  sigma, distance, _ = c
  image = resampling.gaussian_filter(image, sigma)
  for offset in offsets:
    flat = image.reshape(-1, image.shape[-1])
    image = flat[_sources(offset, distance)].reshape(image.shape)
  return resampling.gaussian_filter(image, sigma)


def draw_angle(key: Key, image: Image, c: tuple[int, float]) -> Scalar:
  """Draws an angle in degrees."""
  return jax.random.uniform(key, (), image.dtype, -45, 45)


def motion_blur(image: Image, angle: Scalar, c: tuple[int, float]) -> Image:
  """Blurs along a line."""
  radius, sigma = c
  return resampling.motion(image, angle, radius=radius, sigma=sigma)


def zoom_blur(
  image: Image, draws: tuple, c: tuple[float, float, float]
) -> Image:
  """Returns the mean of the image and its enlargements."""
  factors = np.arange(*c)
  zoomed = sum(resampling.zoom(image, factor) for factor in factors)
  return (image + zoomed) / (len(factors) + 1)
