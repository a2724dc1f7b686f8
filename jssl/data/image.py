"""Decodes image files: upright, of one size and without transparency.

Pillow decodes images of 8 bits and 1, 3 or 4 channels. All others are arrays of
uint8, uint16, or float32 in [0, 1]: NumPy files, and images of 16 bits, floats
or more channels, see `read_array`.
"""

import contextlib
import io
import math

import numpy as np
from jaxtyping import Int, Num, UInt8, UInt16
from PIL import ExifTags, Image, ImageColor, UnidentifiedImageError

from jssl.data import jpeg

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
# From the least precise to the most precise one.
DTYPES = tuple(map(np.dtype, ("uint8", "uint16", "float32")))
# Pillow's modes of one channel of more than 8 bits.
_DEEP_MODES = ("I", "I;16", "I;16B", "I;16L", "I;16N", "F")
_NPY_MAGIC = b"\x93NUMPY"
_TIFF_MAGIC = (b"II*\0", b"MM\0*", b"II+\0", b"MM\0+")
# Other files that may have one channel of more than 8 bits, besides PNG files.
_DEEP_MAGIC = (b"P5", b"Pf", b"\0\0\0\x0cjP  ", b"SIMPLE  =")
_BITS_TAG, _SAMPLES_TAG, _ORIENTATION_TAG = 258, 277, 274
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
    return _resize_square(image, size_px)


def _resize_square(image: Image.Image, size_px: int) -> Image.Image:
  # Resizing takes as long as decoding. HAMMING has half the taps of BICUBIC:
  # a little softer, and sharper than the usual BILINEAR.
  shrinks = min(image.size) > size_px
  taps = Image.Resampling.HAMMING if shrinks else Image.Resampling.BICUBIC
  return image.resize((size_px, size_px), taps, box=_square_box(image.size))


def square_array(
  array: Num[np.ndarray, "h w c"], size_px: int
) -> Num[np.ndarray, "{size_px} {size_px} c"]:
  """Resizes the centre square of each channel as `square` does."""
  if array.shape[:2] == (size_px, size_px):
    return array
  planes = np.moveaxis(array.astype(np.float32), 2, 0)
  resized = [
    np.asarray(_resize_square(Image.fromarray(plane), size_px))
    for plane in planes
  ]
  # BICUBIC and HAMMING have negative weights.
  values = np.stack(resized, axis=2).clip(0, largest(array.dtype))
  if array.dtype.kind == "u":
    values = np.rint(values)
  return values.astype(array.dtype)


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


def largest(dtype: np.dtype) -> int:
  """Returns the value that is 1.0 on the device: 255, 65,535, or 1."""
  return np.iinfo(dtype).max if dtype.kind == "u" else 1


def _check_size(*shape: int) -> None:
  """Raises an error if an array is larger than the largest RGBA image."""
  limit = 8 * (Image.MAX_IMAGE_PIXELS or math.inf)
  if math.prod(shape) > limit:
    raise Image.DecompressionBombError(
      f"an image of shape {list(shape)} exceeds the limit of {limit:,} values."
    )


def _read_npy(data: bytes) -> np.ndarray:
  file = io.BytesIO(data)
  if np.lib.format.read_magic(file) == (1, 0):
    header = np.lib.format.read_array_header_1_0(file)
  else:
    header = np.lib.format.read_array_header_2_0(file)
  shape, column_first, dtype = header
  _check_size(*shape)
  # Unlike `np.load`, this allocates nothing for a header that lies, and reads
  # no pickles.
  values = np.frombuffer(data, dtype, math.prod(shape), file.tell())
  return values.reshape(shape, order="F" if column_first else "C")


