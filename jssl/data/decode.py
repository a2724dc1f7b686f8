"""Decodes an image file to a square of the kind that a set has."""

import io

import numpy as np
from jaxtyping import Num, UInt8
from PIL import Image

from jssl.data import jpeg
from jssl.data.arrays import (
  is_deep_colour,
  read_array,
  square_array,
  to_kind,
  turned,
)
from jssl.data.image import FORMATS, MODES, orientation, square

_UINT8 = np.dtype(np.uint8)


def _jpeg_square(
  encoded: bytes, size_px: int, channels: int
) -> UInt8[np.ndarray, "h w c"] | None:
  """Decodes a JPEG file faster than pillow; None if pillow has to do it."""
  if not jpeg.is_jpeg(encoded, channels):
    return None
  turn = 1
  if jpeg.has_metadata(encoded):
    with Image.open(io.BytesIO(encoded), formats=FORMATS) as file:
      turn = orientation(file)
  pixels = jpeg.decode_square(encoded, size_px=size_px, channels=channels)
  return None if pixels is None else turned(pixels, turn)


def decode(
  encoded: bytes, *, size_px: int, channels: int, dtype: np.dtype = _UINT8
) -> Num[np.ndarray, "{size_px} {size_px} {channels}"]:
  """Decodes a file to the centre square of an image, see `square`.

  8 bits of 1, 3 or 4 channels become others by `to_kind`.

  Raises:
    Exception: as `read_array` and `square`.
  """
  array = _jpeg_square(encoded, size_px, channels)
  # Pillow's 8 bits of a PNG file with 16 bits are the upper ones.
  if array is None and not (dtype == _UINT8 and is_deep_colour(encoded)):
    background = None if channels == 4 else "white"
    array = read_array(encoded, background=background)
  if array is None:
    own = channels if channels in MODES else 3
    image = square(encoded, MODES[own], size_px)
    array = np.asarray(image).reshape(size_px, size_px, own)
  return to_kind(square_array(array, size_px), channels, dtype)
