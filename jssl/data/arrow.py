"""Data sets in Arrow, Parquet and WebDataset's tar files.

Reads what `datasets` of Hugging Face writes with `save_to_disk` or pushes to
its hub, and other files with a column of encoded images. See `copies` for
Parquet and tar files.
"""

import dataclasses
import functools
import io
import json
import os
import pathlib
import re
from collections.abc import Iterator, Mapping, Sequence
from typing import Any, NamedTuple

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import tensorflow_datasets as tfds
from PIL import Image
from tensorflow_datasets.core.utils.shard_utils import FileInstruction

from jssl.data.copies import arrow_file
from jssl.data.image import FORMATS, GRAYSCALE_MODES, check_mode
from jssl.data.prepared import (
  MASK_KEYS,
  Prepared,
  SegmentedPrepared,
  check_open_files,
)
from jssl.runtime.files import fetch
from jssl.runtime.paths import StorePath, as_path

Path = pathlib.Path

_SUFFIXES = (".arrow", ".parquet", ".tar")
_SPLIT_WORDS = ("train", "test", "val", "valid", "validation", "dev")
_LABELS = ("label", "labels", "cls")
# Images to look at for the number of channels.
_LOOK_FILES, _LOOK_ROWS = 16, 8


class Part(NamedTuple):
  """Rows `start` to `stop` of a file; `arrow` has one row for each of them."""

  path: str
  arrow: str
  start: int
  stop: int


class Columns(NamedTuple):
  """Names of columns, None without one; `classes` are {} for labels."""

  image: str
  label: str | None
  mask: str | None
  classes: dict[Any, int]


@functools.cache
def _open(path: str) -> tuple[pa.Schema, list[pa.RecordBatch], np.ndarray]:
  """Maps an Arrow file into memory; returns its batches and their bounds."""
  try:
    source = pa.memory_map(path)
    if source.read(6) == b"ARROW1":
      reader = pa.ipc.open_file(source)
      batches = [reader.get_batch(i) for i in range(reader.num_record_batches)]
    else:
      source.seek(0)
      reader = pa.ipc.open_stream(source)
      batches = list(reader)
  except FileNotFoundError:
    raise
  except (pa.ArrowException, OSError) as error:
    raise ValueError(
      f"{path} is damaged ({error}); expected an Arrow file; write or download "
      "it again"
    ) from error
  return reader.schema, batches, np.cumsum([0, *map(len, batches)])


@functools.cache
def _mapped(path: str, index: str) -> pa.MemoryMappedFile:
  """Maps a tar file into memory, again if its index is a new one."""
  del index
  return pa.memory_map(path)


def _encoded(value: Any, path: str, arrow: str) -> tuple[bytes, bytes]:
  """Returns the encoded image and the file name of a value in a column."""
  if not isinstance(value, dict):
    return value or b"", b""
  name = (value.get("path") or "").encode()
  if "offset" in value:
    return _mapped(path, arrow).read_at(value["size"], value["offset"]), name
  return value["bytes"] or b"", name


@dataclasses.dataclass(frozen=True)
class Records:
  """Rows of files as dictionaries; each process maps the files into memory."""

  parts: tuple[Part, ...]
  columns: Columns

  @functools.cached_property
  def _ends(self) -> np.ndarray:
    return np.cumsum([part.stop - part.start for part in self.parts])

  def __len__(self) -> int:
    return int(self._ends[-1]) if self.parts else 0

  def _read(self, row: int) -> dict[str, Any]:
    i = int(np.searchsorted(self._ends, row, "right"))
    path, arrow, _, stop = self.parts[i]
    in_file = stop - int(self._ends[i]) + row
    _, batches, bounds = _open(arrow)
    j = int(np.searchsorted(bounds, in_file, "right")) - 1
    in_batch = in_file - int(bounds[j])
    image, label, mask, classes = self.columns
    values = {
      column: batches[j].column(column)[in_batch].as_py()
      for column in (image, label, mask)
      if column
    }
    record: dict[str, Any] = {}
    record["image"], record["file_name"] = _encoded(values[image], path, arrow)
    if label:
      found = values[label]
      if classes:
        found = classes.get(found)
      record["label"] = -1 if found is None else int(found)
    if mask:
      record["mask"], _ = _encoded(values[mask], path, arrow)
    return record

  def __getitems__(self, rows: list[int]) -> list[dict[str, Any]]:
    """Returns the records of rows, in their order."""
    return [self._read(row) for row in rows]