def _read_tiff(data: bytes, background: str | None) -> np.ndarray | None:
  """Reads the first page of a TIFF file; None if pillow decodes all of it."""
  with (
    contextlib.suppress(UnidentifiedImageError),
    Image.open(io.BytesIO(data), formats=("TIFF",)) as image,
  ):
    tags = image.tag_v2  # type: ignore[attr-defined]
    bits, samples = max(tags.get(_BITS_TAG, (1,))), tags.get(_SAMPLES_TAG, 1)
    if samples <= len(image.getbands()) and (bits <= 8 or samples == 1):
      return _read_deep(image)
  try:
    import tifffile
  except ImportError as error:
    raise ImportError(
      "TIFF files of more than 4 channels, or 16 bits in colour, need tifffile:"
      " pip install 'jssl[tiff]'"
    ) from error
  with tifffile.TiffFile(io.BytesIO(data)) as file:
    page = file.pages.first
    _check_size(*page.shape)
    array = page.asarray()
    if page.axes.startswith("S"):
      array = np.moveaxis(array, 0, -1)
    if page.photometric == tifffile.PHOTOMETRIC.RGB and page.extrasamples in (
      (tifffile.EXTRASAMPLE.ASSOCALPHA,),
      (tifffile.EXTRASAMPLE.UNASSALPHA,),
    ):
      array = _composite(array, background)
    tag = page.tags.get(_ORIENTATION_TAG)
    return _turned(array, tag.value if tag else 1)


def _read_deep(image: Image.Image) -> np.ndarray | None:
  """Returns the pixels of one channel of more than 8 bits, or None."""
  if image.mode not in _DEEP_MODES:
    return None
  return _turned(np.asarray(image), orientation(image))


def is_deep_colour(data: bytes) -> bool:
  """True for a PNG file of RGB or RGBA with 16 bits."""
  return _png_header(data) in (b"\x10\2", b"\x10\6")


def _png_header(data: bytes) -> bytes:
  """Returns the bits and the colour type of a PNG file; b"" for others."""
  return data[24:26] if data.startswith(b"\x89PNG") else b""


def _read_deep_colour(
  data: bytes, background: str | None
) -> UInt16[np.ndarray, "h w c"]:
  """Reads all 16 bits of a PNG file, of which pillow gives the upper 8."""
  halves = []
  for order in ("B", "L"):  # Unpacks the upper byte, then the lower one.
    with Image.open(io.BytesIO(data), formats=("PNG",)) as image:
      (tile,) = image.tile
      rawmode = f"{image.mode};16{order}"
      image.tile = [tile._replace(args=rawmode)]
      image.load()
      halves.append(np.asarray(image).astype(np.uint16))
      turn = orientation(image)
  array = _turned(halves[0] << 8 | halves[1], turn)
  return _composite(array, background) if array.shape[2] == 4 else array


def _composite(
  array: Num[np.ndarray, "h w 4"], background: str | None
) -> Num[np.ndarray, "h w _c"]:
  """Composites RGBA on a colour; None keeps the opacity."""
  if background is None or array.dtype.kind not in "uf":
    return array
  most = largest(array.dtype)
  colour = np.array(ImageColor.getrgb(background)[:3]) / 255 * most
  share = array[..., 3:] / most
  mixed = share * array[..., :3] + (1 - share) * colour
  return (np.rint(mixed) if most > 1 else mixed).astype(array.dtype)


def _turned(array: np.ndarray, orientation: int) -> np.ndarray:
  """Makes an array upright that has an EXIF orientation."""
  if orientation in (5, 6, 7, 8):
    array = array.swapaxes(0, 1)
  if orientation in (2, 3, 6, 7):
    array = array[:, ::-1]
  return array[::-1] if orientation in (3, 4, 7, 8) else array


