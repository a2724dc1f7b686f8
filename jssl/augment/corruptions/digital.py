"""Contrast, elastic transform, pixelation and JPEG."""

from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float

from jssl.augment.corruptions import resampling
from jssl.augment.corruptions.resampling import Image, Plane
from jssl.typing import Key

# Tables K.1 and K.2 of the JPEG standard, ITU-T T.81.
LUMA = (
  *(16, 11, 10, 16, 24, 40, 51, 61),
  *(12, 12, 14, 19, 26, 58, 60, 55),
  *(14, 13, 16, 24, 40, 57, 69, 56),
  *(14, 17, 22, 29, 51, 87, 80, 62),
  *(18, 22, 37, 56, 68, 109, 103, 77),
  *(24, 35, 55, 64, 81, 104, 113, 92),
  *(49, 64, 78, 87, 103, 121, 120, 101),
  *(72, 92, 95, 98, 112, 100, 103, 99),
)
CHROMA = (
  *(17, 18, 24, 47, 99, 99, 99, 99),
  *(18, 21, 26, 66, 99, 99, 99, 99),
  *(24, 26, 56, 99, 99, 99, 99, 99),
  *(47, 66, 99, 99, 99, 99, 99, 99),
  *[99] * 32,
)
# RGB to luma and the two chromas, JFIF.
_YCBCR = np.array(
  [
    [0.299, 0.587, 0.114],
    [-0.168735892, -0.331264108, 0.5],
    [0.5, -0.418687589, -0.081312411],
  ]
)


def contrast(image: Image, draws: tuple, factor: float) -> Image:
  """Moves values towards the mean of their channel."""
  mean = image.mean((0, 1), keepdims=True)
  return (image - mean) * factor + mean


class Warp(NamedTuple):
  """Uniform numbers in [-1, 1] of three corners and of all pixels (x, y)."""

  corners: Float[Array, "3 2"]
  pixels: Float[Array, "2 h w"]


def draw_warp(key: Key, image: Image, c: tuple[float, ...]) -> Warp:
  """Draws the affine map and the displacements."""
  of_corners, of_pixels = jax.random.split(key)
  height, width, _ = image.shape
  return Warp(
    jax.random.uniform(of_corners, (3, 2), image.dtype, -1, 1),
    jax.random.uniform(of_pixels, (2, height, width), image.dtype, -1, 1),
  )


def _affine(image: Image, shifts: Float[Array, "3 2"]) -> Image:
  """Moves three corners of a square about the centre by `shifts` (x, y)."""
  height, width, _ = image.shape
  side, center = min(height, width) // 3, np.array([width // 2, height // 2])
  before = center + side * np.array([[1, 1], [1, -1], [-1, -1]])
  before = jnp.asarray(before, image.dtype)
  after = before + shifts
  # From positions after the map to those before it: a matrix of 2 x 2.
  (a, b), (c, d) = after[1] - after[0], after[2] - after[0]
  determinant = a * d - b * c
  scale = jnp.where(determinant == 0, 0, 1 / determinant)
  inverse = scale * jnp.stack([jnp.stack([d, -b]), jnp.stack([-c, a])])
  edges = before[1:] - before[:1]
  matrix = jnp.matmul(inverse, edges, precision=jax.lax.Precision.HIGHEST)
  y, x = jnp.indices((height, width), image.dtype)
  dx, dy = x - after[0, 0], y - after[0, 1]
  return resampling.bilinear(
    image,
    before[0, 1] + dx * matrix[0, 1] + dy * matrix[1, 1],
    before[0, 0] + dx * matrix[0, 0] + dy * matrix[1, 0],
    resampling.mirror,
  )


def elastic_transform(image: Image, warp: Warp, c: tuple[float, ...]) -> Image:
  """Applies a random affine map, then smooth displacements."""
  length, smoothing, shift = (share * min(image.shape[:2]) for share in c)
  image = _affine(image, shift * warp.corners)
  moved = length * resampling.gaussian_filter(
    jnp.moveaxis(warp.pixels, 0, 2),
    smoothing,
    truncate=3.0,
    border=resampling.reflect,
  )
  y, x = jnp.indices(image.shape[:2], image.dtype)
  return resampling.bilinear(
    image, y + moved[..., 1], x + moved[..., 0], resampling.reflect
  )