def _local(data_dir: str | None, name: str) -> Path:
  """Returns the path of a set; that of a copy if it is in a store."""
  folder = as_path(data_dir or tfds.core.constants.DATA_DIR)
  if not isinstance(folder, StorePath):
    return folder / name
  if (folder / name).is_file():
    names = [name]
  else:
    names = [f"{name}/{path}" for path in (folder / name).objects()]
  if any(Path(path).name == "features.json" for path in names):
    names = []  # It is one of TFDS.
  wanted = (*_SUFFIXES, "/dataset_dict.json")
  return fetch(folder, [path for path in names if path.endswith(wanted)]) / name


def _list_files(root: Path) -> list[Path]:
  """Returns the files of a set; [] if it is one of TFDS or has none."""
  if root.is_file():
    return [root] if root.suffix in _SUFFIXES else []
  found = []
  for folder, folders, names in os.walk(root):
    folders[:] = [name for name in folders if not name.startswith(".")]
    if "features.json" in names:
      return []
    found += [
      Path(folder, name)
      for name in names
      # `datasets` writes results of `map` to files that begin with cache-.
      if name.endswith(_SUFFIXES) and not name.startswith((".", "cache-"))
    ]
  return sorted(found)


def _splits(root: Path, files: Sequence[Path]) -> dict[str, list[Path]]:
  """Returns the files of each split; see `open_arrow`."""
  splits: dict[str, list[Path]] = {}
  by_folder = (root / "dataset_dict.json").exists()
  for path in files:
    parts = path.relative_to(root.parent if root == path else root).parts
    words = re.split("[^a-z]+", "/".join(parts).lower())
    named = [word for word in words if word in _SPLIT_WORDS]
    split = parts[0] if by_folder else (named or ["train"])[-1]
    splits.setdefault(split, []).append(path)
  return splits


def _schema(path: Path) -> tuple[pa.Schema, int]:
  """Returns the schema and the number of rows of a file."""
  if path.suffix == ".parquet":
    try:
      with pq.ParquetFile(path) as file:
        return file.schema_arrow, file.metadata.num_rows
    except pa.ArrowException as error:
      raise ValueError(
        f"{path} is damaged ({error}); expected a Parquet file; write or "
        "download it again"
      ) from error
  schema, _, bounds = _open(str(arrow_file(path)))
  return schema, int(bounds[-1])


def _batches(path: Path, column: str, rows: int = 2**16) -> Iterator[pa.Array]:
  """Yields the values of a column; `rows` of a Parquet file at once."""
  if path.suffix == ".parquet":
    with pq.ParquetFile(path) as file:
      for batch in file.iter_batches(rows, columns=[column]):
        yield batch.column(0)
  else:
    for batch in _open(str(arrow_file(path)))[1]:
      yield batch.column(column)


def _distinct(files: Sequence[Path], column: str) -> set[Any]:
  """Returns the values of a column but missing labels."""
  values = {
    value
    for path in files
    for batch in _batches(path, column)
    for value in batch.unique().to_pylist()
  }
  return values - {None, -1}


def _features(schema: pa.Schema) -> Mapping[str, Any]:
  """Returns the features that Hugging Face's metadata describe."""
  try:
    features = json.loads(schema.metadata[b"huggingface"])["info"]["features"]
  except (KeyError, TypeError, ValueError):
    return {}
  return features if isinstance(features, dict) else {}


def _holds_images(field: pa.Field) -> bool:
  kind = field.type
  if pa.types.is_struct(kind):
    return bool({"bytes", "offset"} & {f.name for f in kind.fields})
  return pa.types.is_binary(kind) or pa.types.is_large_binary(kind)


def _label_column(
  schema: pa.Schema, files: Sequence[Path]
) -> tuple[str | None, tuple[str, ...], dict[Any, int]]:
  """Returns the column of labels, the class names, and `Columns.classes`."""
  for key, feature in _features(schema).items():
    labels = isinstance(feature, dict) and feature.get("_type") == "ClassLabel"
    if labels and key in schema.names:
      return key, tuple(map(str, feature["names"])), {}
  key = next((key for key in _LABELS if key in schema.names), "")
  kind = schema.field(key).type if key else pa.null()
  texts = pa.types.is_string(kind) or pa.types.is_large_string(kind)
  if not (texts or pa.types.is_integer(kind)):
    return None, (), {}
  values = _distinct(files, key)
  numbers = all(re.fullmatch("[0-9]+", str(value)) for value in values)
  ordered = sorted(values, key=int if numbers else str)
  classes = {value: label for label, value in enumerate(ordered)}
  return key if values else None, tuple(map(str, ordered)), classes


