"""Encodes an image file as `jssl prepare folder` stores it."""

import dataclasses
import io
import pathlib
from collections.abc import Iterable
from typing import NamedTuple

from PIL import Image, ImageColor

from jssl.data.image import (
  COLOUR_MODES,
  FORMATS,
  GRAYSCALE_MODES,
  MODES,
  check_mask_mode,
  describe_damage,
  is_damage,
  orientation,
  square,
  upright,
)

# Of images without and with more channels.
_MODES = tuple(MODES.values())


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

  Raises:
    ValueError: if the background is not a colour.
  """

  skip_damaged: bool = False
  stored_size_px: int | None = None
  background: str = "white"
  keep_alpha: bool = False
  masks: pathlib.Path | None = None

  def __post_init__(self) -> None:
    try:
      ImageColor.getrgb(self.background)
    except ValueError as error:
      raise ValueError(
        f"--background={self.background}: expected a colour such as white or "
        "'#808080'"
      ) from error


class DamagedFile(ValueError):
  """The bytes of a file are no whole image."""


class Encoded(NamedTuple):
  """An image as it is stored.

  Attributes:
    data: a PNG or JPEG file.
    mode: pillow's mode of the pixels, a value of `MODES`.
    size: (width, height) of the whole upright image in pixels.
    transparent: True if some pixels of the original may be transparent.
  """

  data: bytes
  mode: str
  size: tuple[int, int]
  transparent: bool


def join_modes(modes: Iterable[str]) -> str:
  """Returns the mode of a set that has images of several modes."""
  return max(modes, key=_MODES.index)


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
) -> bytes:
  """Returns an image as a PNG or JPEG file, as it is if it can be."""
  size_px = options.stored_size_px
  jpeg = image.format in ("JPEG", "MPO") and mode != "RGBA"
  file_format = "JPEG" if jpeg else "PNG"
  if size_px and min(image.size) > size_px:
    small = square(data, mode, size_px, options.background)
    return encode_image(small, file_format)
  image.load()
  stored = upright(image, mode, options.background)
  if stored is image and image.format in ("PNG", "JPEG", "MPO"):
    return data
  return encode_image(stored, file_format)


def encode(
  data: bytes, *, options: Options, mode: str | None = None
) -> Encoded:
  """Encodes an image file.

  Args:
    data: bytes of the file.
    options: how the image is stored.
    mode: a mode of which the image has at least the channels; None for its own.

  Raises:
    DamagedFile: if the file is damaged.
    ValueError: if its pixels cannot be stored.
  """
  try:
    with Image.open(io.BytesIO(data), formats=FORMATS) as image:
      unsupported = image.mode
      if image.mode in GRAYSCALE_MODES + COLOUR_MODES:
        own = MODES[1 if image.mode in GRAYSCALE_MODES else 3]
        if options.keep_alpha:
          own = MODES[4]
        mode = join_modes([own, mode or own])
        size = image.size
        if orientation(image) >= 5:
          size = (size[1], size[0])
        transparent = image.has_transparency_data
        stored = _store(image, data, mode, options)
        return Encoded(stored, mode, size, transparent)
  except Image.DecompressionBombError as error:
    raise ValueError(f"{error} Make the image smaller or remove it") from error
  except Exception as error:  # pillow has no one exception for damaged files.
    if not is_damage(error):
      raise
    raise DamagedFile(
      f"truncated or damaged image ({describe_damage(error)})"
    ) from error
  raise ValueError(
    f"pixels of mode {unsupported}; expected 8 bits per channel; convert it"
  )


def read_mask(
  path: pathlib.Path, size: tuple[int, int], image_path: pathlib.Path
) -> bytes:
  """Returns the PNG file with the mask of an image of (width, height).

  Raises:
    ValueError: if the mask is missing, damaged or of another size.
  """
  if not path.is_file():
    raise ValueError(f"{path} is missing; expected a mask for {image_path}")
  data = path.read_bytes()
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
    if not is_damage(error):
      raise
    raise ValueError(f"{path}: {describe_damage(error)}") from error
  return data
