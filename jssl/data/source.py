"""Sources of images: random access to uint8 pixels and their labels."""

import concurrent.futures
import dataclasses
from typing import Protocol

import numpy as np
from jaxtyping import Int, UInt8

Rows = Int[np.ndarray, "b"]
HostBatch = dict[str, np.ndarray]


class Source(Protocol):
  """Images of one size that can be fetched by row, in any order."""

  @property
  def name(self) -> str:
    """What the set is called."""

  @property
  def class_names(self) -> tuple[str, ...]:
    """In the order of the labels; empty if the set is unlabelled."""

  @property
  def num_classes(self) -> int:
    """Number of classes; 0 if the set is unlabelled."""

  @property
  def image_shape(self) -> tuple[int, int, int]:
    """(height, width, channels), in pixels."""

  def __len__(self) -> int: ...

  def fetch(self, rows: Rows) -> HostBatch:
    """Returns the images and labels of `rows`, in their order.

    Args:
      rows: row numbers, 0 to len(self) - 1.

    Returns:
      `image`: uint8 [b, h, w, c]; `label`: int32 [b], -1 where there is none.
    """


@dataclasses.dataclass(frozen=True, eq=False)
class InMemory:
  """A whole set in memory.

  Attributes:
    name: what the set is called.
    class_names: in the order of the labels; empty if the set is unlabelled.
    images: pixels of the set.
    labels: class of each image, -1 where there is none.
  """

  name: str
  class_names: tuple[str, ...]
  images: UInt8[np.ndarray, "n h w c"]
  labels: Int[np.ndarray, "n"]

  @property
  def num_classes(self) -> int:
    """Number of classes; 0 if the set is unlabelled."""
    return len(self.class_names)

  @property
  def image_shape(self) -> tuple[int, int, int]:
    """(height, width, channels), in pixels."""
    height, width, channels = self.images.shape[1:]
    return height, width, channels

  def __len__(self) -> int:
    return len(self.images)

  def fetch(self, rows: Rows) -> HostBatch:
    """Returns the images and labels of `rows`; see `Source.fetch`."""
    return {"image": self.images[rows], "label": self.labels[rows]}


def load(source: Source, *, chunk_size: int = 1024) -> InMemory:
  """Reads all of a source into memory.

  Args:
    source: what to read.
    chunk_size: images fetched at once.
  """
  images = np.empty((len(source), *source.image_shape), np.uint8)
  labels = np.empty(len(source), np.int32)

  def read(start: int) -> None:
    rows = np.arange(start, min(start + chunk_size, len(source)))
    batch = source.fetch(rows)
    images[rows], labels[rows] = batch["image"], batch["label"]

  # Decoders of images release the interpreter.
  with concurrent.futures.ThreadPoolExecutor() as pool:
    list(pool.map(read, range(0, len(source), chunk_size)))
  return InMemory(source.name, source.class_names, images, labels)