def _channels(name: str, files: Sequence[Path], column: str) -> int:
  """Returns 1 if images of several files are grayscale, otherwise 3."""
  modes = set()
  for path in files[:: -(-len(files) // _LOOK_FILES)]:
    arrow = path if path.suffix == ".parquet" else arrow_file(path)
    first = next(_batches(path, column, _LOOK_ROWS), pa.nulls(0))
    for value in first.slice(0, _LOOK_ROWS).to_pylist():
      encoded, _ = _encoded(value, str(path), str(arrow))
      try:
        image = Image.open(io.BytesIO(encoded), formats=FORMATS)
      except Exception:  # noqa: S112
        continue  # Damaged images may be skipped later.
      check_mode(image)
      modes.add(image.mode)
  if not modes:
    raise ValueError(
      f"data.name={name!r}: the first values of column {column!r} are no image "
      "files; expected bytes of JPEG, PNG or other image files. `datasets` "
      "stores paths unless embed_external_files=True"
    )
  return 1 if modes <= set(GRAYSCALE_MODES) else 3


def _parts(
  name: str, splits: Mapping[str, Sequence[Path]], split: str
) -> Iterator[tuple[Path, FileInstruction]]:
  """Yields files and their rows of a split or of a part of one, in order."""
  counts = {s: [_schema(path)[1] for path in splits[s]] for s in splits}
  infos = {
    s: tfds.core.SplitInfo(name=s, shard_lengths=lengths, num_bytes=0)
    for s, lengths in counts.items()
  }
  try:
    spec = tfds.core.ReadInstruction.from_spec(split).to_absolute(infos)
  except ValueError as error:
    raise ValueError(
      f"data.name={name!r} has the splits {sorted(splits)}, not {split!r}"
    ) from error
  for part in spec:
    first = 0
    for path, count in zip(
      splits[part.splitname], counts[part.splitname], strict=True
    ):
      start = max((part.from_ or 0) - first, 0)
      stop = count if part.to is None else min(part.to - first, count)
      if start < stop:
        taken = FileInstruction(str(path), start, stop - start, count)
        yield path, taken
      first += count


def open_arrow(
  name: str,
  *,
  data_dir: str | None,
  split: str,
  image_size_px: int,
  skip_damaged: bool = False,
) -> Prepared | None:
  """Opens a split of a set of Arrow, Parquet or tar files.

  The set is the folder or file `data_dir`/`name`. Each of its files is in the
  split that a word of its path names: train, test, val, valid, validation or
  dev, otherwise train. With `save_to_disk`, a split is a folder. A split has
  the files in the order of their names; a part of it is as in TFDS.

  Images are in the first column of bytes or of Hugging Face's images, labels in
  the first `ClassLabel` or in the column `label`; class names are those of the
  `ClassLabel`, otherwise the sorted numbers or texts of all splits.

  Returns:
    The source, or None if there are no such files.

  Raises:
    ValueError: if a file is damaged, the split is missing, or there are no
      images of 8 bits per channel.
  """
  root = _local(data_dir, name)
  files = _list_files(root)
  if not files:
    return None
  if len(kinds := {path.suffix for path in files}) > 1:
    raise ValueError(
      f"data.name={name!r} has files of the kinds {sorted(kinds)}; expected "
      f"one of them below {root}"
    )
  check_open_files(name, len(files) * (2 if ".tar" in kinds else 1))
  splits = _splits(root, files)
  schema, _ = _schema(files[0])
  images = [field.name for field in schema if _holds_images(field)]
  masks = [column for column in images if column in MASK_KEYS]
  images = [column for column in images if column not in MASK_KEYS]
  if not images:
    raise ValueError(
      f"data.name={name!r} has no column of encoded images, only {schema.names}"
    )
  label, class_names, classes = _label_column(schema, files)
  taken = list(_parts(name, splits, split))
  parts = tuple(
    Part(str(path), str(arrow_file(path)), part.skip, part.skip + part.take)
    for path, part in taken
  )
  mask = masks[0] if masks else None
  make: Any = Prepared
  if mask:
    make = functools.partial(SegmentedPrepared, mask_key="mask")
  channels = _channels(name, splits.get("train", files), images[0])
  return make(
    name=name,
    split=split,
    class_names=class_names,
    image_shape=(image_size_px, image_size_px, channels),
    image_dtype=np.dtype(np.uint8),
    image_key="image",
    label_key="label" if label else None,
    records=Records(parts, Columns(images[0], label, mask, classes)),
    files=[part for _, part in taken],
    skip_damaged=skip_damaged,
    name_key="file_name",
  )
