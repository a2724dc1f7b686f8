"""Random resized crop with flip, and the crop that evaluation sees.

The sampler and the antialiased bilinear filter are torchvision's.
"""

from functools import partial
from typing import NamedTuple

import jax
import jax.numpy as jnp
from jaxtyping import Array, Bool, Float, Int

from jssl.augment import separable
from jssl.typing import Images, Key, Keys

_TRIES = 10

# The share of the resized image that evaluation keeps: 224 px of 256.
_CENTER_SHARE = 0.875


class Boxes(NamedTuple):
  """Boxes of whole pixels, one for each image."""

  top: Int[Array, "b"]
  left: Int[Array, "b"]
  height: Int[Array, "b"]
  width: Int[Array, "b"]


def _centered_box(
  height: int, width: int, min_ratio: float, max_ratio: float
) -> tuple[int, int, int, int]:
  """Returns the largest centred box whose ratio is allowed."""
  box_height, box_width = height, width
  if width < min_ratio * height:
    box_height = round(width / min_ratio)
  elif width > max_ratio * height:
    box_width = round(height * max_ratio)
  top, left = (height - box_height) // 2, (width - box_width) // 2
  return top, left, box_height, box_width


def _random_box(
  key: Key,
  *,
  height: int,
  width: int,
  min_area: float,
  max_area: float,
  min_ratio: float,
  max_ratio: float,
) -> Boxes:
  """Draws one box; its fields are scalars."""
  # One flat draw: several, or one of shape (4, tries), are the same numbers
  # to us, but take XLA seconds longer to compile.
  drawn = jax.random.uniform(key, (4 * _TRIES,))
  area, ratio, top, left = drawn.reshape(4, _TRIES)
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
  # The fallback comes last and always fits.
  fallback = _centered_box(height, width, min_ratio, max_ratio)
  first = jnp.argmax(jnp.append(fits, True))
  return Boxes(
    *(jnp.append(t, f)[first] for t, f in zip(tries, fallback, strict=True))
  )


def random_boxes(
  keys: Keys,
  *,
  height: int,
  width: int,
  min_area: float,
  max_area: float,
  min_ratio: float,
  max_ratio: float,
) -> Boxes:
  """Draws a crop box for each key, as torchvision's RandomResizedCrop does.

  Of ten candidates the first that fits into the image is taken: its area is
  uniform, the logarithm of its width / height is uniform, and so is its place.
  If none fits, it is the largest centred box with an allowed ratio.

  Args:
    keys: one for each image, [b].
    height: of the images, px.
    width: of the images, px.
    min_area: smallest share of the image's area.
    max_area: largest share of it.
    min_ratio: smallest width / height.
    max_ratio: largest width / height.

  Returns:
    Boxes with fields [b], inside the image.
  """
  draw = partial(
    _random_box,
    height=height,
    width=width,
    min_area=min_area,
    max_area=max_area,
    min_ratio=min_ratio,
    max_ratio=max_ratio,
  )
  return jax.vmap(draw)(keys)


def resize_matrix(
  start: Int[Array, ""] | int,
  size: Int[Array, ""] | int,
  *,
  in_px: int,
  out_px: int,
  reverse: Bool[Array, ""] | bool = False,
) -> Float[Array, "out_px in_px"]:
  """Returns the matrix that resizes a segment of an axis.

  A triangle as wide as the shrink factor (but at least a pixel each way),
  cut at the segment's ends and normalised: Pillow's BILINEAR, torchvision's
  `antialias=True`.

  Args:
    start: first pixel of the segment.
    size: pixels of the segment.
    in_px: length of the whole axis.
    out_px: length of the result.
    reverse: whether the result is mirrored.
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
  """Cuts a box out of each image, resizes it and mirrors it where `flip`.

  Args:
    boxes: one for each image, fields [b].
    images: [b, h, w, c].
    size_px: height and width of the result.
    flip: left for right, [b].
  """
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


def center_crop(
  images: Images, *, size_px: int
) -> Float[Array, "b size_px size_px c"]:
  """Resizes each image by its shorter side and cuts out the centre.

  The shorter side becomes `size_px / 0.875`, or stays if it is between the
  two; a smaller image is enlarged to `size_px`. An image of `size_px` each way
  comes back as it is.

  Args:
    images: [b, h, w, c].
    size_px: height and width of the result.
  """
  batch, height, width, _ = images.shape
  if height == width == size_px:
    return images
  short = min(height, width)
  resized = max(size_px, min(short, round(size_px / _CENTER_SHARE)))

  def matrix(in_px: int) -> Array:
    out_px = in_px * resized // short
    whole = resize_matrix(0, in_px, in_px=in_px, out_px=out_px)
    first = (out_px - size_px) // 2
    kept = whole[first : first + size_px]
    return jnp.broadcast_to(kept, (batch, *kept.shape))

  return separable.apply(matrix(height), matrix(width), images)
