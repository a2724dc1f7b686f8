"""Encodes an image file as `jssl prepare folder` stores it."""

import contextlib
import dataclasses
import io
import math
import pathlib
from collections.abc import Iterable
from typing import NamedTuple

import numpy as np
from jaxtyping import Num
from PIL import Image, ImageColor

from jssl.data.arrays import (
  DTYPES,
  is_deep_colour,
  read_array_and_opacity,
  square_array,
  to_kind,
)
from jssl.data.image import (
  FORMATS,
  GRAYSCALE_MODES,
  MODES,
  UNREADABLE_ERRORS,
  UnsuitableImageError,
  check_mask_mode,
  check_mode,
  describe_damage,
  is_damage,
  orientation,
  square,
  upright,
)


@dataclasses.dataclass(frozen=True)
class Options:
  """How the images of a folder are stored.

  Attributes:
    skip_damaged: True to omit damaged images; False makes them an error.
    stored_size_px: side of the centre squares that larger images are stored as;
      None for whole images.
    background: colour behind transparent pixels, by name or as "#rrggbb".
    keep_alpha: True to store 4 channels, the last of them opacity.
    masks: folder with a mask for each image, a PNG file of the same path.
    channels: number of channels that every image must have; None for gray and
      RGB images.
    value_range: values of images of more than 8 bits that are stored as 0 and
      the largest value; None to store values as they are.
    max_pixels: largest number of pixels of an image; None for the limit of
      training, which larger images reach only as squares.

  Raises:
    ValueError: if a value is out of range; names the flag.
  """

  skip_damaged: bool = False
  stored_size_px: int | None = None
  background: str = "white"
  keep_alpha: bool = False
  masks: pathlib.Path | None = None
  channels: int | None = None
  value_range: tuple[float, float] | None = None
  max_pixels: int | None = None

  def __post_init__(self) -> None:
    if self.keep_alpha and self.channels not in (None, 4):
      raise ValueError(
        f"--channels={self.channels}: expected 4 with --keep_alpha"
      )
    if self.value_range:
      low, high = self.value_range
      if not (low < high and math.isfinite(high - low)):
        raise ValueError(
          f"--value_range={low:g},{high:g}: expected two finite numbers, the "
          "lower one first"
        )
    if self.max_pixels and not self.stored_size_px:
      raise ValueError(
        f"--max_pixels={self.max_pixels} needs --stored_size_px, because "
        "training decodes no whole image of more than pillow's limit"
      )
    try:
      ImageColor.getrgb(self.background)
    except ValueError as error:
      raise ValueError(
        f"--background={self.background}: expected a colour such as white or "
        "'#808080'"
      ) from error


class DamagedFile(ValueError):
  """The bytes of a file are no whole image."""


class Kind(NamedTuple):
  """Channels and dtype of images."""

  channels: int
  dtype: np.dtype

  def mode(self, options: Options) -> str | None:
    """Returns pillow's mode of stored files; None if arrays are stored."""
    # Pillow resizes RGBA weighted by the opacity, which other channels are not.
    is_file = self.channels in (1, 3) or options.keep_alpha
    return MODES[self.channels] if is_file and self.dtype == np.uint8 else None


class Encoded(NamedTuple):
  """An image as it is stored.

  Attributes:
    data: a PNG or JPEG file, or an array if the kind has no mode.
    kind: channels and dtype.
    size: (width, height) of the whole upright image in pixels.
    transparent: True if some pixels of the original may be transparent.
    rounded: True if the values of the original are more precise.
  """

  data: bytes | Num[np.ndarray, "h w c"]
  kind: Kind
  size: tuple[int, int]
  transparent: bool = False
  rounded: bool = False


def join_kinds(kinds: Iterable[Kind]) -> Kind:
  """Returns the kind of a set: the most channels, the least precise dtype."""
  channels, dtypes = zip(*kinds, strict=True)
  return Kind(max(channels), min(dtypes, key=DTYPES.index))


def _own_kind(channels: int, dtype: np.dtype, options: Options) -> Kind:
  """Returns the kind of an image in a set of one image.

  Raises:
    UnsuitableImageError: if the image has other channels than `--channels`.
  """
  expected = 4 if options.keep_alpha else options.channels
  if expected is None and channels not in (1, 3):
    raise UnsuitableImageError(
      f"{channels} channels; set --channels={channels} to take such images"
    )
  # Gray becomes RGB, and both become RGBA.
  smaller = {3: (1,), 4: (1, 3) if options.keep_alpha else ()}
  if expected and channels not in (expected, *smaller.get(expected, ())):
    raise UnsuitableImageError(
      f"{channels} channels; expected --channels={expected}"
    )
  return Kind(expected or channels, dtype)


def encode_image(image: Image.Image, file_format: str = "PNG") -> bytes:
  """Returns an image as a PNG or JPEG file, without its metadata."""
  file = io.BytesIO()
  pixels = image.copy()
  # Metadata would turn an upright image once more.
  pixels.info = {}
  # At 256 px, a synthetic photograph has 44 kB and 37 dB PSNR as a JPEG.
  pixels.save(file, file_format, quality=95)
  return file.getvalue()