def pixelate(image: Image, draws: tuple, share: float) -> Image:
  """Shrinks the image by means over boxes and enlarges it by repetition."""
  over_height, over_width = (
    resampling.box_matrix(int(n * share), n)
    @ resampling.box_matrix(n, int(n * share))
    for n in image.shape[:2]
  )
  return resampling.over_axes(over_height, over_width, image)


def quantization(
  table: tuple[int, ...], quality: int
) -> Float[np.ndarray, "8 8"]:
  """Returns the steps of libjpeg at a quality."""
  percent = 5000 // quality if quality < 50 else 200 - 2 * quality
  steps = (np.array(table).reshape(8, 8) * percent + 50) // 100
  return steps.clip(1, 255).astype(float)


def _cosines() -> Float[np.ndarray, "8 8"]:
  """Returns the orthonormal DCT of eight values; rows are frequencies."""
  frequency, pixel = np.arange(8)[:, None], np.arange(8)
  basis = np.cos((2 * pixel + 1) * frequency * np.pi / 16) / 2
  basis[0] /= np.sqrt(2)
  return basis


def _code(plane: Plane, steps: Float[np.ndarray, "8 8"]) -> Plane:
  """Quantises the DCT of each block of 8 x 8; repeats outer pixels."""
  height, width = plane.shape
  fill = ((0, -height % 8), (0, -width % 8))
  padded = jnp.pad(plane, fill, mode="edge")
  blocks = padded.reshape(len(padded) // 8, 8, -1, 8)
  cosines = jnp.asarray(_cosines(), plane.dtype)
  step = jnp.asarray(steps, plane.dtype)[None, :, None, :]

  def transform(blocks: Array, basis: Array) -> Array:
    return jnp.einsum(
      "uy,vx,iyjx->iujv",
      basis,
      basis,
      blocks,
      precision=jax.lax.Precision.HIGHEST,
    )

  coded = jnp.round(transform(blocks, cosines) / step) * step
  return transform(coded, cosines.T).reshape(padded.shape)[:height, :width]


def _upsampling(size: int) -> Float[np.ndarray, "{2*size} {size}"]:
  """Returns libjpeg's "fancy" upsampling of an axis: weights 3/4 and 1/4."""
  matrix, pixel = np.zeros((2 * size, size)), np.arange(size)
  for out in (0, 1):
    matrix[2 * pixel + out, pixel] = 0.75
    other = resampling.nearest(pixel + 2 * out - 1, size)
    np.add.at(matrix, (2 * pixel + out, other), 0.25)
  return matrix


def jpeg_compression(image: Image, draws: tuple, quality: int) -> Image:
  """Codes an image as libjpeg does: 8 x 8 DCT, chroma of half the resolution.

  Pixels are rounded to 8 bits before. Colours, averages of chroma and decoded
  pixels are not rounded, which libjpeg does.
  """
  pixels = jnp.round(255 * image)
  luma = quantization(LUMA, quality)
  if image.shape[-1] == 1:
    return (_code(pixels[..., 0] - 128, luma)[..., None] + 128) / 255
  planes = jnp.einsum(
    "kc,hwc->khw",
    jnp.asarray(_YCBCR, image.dtype),
    pixels,
    precision=jax.lax.Precision.HIGHEST,
  )
  coded = [_code(planes[0] - 128, luma) + 128]
  height, width = planes.shape[1:]
  chroma = quantization(CHROMA, quality)
  for plane in planes[1:]:
    plane = jnp.pad(plane, ((0, height % 2), (0, width % 2)), mode="edge")
    half = plane.reshape(len(plane) // 2, 2, -1, 2).mean((1, 3))
    half = _code(half, chroma)
    over_height, over_width = (_upsampling(n) for n in half.shape)
    whole = resampling.over_axes(over_height, over_width, half[..., None])
    coded.append(whole[:height, :width, 0])
  decoded = jnp.einsum(
    "ck,khw->hwc",
    jnp.asarray(np.linalg.inv(_YCBCR), image.dtype),
    jnp.stack(coded),
    precision=jax.lax.Precision.HIGHEST,
  )
  return decoded / 255