def read_array(
  data: bytes,
  *,
  background: str | None = "white",
  value_range: tuple[float, float] | None = None,
) -> Num[np.ndarray, "h w c"] | None:
  """Decodes a file that pillow does not decode to 8 bits of 1, 3 or 4 channels.

  These are NumPy files, one channel of more than 8 bits, PNG files of RGB with
  16 bits, and the first page of TIFF files of more channels. Arrays are upright
  and of uint8, uint16, or float32 in [0, 1]: booleans become 0 and 255, other
  integers uint16 and other floats float32.

  Args:
    data: bytes of the file.
    background: colour behind transparent pixels; None keeps opacity as the
      fourth channel.
    value_range: values that become 0 and the largest one, if the file has more
      than 8 bits; values outside become the nearer of the two.

  Returns:
    The array, or None for an 8-bit image, such as any JPEG file.

  Raises:
    UnsuitableImageError: if the array is no image, or values are out of range.
    DecompressionBombError: if the array is too large.
    ImportError: if the file needs tifffile, which is not installed.
    Exception: any other, if the file is damaged.
  """
  array = None
  if data.startswith(_NPY_MAGIC):
    array = _read_npy(data)
  elif data.startswith(_TIFF_MAGIC):
    array = _read_tiff(data, background)
  elif is_deep_colour(data):
    array = _read_deep_colour(data, background)
  elif data.startswith(_DEEP_MAGIC) or _png_header(data) == b"\x10\0":
    with Image.open(io.BytesIO(data), formats=FORMATS) as image:
      array = _read_deep(image)
  return None if array is None else _to_stored(array, value_range)


def _to_stored(
  array: np.ndarray, value_range: tuple[float, float] | None
) -> Num[np.ndarray, "h w c"]:
  """Returns an array as [h, w, c] of uint8, uint16 or float32 in [0, 1]."""
  if array.ndim == 2:
    array = array[..., None]
  if array.ndim != 3 or not array.size:
    raise UnsuitableImageError(
      f"an array of shape {list(array.shape)}; expected [height, width, "
      "channels] or [height, width]"
    )
  kind = array.dtype.kind
  if kind not in "buif":
    raise UnsuitableImageError(
      f"values of dtype {array.dtype}; expected integers or floats"
    )
  if kind == "b":
    return array * np.uint8(255)
  if array.dtype == np.uint8:
    return array
  if kind == "f":
    array = array.astype(np.float32)
  dtype = np.dtype(np.float32 if kind == "f" else np.uint16)
  if value_range:
    low, high = value_range
    share = np.clip((array - low) / (high - low), 0, 1) * largest(dtype)
    array = share if kind == "f" else np.rint(share)
  low, high = array.min(), array.max()
  if not (low >= 0 and high <= largest(dtype)):
    raise UnsuitableImageError(
      f"values from {low:g} to {high:g}; expected 0 to {largest(dtype)}; map "
      "them with --value_range=LOW,HIGH"
    )
  return array.astype(dtype)


def to_kind(
  array: Num[np.ndarray, "h w c"], channels: int, dtype: np.dtype
) -> Num[np.ndarray, "h w {channels}"]:
  """Returns an image with other channels or another dtype.

  One channel is repeated to three, an opaque fourth is added to three, and
  three become their luminance as one. Values keep their share of the largest.

  Raises:
    UnsuitableImageError: if the channels cannot become those.
  """
  found = array.shape[2]
  if found == 1 and channels in (3, 4):
    array = np.repeat(array, 3, axis=2)
  if array.shape[2] == 3 and channels == 4:
    opaque = np.full_like(array[..., :1], largest(array.dtype))
    array = np.concatenate([array, opaque], axis=2)
  if found == 3 and channels == 1:
    gray = array @ np.array([0.299, 0.587, 0.114])
    if array.dtype.kind == "u":
      gray = np.rint(gray)
    array = gray[..., None].astype(array.dtype)
  if array.shape[2] != channels:
    raise UnsuitableImageError(f"{found} channels; expected {channels}")
  if array.dtype == dtype:
    return array
  values = array / largest(array.dtype) * largest(dtype)
  return (np.rint(values) if dtype.kind == "u" else values).astype(dtype)


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
  return None if pixels is None else _turned(pixels, turn)


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
