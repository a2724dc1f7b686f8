"""Sets on disk as TFDS writes them, read by row and decoded with pillow."""

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

# So many in a row are no damage of some images: a file is gone, or all are.
_MOST_SKIPPED = 100
# Replaced images of this process, over all of its sources.
_replacements = itertools.count(1)
_LOG_SECONDS = 10


def _square(image: Image.Image, size_px: int) -> Image.Image:
  """Resizes the largest square in the middle to `size_px`, antialiased."""
  if image.size == (size_px, size_px):
    image.load()
    return image
  side = min(image.size)
  left, top = ((length - side) / 2 for length in image.size)
  # Resizing costs what decoding does. So it isn't done to what is cropped away,
  # and by half of BICUBIC's taps where an image gets smaller: a little softer,
  # and sharper than the usual BILINEAR.
  shrinks = side > size_px
  taps = Image.Resampling.HAMMING if shrinks else Image.Resampling.BICUBIC
  box = (left, top, left + side, top + side)
  return image.resize((size_px, size_px), taps, box=box)


def scale(image: Image.Image, mode: str, size_px: int) -> None:
  """Makes a large JPEG be decoded at a half, a quarter or an eighth.

  Twice what is wanted is left, which the filter can work on.
  """
  image.draft(mode, (2 * size_px, 2 * size_px))


def square(encoded: bytes, mode: str, size_px: int) -> Image.Image:
  """Decodes a PNG or a JPEG, and makes the square of it that is trained on.

  Args:
    encoded: the file.
    mode: of its pixels, as pillow calls it.
    size_px: height and width of what is returned.

  Raises:
    OSError: the file is damaged (as pillow says it; a SyntaxError for some).
  """
  with Image.open(io.BytesIO(encoded)) as image:
    scale(image, mode, size_px)
    # To convert to what it is already would copy it.
    return _square(
      image if image.mode == mode else image.convert(mode), size_px
    )


def decode(
  encoded: bytes, *, size_px: int, channels: int
) -> UInt8[np.ndarray, "h w c"]:
  """Decodes a PNG or a JPEG to an array.

  Args:
    encoded: the file.
    size_px: height and width of what is returned.
    channels: 1 (grayscale) or 3 (RGB).

  Raises:
    OSError: as in `square`.
  """
  image = square(encoded, "L" if channels == 1 else "RGB", size_px)
  return np.asarray(image).reshape(size_px, size_px, channels)


class DamagedImage(ValueError):
  """An image that cannot be read, however often it is tried."""


def _is_damage(error: Exception) -> bool:
  """Whether an error is of the bytes, and not of the machine that reads them.

  pillow has no one error for a damaged file; ArrayRecord says it in words.
  """
  if isinstance(error, RuntimeError):
    return "Corrupted" in str(error)
  failed = isinstance(error, OSError) and error.errno is not None
  return not failed and not isinstance(error, MemoryError)


@dataclasses.dataclass(frozen=True, eq=False)
class Prepared:
  """A split of a set on disk.

  Attributes:
    name: what the set is called.
    split: which part of it.
    class_names: in the order of the labels; empty if the set is unlabelled.
    image_shape: (height, width, channels), in pixels.
    image_key: name of the image feature.
    label_key: name of the label feature; None if the set is unlabelled.
    records: a data source of TFDS whose images are still encoded.
    skip_damaged: True if an image that cannot be read is replaced by the next
      one that can, with its label. The replacement depends on the files alone,
      so all hosts and a resumed run see the same images. Each process counts
      its replacements in the log, at most every ten seconds.
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
    self, row: int, record: dict[str, Any] | None
  ) -> tuple[UInt8[np.ndarray, "h w c"], int]:
    """Returns an image and its label; a record of None is read first.

    Raises:
      DamagedImage: it cannot be read; names it.
    """
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
        f"({error}); delete the set and prepare it again, or train with "
        "data.skip_damaged=True, which takes the next image in its place"
      ) from error
    return image, record[self.label_key] if self.label_key else -1

  def _read_or_next(
    self, row: int, record: dict[str, Any] | None
  ) -> tuple[UInt8[np.ndarray, "h w c"], int]:
    """Returns an image and its label, or those of the next readable row."""
    try:
      return self._read(row, record)
    except DamagedImage:
      if not self.skip_damaged:
        raise
    others = min(_MOST_SKIPPED, len(self) - 1)
    for further in range(1, others + 1):
      with contextlib.suppress(DamagedImage):
        replacement = self._read((row + further) % len(self), None)
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
      f"data.skip_damaged=True: image {row} of {self.name}, split "
      f"{self.split}, cannot be read, nor can any of the {others} after it; "
      "delete the set and prepare it again"
    )

  def _records(self, rows: Rows) -> list[dict[str, Any] | None]:
    """Returns the records of rows, or None for each if one is damaged."""
    try:
      return self.records.__getitems__(rows.tolist())
    except RuntimeError as error:
      if not _is_damage(error):
        raise
      # The error names no row: they are read one by one.
      return [None] * len(rows)

  def fetch(self, rows: Rows) -> HostBatch:
    """Returns the images and labels of `rows`; see `Source.fetch`.

    Raises:
      ValueError: an image is damaged; names it.
    """
    images = np.empty((len(rows), *self.image_shape), np.uint8)
    labels = np.empty(len(rows), np.int32)
    for i, (row, record) in enumerate(
      zip(rows.tolist(), self._records(rows), strict=True)
    ):
      images[i], labels[i] = self._read_or_next(row, record)
    return {"image": images, "label": labels}


def _first_key(features: tfds.features.FeaturesDict, kind: type) -> str | None:
  """Returns the name of the first feature of a kind, or None."""
  return next((k for k, f in features.items() if isinstance(f, kind)), None)


def _command(name: str, data_dir: str | None) -> str:
  """Returns the command that prepares a set."""
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
  """Opens a split of a set on disk; see `jssl.data.open.open_source`.

  Raises:
    FileNotFoundError: the set is not there; says the command that makes it.
    ValueError: it has no such split, no image, or cannot be read by row.
  """
  try:
    # From the files alone: `tfds.builder` would load the code of the set and
    # ask the network about one that is not there.
    builder = read_only_builder.builder_from_files(name, data_dir=data_dir)
  except tfds.core.DatasetNotFoundError as error:
    raise FileNotFoundError(
      f"data.name={name!r} is not in {data_dir or tfds.core.constants.DATA_DIR}"
      f" (data.data_dir); make it with: {_command(name, data_dir)}"
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
      f"data.name={name!r} was prepared as {file_format.value}, which cannot "
      f"be read by row; delete {builder.data_dir} and make it with: "
      f"{_command(name, data_dir)}"
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
