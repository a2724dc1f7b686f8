"""Image files of a folder or of a list, decoded where they are."""

import contextlib
import dataclasses
import os
import pathlib
from collections.abc import Iterable

import numpy as np
from jaxtyping import Int, Num
from PIL import Image

from jssl.data.arrays import DTYPES, read_array
from jssl.data.decode import decode
from jssl.data.image import UNREADABLE_ERRORS, describe_damage, is_damage
from jssl.data.layout import file_name, list_files
from jssl.data.source import DamagedImage, HostBatch, Rows, make_fingerprint


@dataclasses.dataclass(frozen=True, eq=False)
class ImageFiles:
  """Image files in a fixed order; a `Named` source.

  Attributes:
    name: name of the folder or list.
    folder: folder that relative `paths` are in.
    paths: paths of the files, which are their names.
    labels: label of each image, -1 without one.
    class_names: names in label order; empty if the set is unlabelled.
    image_shape: (height, width, channels) of the centre squares.
    image_dtype: dtype of the images; others are converted.
  """

  name: str
  folder: pathlib.Path
  paths: tuple[str, ...]
  labels: Int[np.ndarray, "n"]
  class_names: tuple[str, ...]
  image_shape: tuple[int, int, int]
  image_dtype: np.dtype

  @property
  def num_classes(self) -> int:
    """Number of classes; 0 if the set is unlabelled."""
    return len(self.class_names)

  def __len__(self) -> int:
    return len(self.paths)

  def fingerprint(self) -> str:
    """See `Source.fingerprint`; of the names and sizes of the files."""
    sizes = []
    for path in self.paths:
      try:
        sizes.append((self.folder / path).stat().st_size)
      except OSError:
        sizes.append(0)  # Such an image is damaged.
    parts = (
      os.fsencode(path) + f"\0{size}\0".encode()
      for path, size in zip(self.paths, sizes, strict=True)
    )
    return make_fingerprint(len(self), sum(sizes), parts)

  def _decode(self, row: int) -> Num[np.ndarray, "h w c"]:
    path, (size, _, channels) = self.folder / self.paths[row], self.image_shape
    try:
      return decode(
        path.read_bytes(),
        size_px=size,
        channels=channels,
        dtype=self.image_dtype,
      )
    except ImportError as error:
      raise ValueError(f"{file_name(self.paths[row])}: {error}") from error
    except Exception as error:  # pillow has no one exception for damaged files.
      skipped = (*UNREADABLE_ERRORS, Image.DecompressionBombError)
      if not (is_damage(error) or isinstance(error, skipped)):
        raise
      reason = describe_damage(error)
      if isinstance(error, UNREADABLE_ERRORS):
        reason = str(error.strerror)
      raise DamagedImage(f"{file_name(self.paths[row])}: {reason}") from error

  def fetch(self, rows: Rows) -> HostBatch:
    """See `Source.fetch`."""
    images = np.empty((len(rows), *self.image_shape), self.image_dtype)
    for i, row in enumerate(rows.tolist()):
      images[i] = self._decode(row)
    return {"image": images, "label": self.labels[rows]}

  def fetch_names(self, rows: Rows) -> list[str | None]:
    """See `Named.fetch_names`; bytes that are not UTF-8 become escapes."""
    return [file_name(self.paths[row]) for row in rows.tolist()]


def _first_dtype(paths: Iterable[pathlib.Path]) -> np.dtype:
  """Returns the dtype of the first image that can be read; else uint8."""
  for path in paths:
    with contextlib.suppress(Exception):  # Such an image is damaged.
      array = read_array(path.read_bytes())
      return DTYPES[0] if array is None else array.dtype
  return DTYPES[0]


def open_folder(
  folder: str | os.PathLike, *, image_size_px: int, channels: int
) -> ImageFiles:
  """Opens the images of a folder; see `layout.list_files` for its classes.

  Raises:
    FileNotFoundError: if there is no such folder.
    ValueError: if it has no images.
  """
  folder = pathlib.Path(folder).resolve()
  classes = list_files(folder)
  paths = [path for name in sorted(classes) for path in classes[name]]
  counts = [len(classes[name]) for name in sorted(classes)]
  labelled = "" not in classes
  labels = np.repeat(np.arange(len(counts), dtype=np.int32), counts)
  return ImageFiles(
    name=folder.name,
    folder=folder,
    paths=tuple(path.relative_to(folder).as_posix() for path in paths),
    labels=labels if labelled else np.full_like(labels, -1),
    class_names=tuple(map(file_name, sorted(classes))) if labelled else (),
    image_shape=(image_size_px, image_size_px, channels),
    image_dtype=_first_dtype(paths),
  )


def open_list(
  path: str | os.PathLike, *, image_size_px: int, channels: int
) -> ImageFiles:
  """Opens the images of a text file with one path per line.

  Relative paths start at the folder of the text file.

  Raises:
    OSError: if the list cannot be read.
    ValueError: if it is empty.
  """
  path = pathlib.Path(path)
  lines = [os.fsdecode(line) for line in path.read_bytes().splitlines()]
  paths = tuple(line for line in lines if line.strip())
  if not paths:
    raise ValueError(f"--list={path} is empty; expected one path per line")
  return ImageFiles(
    name=path.name,
    folder=path.parent,
    paths=paths,
    labels=np.full(len(paths), -1, np.int32),
    class_names=(),
    image_shape=(image_size_px, image_size_px, channels),
    image_dtype=_first_dtype(path.parent / name for name in paths),
  )
