"""Maps over the rows and columns of one image, and reads between its pixels.

Matrices depend on sizes only, so NumPy makes them while a program is traced.
"""

from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float

Image = Float[Array, "h w c"]
Plane = Float[Array, "h w"]
# Maps indices beyond an axis of the given length to indices within.
Border = Callable[[Any, int], Any]


def nearest(index: Any, size: int) -> Any:
  """Repeats the outer pixel: aaa|abc|ccc."""
  return index.clip(0, size - 1)


def mirror(index: Any, size: int) -> Any:
  """Reflects about the outer pixel, OpenCV's REFLECT_101: cb|abc|ba."""
  index = index % (2 * size - 2)
  return size - 1 - abs(size - 1 - index)


def reflect(index: Any, size: int) -> Any:
  """Reflects about the edge, SciPy's "reflect": ba|abc|cb."""
  index = index % (2 * size)
  return index + (index >= size) * (2 * size - 1 - 2 * index)


def over_axes(
  over_height: Float[np.ndarray, "y h"],
  over_width: Float[np.ndarray, "x w"],
  image: Image,
) -> Float[Array, "y x c"]:
  """Returns `over_height @ image @ over_width.T` for each channel."""
  rows = jnp.einsum(
    "yh,hwc->ywc",
    over_height.astype(image.dtype),
    image,
    precision=jax.lax.Precision.HIGHEST,
  )
  return jnp.einsum(
    "xw,ywc->yxc",
    over_width.astype(image.dtype),
    rows,
    precision=jax.lax.Precision.HIGHEST,
  )


def gaussian_taps(sigma: float, half: int) -> Float[np.ndarray, "taps"]:
  """Returns the normalised Gaussian at -half, ..., half; 1 for sigma 0."""
  offsets = np.arange(-half, half + 1)
  taps = np.exp(-0.5 * (offsets / sigma) ** 2) if sigma else offsets == 0
  return taps / taps.sum()


def gaussian_matrix(
  size: int, sigma: float, *, truncate: float, border: Border
) -> Float[np.ndarray, "{size} {size}"]:
  """Returns the matrix of SciPy's Gaussian filter of an axis."""
  half = int(truncate * sigma + 0.5)
  matrix = np.zeros((size, size))
  pixel = np.arange(size)
  taps = gaussian_taps(sigma, half)
  for offset, tap in zip(range(-half, half + 1), taps, strict=True):
    np.add.at(matrix, (pixel, border(pixel + offset, size)), tap)
  return matrix


def gaussian_filter(
  image: Image, sigma: float, *, truncate: float = 4.0, border: Border = nearest
) -> Image:
  """Blurs an image as scikit-image's `gaussian` does."""
  over_height, over_width = (
    gaussian_matrix(n, sigma, truncate=truncate, border=border)
    for n in image.shape[:2]
  )
  return over_axes(over_height, over_width, image)


def zoom_matrix(size: int, factor: float) -> Float[np.ndarray, "{size} {size}"]:
  """Returns the matrix that enlarges the centre of an axis to its size.

  Bilinear, as SciPy's `zoom` of order 1: the outer pixels of the centre map to
  the outer pixels of the enlarged axis, which is then trimmed.
  """
  crop = int(np.ceil(size / factor))
  zoomed = round(crop * factor)
  pixel = (zoomed - size) // 2 + np.arange(size)
  position = pixel * ((crop - 1) / (zoomed - 1))
  distance = np.abs(position[:, None] - np.arange(crop))
  matrix = np.zeros((size, size))
  first = (size - crop) // 2
  matrix[:, first : first + crop] = np.maximum(0, 1 - distance)
  return matrix


def zoom(image: Image, factor: float) -> Image:
  """Enlarges the centre of an image to the size of the image."""
  over_height, over_width = (zoom_matrix(n, factor) for n in image.shape[:2])
  return over_axes(over_height, over_width, image)


def box_matrix(in_px: int, out_px: int) -> Float[np.ndarray, "out_px in_px"]:
  """Returns the matrix of Pillow's BOX filter of an axis.

  Means of the pixels with their centre within a box, and the nearest pixel
  where the axis is enlarged.
  """
  scale = in_px / out_px
  center = (np.arange(out_px) + 0.5)[:, None] * scale
  # In Pillow's order, which decides about centres on the border of a box.
  place = (np.arange(in_px) - center + 0.5) / max(scale, 1)
  inside = (place > -0.5) & (place <= 0.5)
  return inside / inside.sum(1, keepdims=True)


def bilinear(image: Image, y: Plane, x: Plane, border: Border) -> Image:
  """Reads an image at positions (y, x), bilinearly."""
  height, width, _ = image.shape
  top, left = jnp.floor(y), jnp.floor(x)
  down, right = (y - top)[..., None], (x - left)[..., None]
  rows, columns = (
    [border(first.astype(int) + i, size) for i in (0, 1)]
    for first, size in ((top, height), (left, width))
  )
  above, below = (
    (1 - right) * image[row, columns[0]] + right * image[row, columns[1]]
    for row in rows
  )
  return (1 - down) * above + down * below


def motion(
  image: Image, angle_deg: Float[Array, ""], *, radius: int, sigma: float
) -> Image:
  """Blurs towards an angle, as ImageMagick's `MotionBlurImage` does.

  The mean of 2 radius + 1 shifts by whole pixels along a line that begins at
  the pixel, weighted by half a Gaussian; the outer pixel is repeated.
  """
  height, width, _ = image.shape
  distance = np.arange(2 * radius + 1)
  weights = np.exp(-0.5 * (distance / sigma) ** 2)
  angle = jnp.deg2rad(angle_deg)
  down, right = (
    jnp.ceil(distance * along - 0.5).astype(int)
    for along in (jnp.sin(angle), jnp.cos(angle))
  )

  def add(total: Array, tap: tuple[Array, Array, Array]) -> tuple[Array, None]:
    weight, dy, dx = tap
    rows = nearest(jnp.arange(height) + dy, height)
    columns = nearest(jnp.arange(width) + dx, width)
    return total + weight * image[rows[:, None], columns[None]], None

  taps = jnp.asarray(weights / weights.sum(), image.dtype), down, right
  return jax.lax.scan(add, jnp.zeros_like(image), taps)[0]
