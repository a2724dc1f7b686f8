"""Data sets in ArrayRecord files, as TFDS writes them; decoded with pillow."""

import contextlib
import dataclasses
import io
import itertools
import shlex
from typing import Any

import numpy as np
import tensorflow_datasets as tfds
from absl import logging
from jaxtyping import UInt8
from PIL import Image
from tensorflow_datasets.core import file_adapters, read_only_builder

from jssl.data.source import HostBatch, Rows

# Counts the replaced images of this process, over all sources.
_replacements = itertools.count(1)
_LOG_SECONDS = 10


def scale(image: Image.Image, mode: str, size_px: int) -> None:
  """Makes libjpeg decode a large image at a half, a quarter or an eighth.

  Leaves at least twice `size_px`, so that the resize filter has enough pixels.
  """
  image.draft(mode, (2 * size_px, 2 * size_px))


def square(encoded: bytes, mode: str, size_px: int) -> Image.Image:
  """Decodes a PNG or JPEG file and resizes its centre square, antialiased.

  Raises:
    OSError: if the file is damaged; pillow raises SyntaxError for some damage.
  """
  with Image.open(io.BytesIO(encoded)) as file:
    scale(file, mode, size_px)
    # `convert` would copy an image that has the mode already.
    image = file if file.mode == mode else file.convert(mode)
    if image.size == (size_px, size_px):
      image.load()
      return image
    side = min(image.size)
    left, top = ((length - side) / 2 for length in image.size)
    box = (left, top, left + side, top + side)
    # Resizing takes as long as decoding. HAMMING has half the taps of BICUBIC:
    # a little softer, and sharper than the usual BILINEAR.
    shrinks = side > size_px
    taps = Image.Resampling.HAMMING if shrinks else Image.Resampling.BICUBIC
    return image.resize((size_px, size_px), taps, box=box)


def decode(
  encoded: bytes, *, size_px: int, channels: int
) -> UInt8[np.ndarray, "h w c"]:
  """Decodes a PNG or JPEG file to 1 (grayscale) or 3 channels; see `square`."""
  image = square(encoded, "L" if channels == 1 else "RGB", size_px)
  return np.asarray(image).reshape(size_px, size_px, channels)


class DamagedImage(ValueError):
  """An image that cannot be decoded."""


def _is_damage(error: Exception) -> bool:
  """True if the bytes are damaged, False if reading them failed.

  pillow has no single exception for damaged files; ArrayRecord raises
  RuntimeError for everything.
  """
  if isinstance(error, RuntimeError):
    return "Corrupted" in str(error)
  failed = isinstance(error, OSError) and error.errno is not None
  return not failed and not isinstance(error, MemoryError)


