"""Decodes JPEG files to squares, about as fast as they are decoded in full.

Pillow decodes the same pixels in 1.3 times the time, and resizes in four times
the time; see docs/input.md.
"""

import math
import threading

import numpy as np
import simplejpeg
from cykooz_resizer import (
  CropBox,
  FilterType,
  ImageData,
  PixelType,
  ResizeAlg,
  ResizeOptions,
  Resizer,
)
from jaxtyping import UInt8
from PIL import Image

_MAGIC = b"\xff\xd8"
_COLOURS = {1: ("GRAY", PixelType.U8), 3: ("RGB", PixelType.U8x3)}
# With antialiasing, as in pillow. CATMULL_ROM is pillow's BICUBIC.
_SHRINK = ResizeAlg.convolution(FilterType.bilinear)
_ENLARGE = ResizeAlg.convolution(FilterType.catmull_rom)
# Memory of decoded images: fresh pages for each take 3 to 5% of the time.
_memory = threading.local()


def is_jpeg(encoded: bytes, channels: int) -> bool:
  """True if `decode_square` may decode the file to this number of channels."""
  return encoded.startswith(_MAGIC) and channels in _COLOURS


def has_metadata(encoded: bytes) -> bool:
  """True if the file may have an orientation, in EXIF or XMP (APP1)."""
  at = 2
  while encoded[at : at + 1] == b"\xff":
    marker, size = encoded[at + 1 : at + 2], encoded[at + 2 : at + 4]
    if marker in (b"\xe1", b"\xda"):  # APP1, or the beginning of pixels.
      return marker == b"\xe1"
    at += 2 + int.from_bytes(size)
  return False


def _buffer(size: int) -> np.ndarray:
  """Returns memory of this thread, which its next call returns as well."""
  buffer = getattr(_memory, "buffer", None)
  if buffer is None or len(buffer) < size:
    buffer = _memory.buffer = np.empty(size, np.uint8)
  return buffer


def decode_square(
  encoded: bytes, *, size_px: int, channels: int
) -> UInt8[np.ndarray, "{size_px} {size_px} {channels}"] | None:
  """Decodes a JPEG file and resizes its centre square, antialiased.

  A large image is decoded at a half or less, at least `2 * size_px`.

  Args:
    encoded: file that `is_jpeg` accepts.
    size_px: height and width of the result.
    channels: 1 or 3.

  Returns:
    The pixels, not turned upright; None for damaged files, colours that are
    not YCbCr, RGB or gray, and more pixels than pillow decodes silently.
  """
  colour, pixel_type = _COLOURS[channels]
  try:
    height, width, _, _ = simplejpeg.decode_jpeg_header(encoded)
    if height * width > (Image.MAX_IMAGE_PIXELS or math.inf):
      return None
    if height == width == size_px:
      return simplejpeg.decode_jpeg(encoded, colour)
    scale = {}
    if min(height, width) >= 4 * size_px:
      at_least = 2 * size_px
      scale = {"min_height": at_least, "min_width": at_least, "min_factor": 2}
    pixels = simplejpeg.decode_jpeg(
      encoded,
      colour,
      buffer=_buffer(height * width * channels),
      **scale,
    )
  except ValueError:
    return None
  height, width, _ = pixels.shape
  side = min(height, width)
  left, top = (width - side) / 2, (height - side) / 2
  rows = slice(math.floor(top), math.ceil(top + side))
  columns = slice(math.floor(left), math.ceil(left + side))
  square = pixels[rows, columns]
  target = ImageData(size_px, size_px, pixel_type)
  Resizer().resize(
    ImageData(square.shape[1], square.shape[0], pixel_type, square.tobytes()),
    target,
    ResizeOptions(
      _SHRINK if side > size_px else _ENLARGE,
      use_alpha=False,
      crop_box=CropBox(left % 1, top % 1, side, side),
    ),
  )
  resized = np.frombuffer(target.get_buffer(), np.uint8)
  return resized.reshape(size_px, size_px, channels)
