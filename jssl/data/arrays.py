"""Images that are arrays: of 16 bits, floats, or other numbers of channels.

They are NumPy files, and what pillow does not decode to 8 bits of 1, 3 or 4
channels, as arrays of uint8, uint16, or float32 in [0, 1].
"""

import contextlib
import io
import math

import numpy as np
from jaxtyping import Num, UInt16
from PIL import Image, ImageColor, UnidentifiedImageError

from jssl.data.image import (
  FORMATS,
  UnsuitableImageError,
  orientation,
  resize_square,
)

# From the least precise to the most precise one.
DTYPES = tuple(map(np.dtype, ("uint8", "uint16", "float32")))
# Pillow's modes of one channel of more than 8 bits.
_DEEP_MODES = ("I", "I;16", "I;16B", "I;16L", "I;16N", "F")
_NPY_MAGIC = b"\x93NUMPY"
_TIFF_MAGIC = (b"II*\0", b"MM\0*", b"II+\0", b"MM\0+")
# Other files that may have one channel of more than 8 bits, besides PNG files.
_DEEP_MAGIC = (b"P5", b"Pf", b"\0\0\0\x0cjP  ", b"SIMPLE  =")
_BITS_TAG, _SAMPLES_TAG, _ORIENTATION_TAG = 258, 277, 274


def largest(dtype: np.dtype) -> int:
  """Returns the value that is 1.0 on the device: 255, 65,535, or 1."""
  return np.iinfo(dtype).max if dtype.kind == "u" else 1


def square_array(
  array: Num[np.ndarray, "h w c"], size_px: int
) -> Num[np.ndarray, "{size_px} {size_px} c"]:
  """Resizes the centre square of each channel as `square` does."""
  if array.shape[:2] == (size_px, size_px):
    return array
  planes = np.moveaxis(array.astype(np.float32), 2, 0)
  resized = [
    np.asarray(resize_square(Image.fromarray(plane), size_px))
    for plane in planes
  ]
  # BICUBIC and HAMMING have negative weights.
  values = np.stack(resized, axis=2).clip(0, largest(array.dtype))
  if array.dtype.kind == "u":
    values = np.rint(values)
  return values.astype(array.dtype)


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


def _read_tiff(data: bytes) -> tuple[np.ndarray | None, bool]:
  """Reads the first page of a TIFF file; None if pillow decodes all of it.

  Returns:
    The pixels, and True if the last channel is opacity.
  """
  with (
    contextlib.suppress(UnidentifiedImageError),
    Image.open(io.BytesIO(data), formats=("TIFF",)) as image,
  ):
    tags = image.tag_v2  # type: ignore[attr-defined]
    bits, samples = max(tags.get(_BITS_TAG, (1,))), tags.get(_SAMPLES_TAG, 1)
    if samples <= len(image.getbands()) and (bits <= 8 or samples == 1):
      return _read_deep(image), False
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
    try:
      array = page.asarray()
    except Exception as error:  # tifffile has none of its own for packages.
      needed = "'imagecodecs' package" in str(error)
      if not (needed or isinstance(error, ImportError)):
        raise
      raise ImportError(
        f"this TIFF file needs imagecodecs: pip install 'jssl[tiff]' ({error})"
      ) from error
    if page.axes.startswith("S"):
      array = np.moveaxis(array, 0, -1)
    rgb = page.photometric == tifffile.PHOTOMETRIC.RGB
    kinds = tifffile.EXTRASAMPLE
    multiplied = rgb and page.extrasamples == (kinds.ASSOCALPHA,)
    opacity = multiplied or (rgb and page.extrasamples == (kinds.UNASSALPHA,))
    if multiplied:
      array = _unassociated(array)
    tag = page.tags.get(_ORIENTATION_TAG)
    return turned(array, tag.value if tag else 1), opacity


def _read_deep(image: Image.Image) -> np.ndarray | None:
  """Returns the pixels of one channel of more than 8 bits, or None."""
  if image.mode not in _DEEP_MODES:
    return None
  return turned(np.asarray(image), orientation(image))


def is_deep_colour(data: bytes) -> bool:
  """True for a PNG file of RGB or RGBA with 16 bits."""
  return _png_header(data) in (b"\x10\2", b"\x10\6")


def _png_header(data: bytes) -> bytes:
  """Returns the bits and the colour type of a PNG file; b"" for others."""
  return data[24:26] if data.startswith(b"\x89PNG") else b""


def _read_deep_colour(data: bytes) -> UInt16[np.ndarray, "h w c"]:
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
  return turned(halves[0] << 8 | halves[1], turn)


def _unassociated(
  array: Num[np.ndarray, "h w 4"],
) -> Num[np.ndarray, "h w 4"]:
  """Divides colours by the opacity that they are multiplied by."""
  if array.dtype.kind not in "uf":
    return array
  most = largest(array.dtype)
  colours, opacity = array[..., :3].astype(float), array[..., 3:]
  whole = np.zeros_like(colours)
  np.divide(colours * most, opacity, out=whole, where=opacity > 0)
  if most > 1:
    whole = np.rint(whole.clip(0, most))
  return np.concatenate([whole.astype(array.dtype), opacity], axis=2)


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


def turned(array: np.ndarray, orientation: int) -> np.ndarray:
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
  """Returns the array of `read_array_and_opacity`."""
  return read_array_and_opacity(data, background, value_range)[0]


def read_array_and_opacity(
  data: bytes,
  background: str | None,
  value_range: tuple[float, float] | None,
) -> tuple[Num[np.ndarray, "h w c"] | None, bool]:
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
    The array, or None for an 8-bit image, such as any JPEG file; and True if
    the array of the file has opacity.

  Raises:
    UnsuitableImageError: if the array is no image, or values are out of range.
    DecompressionBombError: if the array is too large.
    ImportError: if the file needs a package that is not installed.
    Exception: any other, if the file is damaged.
  """
  array, opacity = None, False
  if data.startswith(_NPY_MAGIC):
    array = _read_npy(data)
  elif data.startswith(_TIFF_MAGIC):
    array, opacity = _read_tiff(data)
  elif is_deep_colour(data):
    array = _read_deep_colour(data)
    opacity = array.shape[2] == 4
  elif data.startswith(_DEEP_MAGIC) or _png_header(data) == b"\x10\0":
    with Image.open(io.BytesIO(data), formats=FORMATS) as image:
      array = _read_deep(image)
  if array is None:
    return None, False
  if opacity:
    array = _composite(array, background)
  return _to_stored(array, value_range), opacity


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