@dataclasses.dataclass(frozen=True, eq=False)
class Prepared:
  """A split of a prepared data set; a `Source`.

  The split may be a part of one, as in `train[:10%]`. `records` is a TFDS data
  source with encoded images. An unlabelled set has no class names and no
  `label_key`. `skip_damaged` replaces an image that cannot be decoded by the
  next one that can, with its label. The replacement depends on the files alone,
  so all hosts and a resumed run see the same images.
  """

  name: str
  split: str
  class_names: tuple[str, ...]
  image_shape: tuple[int, int, int]
  image_key: str
  label_key: str | None
  records: Any
  skip_damaged: bool = False

  @property
  def num_classes(self) -> int:
    """Number of classes; 0 if the set is unlabelled."""
    return len(self.class_names)

  def __len__(self) -> int:
    return len(self.records)

  def _read(
    self, row: int, record: dict[str, Any] | None = None
  ) -> tuple[UInt8[np.ndarray, "h w c"], int]:
    """Returns an image and its label; reads the record if it is None."""
    size, _, channels = self.image_shape
    try:
      if record is None:
        (record,) = self.records.__getitems__([row])
      encoded = record[self.image_key]
      image = decode(encoded, size_px=size, channels=channels)
    except Exception as error:
      if not _is_damage(error):
        raise
      raise DamagedImage(
        f"image {row} of {self.name}, split {self.split}, cannot be decoded "
        f"({error}); delete the set and prepare it again, or set "
        "data.skip_damaged=True to use the next image instead"
      ) from error
    return image, record[self.label_key] if self.label_key else -1

  def _read_next(self, row: int) -> tuple[UInt8[np.ndarray, "h w c"], int]:
    """Returns the next readable image after `row`, and its label."""
    # More damaged images in a row mean that a file or all images are damaged.
    others = min(100, len(self) - 1)
    for offset in range(1, others + 1):
      with contextlib.suppress(DamagedImage):
        replacement = self._read((row + offset) % len(self))
        logging.log_every_n_seconds(
          logging.WARNING,
          "Replaced %d damaged images so far (data.skip_damaged); the last is "
          "image %d of %s, split %s.",
          _LOG_SECONDS,
          next(_replacements),
          row,
          self.name,
          self.split,
        )
        return replacement
    raise ValueError(
      f"image {row} of {self.name}, split {self.split}, and the {others} "
      "images after it cannot be decoded, even with data.skip_damaged=True; "
      "delete the set and prepare it again"
    )

  def fetch(self, rows: Rows) -> HostBatch:
    """See `Source.fetch`; raises ValueError if an image is damaged."""
    images = np.empty((len(rows), *self.image_shape), np.uint8)
    labels = np.empty(len(rows), np.int32)
    try:
      records = self.records.__getitems__(rows.tolist())
    except RuntimeError as error:
      if not _is_damage(error):
        raise
      # The error does not name the row, so rows are read one by one.
      records = [None] * len(rows)
    for i, (row, record) in enumerate(zip(rows.tolist(), records, strict=True)):
      try:
        images[i], labels[i] = self._read(row, record)
      except DamagedImage:
        if not self.skip_damaged:
          raise
        images[i], labels[i] = self._read_next(row)
    return {"image": images, "label": labels}


def _first_key(features: tfds.features.FeaturesDict, kind: type) -> str | None:
  return next((k for k, f in features.items() if isinstance(f, kind)), None)


def _prepare_command(name: str, data_dir: str | None) -> str:
  known = tfds.list_builders(with_community_datasets=False)
  if name.split("/")[0].split(":")[0] in known:
    words = [name]
  else:
    words = ["folder", "--source", "DIR", "--name", name]
  if data_dir:
    words += ["--data_dir", data_dir]
  return shlex.join(["python", "-m", "jssl.data.prepare", *words])


def open_prepared(
  name: str,
  *,
  data_dir: str | None,
  split: str,
  image_size_px: int,
  skip_damaged: bool = False,
) -> Prepared:
  """Opens a split of a prepared set; see `jssl.data.open.open_source`.

  Raises:
    FileNotFoundError: if the set is not prepared; names the command to run.
    ValueError: if the set lacks the split or images, or its file format has no
      random access.
  """
  try:
    # `tfds.builder` would load the code of the set and query the network.
    builder = read_only_builder.builder_from_files(name, data_dir=data_dir)
  except tfds.core.DatasetNotFoundError as error:
    raise FileNotFoundError(
      f"data.name={name!r} is not in {data_dir or tfds.core.constants.DATA_DIR}"
      f" (data.data_dir); run: {_prepare_command(name, data_dir)}"
    ) from error
  features = builder.info.features
  image_key = _first_key(features, tfds.features.Image)
  label_key = _first_key(features, tfds.features.ClassLabel)
  if image_key is None:
    raise ValueError(
      f"data.name={name!r} has no image feature, only {sorted(features)}"
    )
  file_format = builder.info.file_format
  if file_format not in file_adapters.FileFormat.with_random_access():
    raise ValueError(
      f"data.name={name!r} is stored as {file_format.value}, which has no "
      f"random access; delete {builder.data_dir} and run: "
      f"{_prepare_command(name, data_dir)}"
    )
  try:
    records = builder.as_data_source(
      split=split, decoders={image_key: tfds.decode.SkipDecoding()}
    )
  except ValueError as error:
    raise ValueError(
      f"data.name={name!r} has the splits {sorted(builder.info.splits)}, not "
      f"{split!r}"
    ) from error
  channels = features[image_key].shape[-1]
  return Prepared(
    name=name,
    split=split,
    class_names=tuple(features[label_key].names) if label_key else (),
    image_shape=(image_size_px, image_size_px, channels),
    image_key=image_key,
    label_key=label_key,
    records=records,
    skip_damaged=skip_damaged,
  )
