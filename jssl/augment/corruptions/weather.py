"""Weather: snow, frost, fog and brightness."""

from typing import NamedTuple

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float

from jssl.augment.corruptions import resampling
from jssl.augment.corruptions.resampling import Image, Plane
from jssl.typing import Key, Scalar

# Colour of ice, red to blue. With `_ice` and these numbers, the mean colour is
# that of the authors' five photographs: 0.57, 0.66, 0.70.
_ICE = (0.85, 0.95, 1.0)
_ICE_DARKEST, _ICE_CONTRAST, _ICE_DECAY = 0.4, 0.5, 1.5


def gray(image: Image) -> Float[Array, "h w 1"]:
  """Returns 0.299 R + 0.587 G + 0.114 B, or the only channel."""
  if image.shape[-1] == 1:
    return image
  weights = jnp.array((0.299, 0.587, 0.114), image.dtype)
  return (image * weights[None, None]).sum(-1, keepdims=True)


class Flakes(NamedTuple):
  """Normal numbers, and the angle of the motion in degrees."""

  normal: Plane
  angle: Scalar


def draw_flakes(key: Key, image: Image, c: tuple[float, ...]) -> Flakes:
  """Draws the noise of flakes of snow, and the angle at which they fall."""
  of_normal, of_angle = jax.random.split(key)
  return Flakes(
    jax.random.normal(of_normal, image.shape[:2], image.dtype),
    jax.random.uniform(of_angle, (), image.dtype, -135, -45),
  )


def snow(image: Image, flakes: Flakes, c: tuple[float, ...]) -> Image:
  """Whitens the image, and adds moving flakes and the same turned by 180°."""
  mean, std, factor, smallest, radius, sigma, weight = c
  layer = resampling.zoom((mean + std * flakes.normal)[..., None], factor)
  layer = jnp.where(layer < smallest, 0, layer).clip(0, 1)
  layer = resampling.motion(
    layer, flakes.angle, radius=int(radius), sigma=sigma
  )
  whitened = jnp.maximum(image, 1.5 * gray(image) + 0.5)
  image = weight * image + (1 - weight) * whitened
  return image + layer + layer[::-1, ::-1]


def _map_side(image: Image) -> int:
  """Returns the smallest power of two that covers an image."""
  return 1 << (max(image.shape[:2]) - 1).bit_length()


def draw_plasma(key: Key, image: Image, c: tuple[float, ...]) -> Array:
  """Draws the displacements of a plasma fractal."""
  side = _map_side(image)
  return jax.random.uniform(key, (side**2 - 1,), image.dtype, -1, 1)


def plasma(displacements: Float[Array, "n"], decay: float) -> Plane:
  """Returns the square plasma fractal of the diamond-square algorithm.

  Each round doubles the side: centres are the mean of their four corners, and
  points between corners that of their four neighbours, around the borders, plus
  `displacements` whose range shrinks by decay^2 each round. In [0, 1].
  """
  corners = jnp.zeros((1, 1), displacements.dtype)
  used, scale = 0, 100.0
  while used < len(displacements):
    side = len(corners)
    drawn = displacements[used : used + 3 * side**2].reshape(3, side, side)
    used, moved = used + 3 * side**2, scale**2 * drawn
    rows = corners + jnp.roll(corners, -1, 0)
    columns = corners + jnp.roll(corners, -1, 1)
    centers = (rows + jnp.roll(rows, -1, 1)) / 4 + moved[0]
    above = (centers + jnp.roll(centers, 1, 0) + columns) / 4 + moved[1]
    beside = (centers + jnp.roll(centers, 1, 1) + rows) / 4 + moved[2]
    grid = jnp.stack([corners, above, beside, centers], -1)
    grid = grid.reshape(side, side, 2, 2).transpose(0, 2, 1, 3)
    corners, scale = grid.reshape(2 * side, 2 * side), scale / decay
  corners -= corners.min()
  return corners / corners.max()


def _plasma_over(
  image: Image, draws: Array, decay: float
) -> Float[Array, "h w 1"]:
  height, width, _ = image.shape
  return plasma(draws, decay)[:height, :width, None]


def fog(image: Image, draws: Array, c: tuple[float, float]) -> Image:
  """Adds a plasma fractal and restores the largest value."""
  weight, decay = c
  largest = image.max()
  image = image + weight * _plasma_over(image, draws, decay)
  return image * largest / (largest + weight)


def _ice(image: Image, draws: Array) -> Image:
  """Returns a texture of ice: bright ridges of a rough plasma fractal."""
  ridges = 1 - abs(2 * _plasma_over(image, draws, _ICE_DECAY) - 1)
  colour = jnp.asarray(_ICE, image.dtype)[None, None]
  if image.shape[-1] == 1:
    colour = gray(colour)
  return (_ICE_DARKEST + _ICE_CONTRAST * ridges) * colour


def frost(image: Image, draws: Array, c: tuple[float, float]) -> Image:
  """Adds ice. The texture is procedural; the authors crop photographs."""
  of_image, of_ice = c
  return of_image * image + of_ice * _ice(image, draws)


def brightness(image: Image, draws: tuple, amount: float) -> Image:
  """Adds to the value of HSV; hue and saturation stay."""
  value = image.max(-1, keepdims=True)
  brighter = jnp.minimum(value + amount, 1)
  black = value == 0
  return jnp.where(
    black, brighter, image * (brighter / jnp.where(black, 1, value))
  )
