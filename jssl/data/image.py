"""Images of 8 bits and 1, 3 or 4 channels, which pillow decodes.

They become upright, of one size and without transparency.
"""

import contextlib
import io

import numpy as np
from jaxtyping import Int
from PIL import ExifTags, Image, UnidentifiedImageError

# Pillow finds the format by the content, and runs Ghostscript for EPS. Formats
# without a signature, such as TGA, would take damaged files of others.
_RASTER_FORMATS = (
  *("PNG", "JPEG", "WEBP", "BMP", "GIF", "TIFF", "PPM", "JPEG2000"),
  *("AVIF", "DDS", "FITS", "ICO", "PSD", "QOI", "SGI"),
)
Image.init()
# AVIF depends on the version of pillow.
FORMATS = tuple(name for name in _RASTER_FORMATS if name in Image.OPEN)
# Pillow's modes, by number of channels.
MODES = {1: "L", 3: "RGB", 4: "RGBA"}
# Pillow's modes of files with 8 bits per channel.
GRAYSCALE_MODES = ("1", "L", "LA")
COLOUR_MODES = ("P", "PA", "RGB", "RGBA", "CMYK", "YCbCr")
# Transposition that makes an image upright, by its EXIF orientation.
_UPRIGHT = {
  2: Image.Transpose.FLIP_LEFT_RIGHT,
  3: Image.Transpose.ROTATE_180,
  4: Image.Transpose.FLIP_TOP_BOTTOM,
  5: Image.Transpose.TRANSPOSE,
  6: Image.Transpose.ROTATE_270,
  7: Image.Transpose.TRANSVERSE,
  8: Image.Transpose.ROTATE_90,
}


# Files that cannot be opened, whatever the load of the file system.
UNREADABLE_ERRORS = (
  *(FileNotFoundError, PermissionError),
  *(IsADirectoryError, NotADirectoryError),
)


class UnsuitableImageError(ValueError):
  """A whole image whose shape or values are not those of a set."""


def is_damage(error: Exception) -> bool:
  """True if the bytes are damaged, False if reading them failed.

  pillow has no single exception for damaged files, and decodes no images above
  a number of pixels; ArrayRecord raises RuntimeError for everything.
  """
  if isinstance(error, RuntimeError):
    return "Corrupted" in str(error)
  failed = isinstance(error, OSError) and error.errno is not None
  whole = (MemoryError, Image.DecompressionBombError, ImportError)
  return not failed and not isinstance(error, whole)


def describe_damage(error: Exception) -> str:
  """Returns the message of an error about damaged bytes, always the same."""
  # Pillow's message has the address of the buffer.
  unknown = isinstance(error, UnidentifiedImageError)
  return "no image of a known format" if unknown else str(error)


def check_mode(image: Image.Image) -> None:
  """Raises an error unless an image is of 8 bits, gray or in colour."""
  if image.mode not in GRAYSCALE_MODES + COLOUR_MODES:
    raise UnsuitableImageError(
      f"pixels of mode {image.mode}; expected gray or RGB; convert it"
    )


def check_mask_mode(mask: Image.Image) -> None:
  """Raises ValueError unless a mask has one channel of up to 8 bits."""
  if mask.mode not in ("1", "L", "P"):
    raise ValueError(
      f"a mask with pixels of mode {mask.mode}; expected one channel of 8 "
      "bits, the class of each pixel, and 255 where it has none"
    )


def scale(image: Image.Image, mode: str, size_px: int) -> None:
  """Makes libjpeg decode a large image at a half, a quarter or an eighth.

  Leaves at least twice `size_px`, so that the resize filter has enough pixels.
  """
  image.draft(mode, (2 * size_px, 2 * size_px))


def orientation(image: Image.Image) -> int:
  """Returns the EXIF orientation, 1 to 8; 1 if there is none.

  Raises:
    OSError: if the file is a damaged PNG or TIFF.
  """
  # Pillow decodes a PNG file to find metadata behind its pixels; the error of
  # damaged pixels must not be lost. It turns a TIFF itself when it decodes it.
  if image.format in ("PNG", "TIFF"):
    image.load()
  # Metadata may be malformed, and the image whole.
  with contextlib.suppress(Exception):
    found = image.getexif().get(ExifTags.Base.Orientation)
    if found in _UPRIGHT:
      return found
  return 1


def upright(
  image: Image.Image, mode: str, background: str = "white"
) -> Image.Image:
  """Applies the EXIF orientation and converts the pixels.

  Args:
    image: an image of any mode.
    mode: "L" or "RGB", for which transparent images are composited, or "RGBA".
    background: colour behind transparent pixels.

  Returns:
    The image, which is the same object if nothing had to change.
  """
  turn = _UPRIGHT.get(orientation(image))
  if turn is not None:
    image = image.transpose(turn)
  if image.has_transparency_data and mode != "RGBA":
    canvas = Image.new("RGBA", image.size, background)
    canvas.alpha_composite(image.convert("RGBA"))
    image = canvas
  # `convert` would copy an image that has the mode already.
  return image if image.mode == mode else image.convert(mode)


def _square_box(size: tuple[int, int]) -> tuple[float, float, float, float]:
  """Returns the centre square of an image of (width, height)."""
  side = min(size)
  left, top = ((length - side) / 2 for length in size)
  return left, top, left + side, top + side


def square(
  encoded: bytes, mode: str, size_px: int, background: str = "white"
) -> Image.Image:
  """Decodes an image file and resizes its centre square, antialiased.

  See `upright` for `mode` and `background`.

  Raises:
    OSError: if the file is damaged; pillow raises SyntaxError for some damage.
  """
  with Image.open(io.BytesIO(encoded), formats=FORMATS) as file:
    check_mode(file)
    scale(file, mode, size_px)
    image = upright(file, mode, background)
    if image.size == (size_px, size_px):
      image.load()
      return image
    return resize_square(image, size_px)


def resize_square(image: Image.Image, size_px: int) -> Image.Image:
  """Resizes the centre square of an image, antialiased."""
  # Resizing takes as long as decoding. HAMMING has half the taps of BICUBIC:
  # a little softer, and sharper than the usual BILINEAR.
  shrinks = min(image.size) > size_px
  taps = Image.Resampling.HAMMING if shrinks else Image.Resampling.BICUBIC
  return image.resize((size_px, size_px), taps, box=_square_box(image.size))


def decode_mask(encoded: bytes, *, size_px: int) -> Int[np.ndarray, "h w"]:
  """Decodes the classes of the pixels of `square`, without interpolation.

  The value of a pixel is its class; 255 becomes -1, a pixel without a label.

  Raises:
    ValueError: if the file has not one channel of up to 8 bits.
  """
  with Image.open(io.BytesIO(encoded), formats=FORMATS) as file:
    check_mask_mode(file)
    # Of a palette image, the values are indices.
    pixels = file.resize(
      (size_px, size_px), Image.Resampling.NEAREST, box=_square_box(file.size)
    )
  mask = np.asarray(pixels).astype(np.int16)
  mask[mask == 255] = -1
  return mask
