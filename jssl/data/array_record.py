"""Data sets in ArrayRecord files, as TFDS writes them."""

import concurrent.futures
import contextlib
import dataclasses
import functools
import itertools
import os
import shlex
from collections.abc import Callable, Iterator, Sequence
from typing import Any
from unittest import mock

import numpy as np
import tensorflow_datasets as tfds
from absl import logging
from etils import epath
from jaxtyping import Int, Num
from PIL import Image
from tensorflow_datasets.core import file_adapters, read_only_builder
from tensorflow_datasets.core.utils.shard_utils import FileInstruction

from jssl.data.arrays import DTYPES, square_array
from jssl.data.decode import decode
from jssl.data.image import (
  MODES,
  decode_mask,
  describe_damage,
  is_damage,
)
from jssl.data.source import (
  DamagedImage,
  HostBatch,
  Rows,
  make_fingerprint,
)
from jssl.runtime.files import fetch, raise_open_files_limit
from jssl.runtime.paths import StorePath, as_path, is_url

# Counts the replaced images of this process, over all sources.
_replacements = itertools.count(1)
_LOG_SECONDS = 10
# Files that a run opens beside those of its data set.
_OTHER_OPEN_FILES = 64
_FEATURE_CLASSES = "tensorflow_datasets.core.features."
_FIND_CLASS = tfds.features.FeatureConnector.cls_from_name
# Of Folder, and of sets of TFDS.
_NAME_KEYS = ("file_name", "image/filename")
# Of Folder, and of sets of TFDS.
MASK_KEYS = (
  *("mask", "segmentation_mask"),
  *("segmentation_label", "annotation"),
)
# Files are padded to a multiple of it.
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


def _readable(name: str, data_dir: str | None) -> str | None:
  """Returns where ArrayRecord reads a set: on disk, in gs://, or a copy."""
  folder = as_path(data_dir or "")
  if not isinstance(folder, StorePath) or folder.scheme == "gs":
    return data_dir
  of_set = name.split("/")[0].split(":")[0]
  objects = (folder / of_set).objects()
  return str(fetch(folder, [f"{of_set}/{path}" for path in objects]))


def check_open_files(name: str, files: int) -> None:
  """Raises ValueError if a set has more files than a process may keep open."""
  needed, limit = files + _OTHER_OPEN_FILES, raise_open_files_limit()
  if needed > limit:
    raise ValueError(
      f"data.name={name!r} has {files} files, and this process may open "
      f"{limit} at once, all others included; raise the limit to at least "
      f"{needed} with `ulimit -n`"
    )


def _find_feature_class(
  set_name: str, name: str
) -> type[tfds.features.FeatureConnector]:
  """Returns a feature class of TFDS by name.

  TFDS would import the module of any name, also one beside the records.
  """
  if not name.startswith(_FEATURE_CLASSES):
    raise ValueError(
      f"features.json of data.name={set_name!r} names the feature class "
      f"{name!r}; expected only classes of {_FEATURE_CLASSES}*, because "
      "opening the set would run the code of another module"
    )
  return _FIND_CLASS(name)


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
    with mock.patch.object(
      tfds.features.FeatureConnector,
      "cls_from_name",
      functools.partial(_find_feature_class, name),
    ):
      builder = read_only_builder.builder_from_files(
        name, data_dir=_readable(name, data_dir)
      )
  except tfds.core.DatasetNotFoundError as error:
    advice = f"run: {_prepare_command(name, data_dir)}"
    if is_url(data_dir or ""):
      advice = "prepare it on a disk, and copy its folder there"
    raise FileNotFoundError(
      f"data.name={name!r} is not in {data_dir or tfds.core.constants.DATA_DIR}"
      f" (data.data_dir); {advice}"
    ) from error
  features = builder.info.features
  encoded, arrays = (
    [
      key
      for key, feature in features.items()
      if isinstance(feature, kind) and len(feature.shape) == 3
    ]
    for kind in (tfds.features.Image, tfds.features.Tensor)
  )
  mask_key = next((key for key in MASK_KEYS if key in encoded), None)
  images = [key for key in (*encoded, *arrays) if key != mask_key]
  image_key = next(iter(images), None)
  label_key = _first_key(features, tfds.features.ClassLabel)
  if image_key is None:
    raise ValueError(
      f"data.name={name!r} has no image feature, only {sorted(features)}"
    )
  encoded_keys = [image_key, *([mask_key] if mask_key else [])]
  file_format = builder.info.file_format
  if file_format not in file_adapters.FileFormat.with_random_access():
    raise ValueError(
      f"data.name={name!r} is stored as {file_format.value}, which has no "
      f"random access; delete {builder.data_dir} and run: "
      f"{_prepare_command(name, data_dir)}"
    )
  try:
    files = builder.info.splits[split].file_instructions
    records = builder.as_data_source(
      split=split,
      decoders=dict.fromkeys(encoded_keys, tfds.decode.SkipDecoding()),
    )
  except (KeyError, ValueError) as error:
    raise ValueError(
      f"data.name={name!r} has the splits {sorted(builder.info.splits)}, not "
      f"{split!r}"
    ) from error
  image = features[image_key]
  channels, dtype = image.shape[-1], np.dtype(image.np_dtype)
  array = None if isinstance(image, tfds.features.Image) else image
  if channels not in MODES and array is None:
    raise ValueError(
      f"data.name={name!r} has images of {channels} channels; expected one of "
      f"{', '.join(map(str, MODES))}"
    )
  if dtype not in ((np.uint8, np.uint16) if array is None else DTYPES):
    raise ValueError(
      f"data.name={name!r} has images of {dtype}; expected files of uint8 or "
      f"uint16, or arrays of {', '.join(map(str, DTYPES))}"
    )
  check_open_files(name, len(files))
  make: Callable[..., Prepared] = Prepared
  if mask_key:
    make = functools.partial(SegmentedPrepared, mask_key=mask_key)
  return make(
    name=name,
    split=split,
    class_names=tuple(features[label_key].names) if label_key else (),
    image_shape=(image_size_px, image_size_px, channels),
    image_dtype=dtype,
    image_key=image_key,
    label_key=label_key,
    records=records,
    files=files,
    skip_damaged=skip_damaged,
    name_key=next((key for key in _NAME_KEYS if key in features), None),
    array=array,
  )
