"""A folder of image files as a TFDS data set, without TensorFlow.

See `layout` for its subfolders. The set has one channel if all images are
grayscale, otherwise 3, or 4 if it keeps transparency.
"""

import concurrent.futures
import dataclasses
import functools
import io
from collections.abc import Iterator
from typing import Any

import tensorflow_datasets as tfds
from absl import logging
from PIL import Image, ImageColor

from jssl.data.image import (
  COLOUR_MODES,
  FORMATS,
  GRAYSCALE_MODES,
  MODES,
  check_mask_mode,
  is_damage,
  orientation,
  square,
  upright,
)
from jssl.data.layout import Classes, Path, file_name, key, list_splits

Examples = Iterator[tuple[int | bytes, dict[str, Any]]]

# Images in memory at once.
_CHUNK_SIZE = 256


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
  masks: Path | None = None

  def __post_init__(self) -> None:
    try:
      ImageColor.getrgb(self.background)
    except ValueError as error:
      raise ValueError(
        f"--background={self.background}: expected a colour such as white or "
        "'#808080'"
      ) from error


def encode_image(image: Image.Image, file_format: str = "PNG") -> bytes:
  """Returns an image as a PNG or JPEG file, without its metadata."""
  file = io.BytesIO()
  pixels = image.copy()
  # Metadata would turn an upright image once more.
  pixels.info = {}
  # At 256 px, a synthetic photograph has 44 kB and 37 dB PSNR as a JPEG.
  pixels.save(file, file_format, quality=95)
  return file.getvalue()


def _check_skipped(path: Path, error: Exception, skip: bool) -> None:
  """Raises an error about a file, unless it is damaged and `skip` is True."""
  if isinstance(error, Image.DecompressionBombError):
    raise ValueError(
      f"{path}: {error} Make the image smaller or remove it"
    ) from error
  if not is_damage(error):
    raise error
  if not skip:
    raise ValueError(
      f"{path}: truncated or damaged image ({error}); repair or remove it, or "
      "omit damaged images with --skip_damaged"
    ) from error


def _read_header(
  path: Path, *, skip: bool
) -> tuple[str, tuple[int, int], bool] | None:
  """Returns pixel mode, size and True if some pixels may be transparent.

  The size is (width, height) of the upright image. Returns None for a damaged
  file if `skip`.
  """
  try:
    with Image.open(path, formats=FORMATS) as image:
      mode, (width, height) = image.mode, image.size
      size = (height, width) if orientation(image) >= 5 else (width, height)
      transparent = image.has_transparency_data
  except Exception as error:  # pillow has no one exception for damaged files.
    _check_skipped(path, error, skip)
    return None
  if mode not in GRAYSCALE_MODES + COLOUR_MODES:
    raise ValueError(
      f"{path}: pixels of mode {mode}; expected 8 bits per channel; convert it"
    )
  return mode, size, transparent


def _encode(path: Path, *, mode: str, options: Options) -> bytes | None:
  """Returns an image as a PNG or JPEG file, as it is if it can be.

  Returns None for a damaged file that may be skipped.
  """
  data, size_px = path.read_bytes(), options.stored_size_px
  try:
    with Image.open(io.BytesIO(data), formats=FORMATS) as image:
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
  except Exception as error:
    _check_skipped(path, error, options.skip_damaged)
    return None


def _read_mask(masks: Path, image_path: Path, relative: Path) -> bytes:
  """Returns the PNG file with the mask of an image."""
  path = (masks / relative).with_suffix(".png")
  if not path.is_file():
    raise ValueError(f"{path} is missing; expected a mask for {image_path}")
  header = _read_header(image_path, skip=False)
  try:
    with Image.open(path, formats=("PNG",)) as mask:
      check_mask_mode(mask)
      if header and header[1] != mask.size:
        raise ValueError(
          f"{mask.width} x {mask.height} px; expected {header[1][0]} x "
          f"{header[1][1]} px, the size of {image_path}"
        )
      mask.load()
  except Exception as error:
    if not is_damage(error):
      raise
    raise ValueError(f"{path}: {error}") from error
  return path.read_bytes()


class Folder(  # type: ignore[call-arg]
  tfds.core.GeneratorBasedBuilder, skip_registration=True
):
  """TFDS builder of a folder of images."""

  VERSION = tfds.core.Version("1.0.0")

  def __init__(
    self,
    *,
    name: str,
    source: Path,
    options: Options = Options(),
    **kwargs: Any,
  ):
    self.name = name
    self._source = source
    self._options = options
    self._splits = list_splits(source)
    headers = [
      header
      for classes in self._splits.values()
      for paths in classes.values()
      for path in paths
      if (header := _read_header(path, skip=options.skip_damaged))
    ]
    modes = {mode for mode, _, _ in headers}
    sizes = {size for _, size, _ in headers}
    grayscale = modes <= set(GRAYSCALE_MODES)
    channels = 1 if grayscale else 3
    if options.keep_alpha:
      channels = 4
    elif transparent := sum(some for _, _, some in headers):
      logging.warning(
        "%d of %d images have transparency, and get the background %s; "
        "--background names another, and --keep_alpha keeps transparency.",
        transparent,
        len(headers),
        options.background,
      )
    self._mode = MODES[channels]
    same_size = len(sizes) == 1 and options.stored_size_px is None
    width, height = sizes.pop() if same_size else (None, None)
    self._image_shape = (height, width, channels)
    super().__init__(**kwargs)

  def _info(self) -> tfds.core.DatasetInfo:
    features: dict[str, Any] = {
      "image": tfds.features.Image(shape=self._image_shape),
      "file_name": tfds.features.Text(),
    }
    if self._options.masks:
      features["mask"] = tfds.features.Image(shape=(None, None, 1))
    if "" not in self._splits["train"]:
      names = sorted(self._splits["train"])
      features["label"] = tfds.features.ClassLabel(names=names)
    return tfds.core.DatasetInfo(
      builder=self,
      description=f"Images of the folder set {self.name}.",
      features=tfds.features.FeaturesDict(features),
      supervised_keys=("image", "label") if "label" in features else None,
    )

  def _split_generators(
    self, dl_manager: tfds.download.DownloadManager
  ) -> dict[str, Examples]:
    del dl_manager
    return {
      split: self._generate_examples(classes)
      for split, classes in self._splits.items()
    }

  def _generate_examples(self, classes: Classes) -> Examples:
    files = [(path, name) for name, paths in classes.items() for path in paths]
    encode = functools.partial(_encode, mode=self._mode, options=self._options)
    with concurrent.futures.ThreadPoolExecutor() as pool:
      for start in range(0, len(files), _CHUNK_SIZE):
        chunk = files[start : start + _CHUNK_SIZE]
        encoded = pool.map(encode, (path for path, _ in chunk))
        for (path, name), image in zip(chunk, encoded, strict=True):
          if image is None:
            logging.warning("Omitted damaged image %s.", path)
            continue
          relative = path.relative_to(self._source)
          example = {
            "image": image,
            "file_name": file_name(relative),
            **({"label": name} if name else {}),
          }
          if masks := self._options.masks:
            example["mask"] = _read_mask(masks, path, relative)
          yield key(path, self._source), example
