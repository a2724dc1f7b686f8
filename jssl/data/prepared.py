"""The source of a set on disk: records whose images are decoded as read.

`array_record` and `arrow` open sets of such records.
"""

import concurrent.futures
import contextlib
import dataclasses
import itertools
import os
from collections.abc import Iterator, Sequence
from typing import Any

import numpy as np
import tensorflow_datasets as tfds
from absl import logging
from etils import epath
from jaxtyping import Int, Num
from PIL import Image
from tensorflow_datasets.core.utils.shard_utils import FileInstruction

from jssl.data.arrays import square_array
from jssl.data.decode import decode
from jssl.data.image import decode_mask, describe_damage, is_damage
from jssl.data.source import DamagedImage, HostBatch, Rows, make_fingerprint
from jssl.runtime.files import raise_open_files_limit

# Counts the replaced images of this process, over all sources.
_replacements = itertools.count(1)
_LOG_SECONDS = 10
# Files that a run opens beside those of its data set.
_OTHER_OPEN_FILES = 64
# Columns of masks: of prepared folders, and of sets of TFDS.
MASK_KEYS = (
  *("mask", "segmentation_mask"),
  *("segmentation_label", "annotation"),
)
# ArrayRecord files are padded to a multiple of it.
_BLOCK_BYTES = 2**16


@dataclasses.dataclass(frozen=True, eq=False)
class Prepared:
  """A split of a prepared data set; a `Named` source.

  The split may be a part of one, as in `train[:10%]`. `records` is a TFDS data
  source with encoded images; `array` is their feature if they are arrays
  instead of files. An unlabelled set has no class names and no
  `label_key`. `skip_damaged` replaces an image that cannot be decoded by the
  next one that can, with its label. The replacement depends on the files alone,
  so all hosts and a resumed run see the same images. `name_key` is that of the
  file names, if they are stored.
  """

  name: str
  split: str
  class_names: tuple[str, ...]
  image_shape: tuple[int, int, int]
  image_dtype: np.dtype
  image_key: str
  label_key: str | None
  records: Any
  files: Sequence[FileInstruction]
  skip_damaged: bool = False
  name_key: str | None = None
  array: tfds.features.Tensor | None = None

  def fingerprint(self) -> str:
    """See `Source.fingerprint`; of the size and both ends of each file.

    An ArrayRecord file begins with records and ends with their index.
    """

    def read(part: FileInstruction) -> tuple[int, bytes]:
      path = epath.Path(part.filename)
      with path.open("rb") as file:
        ends = file.read(_BLOCK_BYTES)
        size = file.seek(0, os.SEEK_END)
        file.seek(max(0, size - _BLOCK_BYTES))
        ends += file.read()
      about = (path.name, part.skip, part.take, size, self.class_names)
      return size, repr(about).encode() + ends

    with concurrent.futures.ThreadPoolExecutor(32) as pool:
      sizes, parts = zip(*pool.map(read, self.files), strict=True)
    return make_fingerprint(len(self), sum(sizes), parts)

  @property
  def num_classes(self) -> int:
    """Number of classes; 0 if the set is unlabelled."""
    return len(self.class_names)

  def __len__(self) -> int:
    return len(self.records)

  def _read(
    self, row: int, record: dict[str, Any] | None = None
  ) -> tuple[Num[np.ndarray, "h w c"], dict[str, Any]]:
    """Returns an image and its record, which is read if it is None."""
    size, _, channels = self.image_shape
    try:
      if record is None:
        (record,) = self.records.__getitems__([row])
      encoded, dtype = record[self.image_key], self.image_dtype
      if self.array is None:
        image = decode(encoded, size_px=size, channels=channels, dtype=dtype)
      else:
        image = square_array(self.array.decode_example_np(encoded), size)
    except Image.DecompressionBombError as error:
      raise ValueError(
        f"image {row} of {self.name}, split {self.split}: {error} Prepare the "
        "set again with smaller images"
      ) from error
    except Exception as error:
      if not is_damage(error):
        raise
      raise DamagedImage(
        f"image {row} of {self.name}, split {self.split}, cannot be decoded "
        f"({describe_damage(error)}); delete the set and prepare it again, or "
        "set data.skip_damaged=True to use the next image instead"
      ) from error
    return image, record

  def _read_next(
    self, row: int
  ) -> tuple[Num[np.ndarray, "h w c"], dict[str, Any]]:
    """Returns the next readable image after `row`, and its record."""
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

  def _decoded(
    self, rows: Rows
  ) -> Iterator[tuple[Num[np.ndarray, "h w c"], dict[str, Any]]]:
    """Yields the image of each row and its record."""
    try:
      records = self.records.__getitems__(rows.tolist())
    except RuntimeError as error:
      if not is_damage(error):
        raise
      # The error does not name the row, so rows are read one by one.
      records = [None] * len(rows)
    for row, record in zip(rows.tolist(), records, strict=True):
      try:
        yield self._read(row, record)
      except DamagedImage:
        if not self.skip_damaged:
          raise
        yield self._read_next(row)

  def fetch(self, rows: Rows) -> HostBatch:
    """See `Source.fetch`; raises ValueError if an image is damaged."""
    images = np.empty((len(rows), *self.image_shape), self.image_dtype)
    labels = np.full(len(rows), -1, np.int32)
    for i, (image, record) in enumerate(self._decoded(rows)):
      images[i] = image
      if self.label_key:
        labels[i] = record[self.label_key]
    return {"image": images, "label": labels}

  def fetch_names(self, rows: Rows) -> list[str | None]:
    """See `Named.fetch_names`."""
    if self.name_key is None:
      return [None] * len(rows)
    records = self.records.__getitems__(rows.tolist())
    return [record[self.name_key].decode() or None for record in records]


@dataclasses.dataclass(frozen=True, eq=False, kw_only=True)
class SegmentedPrepared(Prepared):
  """A split of a prepared data set with masks; a `Segmented` source."""

  mask_key: str

  def fetch_masks(self, rows: Rows) -> Int[np.ndarray, "b h w"]:
    """See `Segmented.fetch_masks`; those of the images that `fetch` returns.

    Raises:
      ValueError: if an image or mask is damaged, or a mask has channels.
    """
    masks = np.empty((len(rows), *self.image_shape[:2]), np.int16)
    for i, (_, record) in enumerate(self._decoded(rows)):
      try:
        masks[i] = decode_mask(
          record[self.mask_key], size_px=self.image_shape[0]
        )
      except Exception as error:
        if not is_damage(error):
          raise
        raise ValueError(
          f"image {rows[i]} of {self.name}, split {self.split}: its mask "
          f"{self.mask_key!r} cannot be used ({describe_damage(error)}); "
          "prepare the set again, or set probe.dense_images=0"
        ) from error
    return masks


def check_open_files(name: str, files: int) -> None:
  """Raises ValueError if a set has more files than a process may keep open."""
  needed, limit = files + _OTHER_OPEN_FILES, raise_open_files_limit()
  if needed > limit:
    raise ValueError(
      f"data.name={name!r} has {files} files, and this process may open "
      f"{limit} at once, all others included; raise the limit to at least "
      f"{needed} with `ulimit -n`"
    )
