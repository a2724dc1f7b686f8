"""Sources of images: random access to pixels and labels."""

import concurrent.futures
import dataclasses
import hashlib
from collections.abc import Callable, Iterable
from typing import Protocol, runtime_checkable

import numpy as np
from jaxtyping import Int, Num

Rows = Int[np.ndarray, "b"]
HostBatch = dict[str, np.ndarray]


class DamagedImage(ValueError):
  """An image that cannot be decoded."""


@runtime_checkable
class Rowed(Protocol):
  """Something whose rows can be fetched in any order."""

  def __len__(self) -> int: ...

  def fetch(self, rows: Rows) -> HostBatch:
    """Returns arrays with one entry per row, in their order."""


@runtime_checkable
class Source(Rowed, Protocol):
  """Images of one size that can be fetched by row, in any order."""

  @property
  def name(self) -> str:
    """Name of the set."""

  @property
  def class_names(self) -> tuple[str, ...]:
    """Names in label order; empty if the set is unlabelled."""

  @property
  def num_classes(self) -> int:
    """Number of classes; 0 if the set is unlabelled."""

  @property
  def image_shape(self) -> tuple[int, int, int]:
    """(height, width, channels) in pixels."""

  @property
  def image_dtype(self) -> np.dtype:
    """uint8, uint16, or float32 for values in [0, 1]; see `jssl.pixels`."""

  def fingerprint(self) -> str:
    """Returns number of images, bytes and a checksum: other images differ."""

  def fetch(self, rows: Rows) -> HostBatch:
    """Returns `image` and `label` of rows, in their order.

    Images are [b, h, w, c] of `image_dtype`; labels int32 [b], -1 without a
    label. Raises `DamagedImage` if an image cannot be decoded.
    """


@runtime_checkable
class Segmented(Source, Protocol):
  """A source with a mask for each image."""

  def fetch_masks(self, rows: Rows) -> Int[np.ndarray, "b h w"]:
    """Returns the class of each pixel of rows, from 0; -1 without a label."""


@runtime_checkable
class Named(Source, Protocol):
  """A source that may know the file names of its images."""

  def fetch_names(self, rows: Rows) -> list[str | None]:
    """Returns the file name of each row, None where it is not stored."""


@dataclasses.dataclass(frozen=True, eq=False)
class SkipDamaged:
  """Rows of a source with `readable`; damaged images are black."""

  source: Source

  def __len__(self) -> int:
    return len(self.source)

  def fetch(self, rows: Rows) -> HostBatch:
    """Returns `image`, `label` and `readable`, False for damaged images."""
    readable = np.ones(len(rows), bool)
    try:
      return {**self.source.fetch(rows), "readable": readable}
    except DamagedImage:
      pass
    source = self.source
    images = np.zeros((len(rows), *source.image_shape), source.image_dtype)
    labels = np.full(len(rows), -1, np.int32)
    for i in range(len(rows)):
      try:
        one = self.source.fetch(rows[i : i + 1])
        images[i], labels[i] = one["image"][0], one["label"][0]
      except DamagedImage:
        readable[i] = False
    return {"image": images, "label": labels, "readable": readable}

  def reason(self, row: int) -> str:
    """Returns why an image is damaged; "" if it can be read now."""
    try:
      self.source.fetch(np.array([row]))
    except DamagedImage as error:
      return str(error)
    return ""


def make_fingerprint(images: int, size: int, parts: Iterable[bytes]) -> str:
  """Returns a fingerprint of a number of images, of bytes, and a checksum."""
  digest = hashlib.blake2b(digest_size=8)
  for part in parts:
    digest.update(part)
  return f"{images:,} images, {size:,} bytes, checksum {digest.hexdigest()}"


@dataclasses.dataclass(frozen=True, eq=False)
class InMemory:
  """A data set in memory; a `Source`. Labels are -1 without a label.

  `read_from` is the fingerprint of the source that was read, if any.
  """

  name: str
  class_names: tuple[str, ...]
  images: Num[np.ndarray, "n h w c"]
  labels: Int[np.ndarray, "n"]
  read_from: str = ""

  def fingerprint(self) -> str:
    """See `Source.fingerprint`; that of the source that was read, if any."""
    if self.read_from:
      return self.read_from
    parts = (array.tobytes() for array in (self.images, self.labels))
    return make_fingerprint(len(self), self.images.nbytes, parts)

  @property
  def num_classes(self) -> int:
    """Number of classes; 0 if the set is unlabelled."""
    return len(self.class_names)

  @property
  def image_shape(self) -> tuple[int, int, int]:
    """(height, width, channels) in pixels."""
    height, width, channels = self.images.shape[1:]
    return height, width, channels

  @property
  def image_dtype(self) -> np.dtype:
    """See `Source.image_dtype`."""
    return self.images.dtype

  def __len__(self) -> int:
    return len(self.images)

  def fetch(self, rows: Rows) -> HostBatch:
    """See `Source.fetch`."""
    return {"image": self.images[rows], "label": self.labels[rows]}


@dataclasses.dataclass(frozen=True, eq=False, kw_only=True)
class SegmentedInMemory(InMemory):
  """A data set with images in memory and masks; a `Segmented` source."""

  fetch_masks: Callable[[Rows], Int[np.ndarray, "b h w"]]


def load(source: Source, *, chunk_size: int = 1024) -> InMemory:
  """Reads a source into memory, `chunk_size` images at a time.

  Masks are left where they are, because a training reads none.
  """
  images = np.empty((len(source), *source.image_shape), source.image_dtype)
  labels = np.empty(len(source), np.int32)

  def read(start: int) -> None:
    rows = np.arange(start, min(start + chunk_size, len(source)))
    batch = source.fetch(rows)
    images[rows], labels[rows] = batch["image"], batch["label"]

  # Image decoders release the GIL.
  with concurrent.futures.ThreadPoolExecutor() as pool:
    list(pool.map(read, range(0, len(source), chunk_size)))
  about = source.name, source.class_names, images, labels, source.fingerprint()
  if isinstance(source, Segmented):
    return SegmentedInMemory(*about, fetch_masks=source.fetch_masks)
  return InMemory(*about)
