"""Random resized crop with flip, and the centre crop for evaluation.

Box sampling and antialiased bilinear filter match torchvision.
"""

from functools import partial
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Bool, Float, Int

from jssl.augment import separable
from jssl.typing import Images, Key

_TRIES = 10

# Share of the resized image that the centre crop keeps: 224 px of 256.
CENTER_SHARE = 0.875


class Boxes(NamedTuple):
  """Boxes in whole pixels, one per image; scalars for a single box."""

  top: Int[Array, "*b"]
  left: Int[Array, "*b"]
  height: Int[Array, "*b"]
  width: Int[Array, "*b"]


def inside(boxes: Boxes, height: int, width: int) -> Bool[Array, "*b h w"]:
  """True for the pixels of an image that are in its box."""

  def within(start: Array, size: Array, pixels: int) -> Bool[Array, "*b n"]:
    first, last = start[..., None], (start + size)[..., None]
    place = jnp.arange(pixels).reshape(*[1] * start.ndim, -1)
    return (place >= first) & (place < last)

  rows = within(boxes.top, boxes.height, height)
  columns = within(boxes.left, boxes.width, width)
  return rows[..., :, None] & columns[..., None, :]


def _centered_box(
  height: int, width: int, min_ratio: float, max_ratio: float
) -> tuple[int, int, int, int]:
  """Returns the largest centred box of an allowed ratio."""
  box_height, box_width = height, width
  if width < min_ratio * height:
    box_height = round(width / min_ratio)
  elif width > max_ratio * height:
    box_width = round(height * max_ratio)
  top, left = (height - box_height) // 2, (width - box_width) // 2
  return top, left, box_height, box_width


def random_box(
  key: Key,
  *,
  height: int,
  width: int,
  areas: tuple[float, float],
  ratios: tuple[float, float],
) -> Boxes:
  """Draws a crop box as torchvision's RandomResizedCrop does.

  Takes the first of ten candidates that fits into the image. Area (as a share
  of the image, within `areas`), logarithm of width / height (within `ratios`)
  and position are uniform. If no candidate fits, the box is the largest centred
  box of an allowed ratio.
  """
  # A single flat draw: several draws, or one of shape (4, tries), take XLA
  # seconds longer to compile.
  drawn = jax.random.uniform(key, (4 * _TRIES,))
  area, ratio, top, left = drawn.reshape(4, _TRIES)
  (min_area, max_area), (min_ratio, max_ratio) = areas, ratios
  area = height * width * (min_area + (max_area - min_area) * area)
  ratio = min_ratio * (max_ratio / min_ratio) ** ratio
  heights = jnp.round(jnp.sqrt(area / ratio)).astype(int)
  widths = jnp.round(jnp.sqrt(area * ratio)).astype(int)
  tries = Boxes(
    top=jnp.floor(top * (height - heights + 1)).astype(int),
    left=jnp.floor(left * (width - widths + 1)).astype(int),
    height=heights,
    width=widths,
  )
  fits = (heights > 0) & (heights <= height)
  fits &= (widths > 0) & (widths <= width)
  # The fallback is last and always fits.
  fallback = _centered_box(height, width, min_ratio, max_ratio)
  first = jnp.argmax(jnp.append(fits, True))
  return Boxes(
    *(jnp.append(t, f)[first] for t, f in zip(tries, fallback, strict=True))
  )


def resize_matrix(
  start: Int[Array, ""] | int,
  size: Int[Array, ""] | int,
  *,
  in_px: int,
  out_px: int,
  reverse: Bool[Array, ""] | bool = False,
) -> Float[Array, "out_px in_px"]:
  """Returns the matrix that resizes (and mirrors) a segment of an axis.

  A triangle filter as wide as the shrink factor (at least one pixel each way),
  cut at the ends of the segment and normalised: BILINEAR in Pillow,
  `antialias=True` in torchvision.
  """
  scale = size / out_px
  position = jnp.arange(out_px)
  position = jnp.where(reverse, out_px - 1 - position, position)
  center = start + (position + 0.5) * scale
  pixel = jnp.arange(in_px)
  distance = jnp.abs(pixel[None, :] + 0.5 - center[:, None])
  weight = jnp.maximum(0, 1 - distance / jnp.maximum(scale, 1))
  inside = (pixel >= start) & (pixel < start + size)
  weight = jnp.where(inside[None, :], weight, 0)
  return weight / weight.sum(axis=1, keepdims=True)


def crop_and_resize(
  boxes: Boxes,
  images: Images,
  *,
  size_px: int,
  flip: Bool[Array, "b"],
) -> Float[Array, "b size_px size_px c"]:
  """Crops a box from each image, resizes it and mirrors it where `flip`."""
  _, height, width, _ = images.shape
  over_height = jax.vmap(partial(resize_matrix, in_px=height, out_px=size_px))(
    boxes.top, boxes.height
  )
  over_width = jax.vmap(
    lambda start, size, reverse: resize_matrix(
      start, size, in_px=width, out_px=size_px, reverse=reverse
    )
  )(boxes.left, boxes.width, flip)
  return separable.apply(over_height, over_width, images)


def _short_side(short: int, size_px: int) -> int:
  """Returns the shorter side of the resized image before the centre crop."""
  return max(size_px, min(short, round(size_px / CENTER_SHARE)))


def center_crop(
  images: Images, *, size_px: int
) -> Float[Array, "b size_px size_px c"]:
  """Resizes the shorter side, clipped to [size, size / 0.875], and crops."""
  batch, height, width, _ = images.shape
  if height == width == size_px:
    return images
  short = min(height, width)
  resized = _short_side(short, size_px)

  def matrix(in_px: int) -> Array:
    out_px = in_px * resized // short
    whole = resize_matrix(0, in_px, in_px=in_px, out_px=out_px)
    first = (out_px - size_px) // 2
    kept = whole[first : first + size_px]
    return jnp.broadcast_to(kept, (batch, *kept.shape))

  return separable.apply(matrix(height), matrix(width), images)


def center_crop_masks(
  masks: Int[np.ndarray, "b h w"], *, size_px: int
) -> Int[np.ndarray, "b size_px size_px"]:
  """Crops masks as `center_crop` crops images, by the nearest pixel."""
  _, height, width = masks.shape
  short = min(height, width)

  def nearest(in_px: int) -> Int[np.ndarray, "size_px"]:
    out_px = in_px * _short_side(short, size_px) // short
    position = (out_px - size_px) // 2 + np.arange(size_px) + 0.5
    return np.floor(position * in_px / out_px).astype(int)

  return masks[:, nearest(height)[:, None], nearest(width)]