def _store(
  image: Image.Image, data: bytes, mode: str, options: Options
) -> tuple[bytes, tuple[int, int]]:
  """Returns a PNG or JPEG file, as it is if it can be, and the image's size.

  The size is (width, height) of the whole upright image.
  """
  size_px = options.stored_size_px
  jpeg = image.format in ("JPEG", "MPO") and mode != "RGBA"
  file_format = "JPEG" if jpeg else "PNG"
  if size_px and min(image.size) > size_px:
    small = square(data, mode, size_px, options.background)
    turned = orientation(image) >= 5
    size = image.size[::-1] if turned else image.size
    return encode_image(small, file_format), size
  image.load()
  stored = upright(image, mode, options.background)
  if stored is image and image.format in ("PNG", "JPEG", "MPO"):
    return data, image.size
  return encode_image(stored, file_format), stored.size


def _encode_array(
  array: Num[np.ndarray, "h w c"], options: Options, kind: Kind | None
) -> Encoded:
  height, width, channels = array.shape
  own = _own_kind(channels, array.dtype, options)
  kind = join_kinds([own, kind or own])
  size_px = options.stored_size_px
  if size_px and min(height, width) > size_px:
    array = square_array(array, size_px)
  array = to_kind(array, *kind)
  stored: bytes | np.ndarray = array
  if kind.mode(options):
    stored = encode_image(Image.fromarray(array.squeeze()))
  rounded = kind.dtype != own.dtype
  return Encoded(stored, kind, (width, height), rounded=rounded)


def encode(
  data: bytes, *, options: Options, kind: Kind | None = None
) -> Encoded:
  """Encodes an image file.

  Args:
    data: bytes of the file.
    options: how the image is stored.
    kind: kind of the set that the image belongs to, so far; None for none. The
      image gets the kind of both, see `join_kinds`.

  Raises:
    DamagedFile: if the file is damaged, or its shape or values are not those of
      the set.
    ValueError: if the file is too large, or needs a library.
  """
  if options.max_pixels:  # Pillow decodes up to twice this number.
    Image.MAX_IMAGE_PIXELS = options.max_pixels // 2
  try:
    array, opacity = None, False
    # Pillow's 8 bits of a PNG file with 16 bits are the upper ones, which is
    # enough if no range is mapped.
    eight_bits = kind is not None and kind.dtype == np.uint8
    if options.value_range or not (eight_bits and is_deep_colour(data)):
      background = None if options.keep_alpha else options.background
      array, opacity = read_array_and_opacity(
        data, background, options.value_range
      )
    if array is not None:
      encoded = _encode_array(array, options, kind)
      return encoded._replace(transparent=opacity)
    with Image.open(io.BytesIO(data), formats=FORMATS) as image:
      check_mode(image)
      channels = 1 if image.mode in GRAYSCALE_MODES else 3
      own = _own_kind(channels, DTYPES[0], options)
      kind = join_kinds([own, kind or own])
      transparent = image.has_transparency_data
      stored, size = _store(image, data, MODES[kind.channels], options)
      return Encoded(stored, kind, size, transparent, is_deep_colour(data))
  except UnsuitableImageError as error:
    raise DamagedFile(str(error)) from error
  except Image.DecompressionBombError as error:
    raise ValueError(
      f"{error} Make the image smaller or remove it, or raise --max_pixels"
    ) from error
  except ImportError as error:
    raise ValueError(str(error)) from error
  except Exception as error:  # pillow has no one exception for damaged files.
    if not is_damage(error):
      raise
    raise DamagedFile(
      f"truncated or damaged image ({describe_damage(error)})"
    ) from error


def mask_path(masks: pathlib.Path, path: str) -> pathlib.Path:
  """Returns the path of the mask of an image of a folder."""
  return (masks / path).with_suffix(".png")


def describe_mask(masks: pathlib.Path | None, path: str) -> str:
  """Returns size and time of change of a mask; "" if there is none."""
  if masks:
    with contextlib.suppress(OSError):
      info = mask_path(masks, path).stat()
      return f"{info.st_size} {info.st_mtime_ns}"
  return ""


def read_mask(
  path: pathlib.Path, size: tuple[int, int], image_path: pathlib.Path
) -> bytes:
  """Returns the PNG file with the mask of an image of (width, height).

  Raises:
    ValueError: if the mask is missing, unreadable, damaged or of another size.
  """
  try:
    data = path.read_bytes()
  except UNREADABLE_ERRORS as error:
    missing = isinstance(error, FileNotFoundError)
    state = "missing" if missing else f"unreadable ({error.strerror})"
    raise ValueError(
      f"{path} is {state}; expected a mask for {image_path}"
    ) from error
  try:
    with Image.open(io.BytesIO(data), formats=("PNG",)) as mask:
      check_mask_mode(mask)
      if size != mask.size:
        raise ValueError(
          f"{mask.width} x {mask.height} px; expected {size[0]} x {size[1]} "
          f"px, the size of {image_path}"
        )
      mask.load()
  except Exception as error:
    too_large = isinstance(error, Image.DecompressionBombError)
    if not (is_damage(error) or too_large):
      raise
    raise ValueError(f"{path}: {describe_damage(error)}") from error
  return data
