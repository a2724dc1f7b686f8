"""Opens data sets by name."""

import importlib
from typing import Any

from jssl.data.source import Source, load
from jssl.runtime import files

# Modules of the embedded sets, each with a function of the set's name.
_EMBEDDED = {
  "cluttered_digits": "jssl.data.embedded",
  "patterns": "jssl.data.patterns",
}


def open_source(
  name: str,
  *,
  data_dir: str | None = None,
  split: str = "train",
  image_size_px: int,
  in_memory: bool = False,
  skip_damaged: bool = False,
) -> Source:
  """Opens a split of an embedded set or of one on disk.

  Embedded sets are `cluttered_digits` and `patterns`. Others are folders in
  `data_dir`, by default that of TFDS: prepared sets, whose TFDS name has
  optional `/config` and `:version`, and sets of Arrow, Parquet or tar files,
  see `arrow`. Splits are in TFDS's syntax, as in `train[:10%]`.

  Images of another size are resized by their shorter side and cropped to the
  centre. A damaged image makes `fetch` raise, or is replaced by the next one
  that can be decoded if `skip_damaged` is True.

  Raises:
    FileNotFoundError: if the set is not prepared.
    ValueError: if the split or image size is not available, or the set has no
      images or no random access.
  """
  if image_size_px < 1:
    raise ValueError(
      f"data.image_size_px={image_size_px}: expected a positive number"
    )
  files.raise_open_files_limit()
  if size := stored_size_px(name):
    if image_size_px != size:
      raise ValueError(
        f"data.image_size_px={image_size_px}: expected {size} for {name}"
      )
    return getattr(importlib.import_module(_EMBEDDED[name]), name)(split)
  # Imported on use: prepared sets need TFDS.
  from jssl.data import array_record, arrow

  options: dict[str, Any] = {
    "data_dir": data_dir or None,
    "split": split,
    "image_size_px": image_size_px,
    "skip_damaged": skip_damaged,
  }
  source = arrow.open_arrow(name, **options)
  if source is None:
    source = array_record.open_prepared(name, **options)
  return load(source) if in_memory else source


def stored_size_px(name: str) -> int | None:
  """Returns the size of an embedded set's images; None if they are resized."""
  if name not in _EMBEDDED:
    return None
  return importlib.import_module(_EMBEDDED[name]).IMAGE_SIZE_PX
