"""Frozen features: extracted once, kept on disk, read by every probe."""

import collections
import contextlib
import hashlib
import os
import pathlib
import re
from collections.abc import Callable, Iterable, Iterator
from typing import BinaryIO, NamedTuple

import jax
import numpy as np
from jax.sharding import Mesh
from jaxtyping import Float, Int

from jssl import tree
from jssl.data import pipeline
from jssl.data.source import Source
from jssl.diagnostics import spectrum
from jssl.mesh import batch_sharding
from jssl.runtime import distributed
from jssl.typing import PyTree

Encode = Callable[[jax.Array], jax.Array]


class NotFiniteError(ValueError):
  """A subject's features are not finite; others may be."""


class Features(NamedTuple):
  """Frozen features of a labelled split.

  Attributes:
    h: float32, in memory or memory-mapped.
    labels: class of each row.
    num_classes: k.
  """

  h: Float[np.ndarray, "n d"]
  labels: Int[np.ndarray, "n"]
  num_classes: int


class Scaling(NamedTuple):
  """What brings features to mean 0 and deviation 1."""

  mean: Float[np.ndarray, "d"]
  inverse_std: Float[np.ndarray, "d"]

  def __call__(self, h: Float[np.ndarray, "*n d"]) -> Float[np.ndarray, "*n d"]:
    """Returns the standardised features."""
    return (h - self.mean) * self.inverse_std


def scaling(h: Float[np.ndarray, "n d"]) -> Scaling:
  """Returns the standardisation of `h`; constant columns become 0."""
  moment = spectrum.second_moment(h)
  # What float32 can't tell from a constant would be blown up to noise.
  noise = 1e-6 * np.maximum(np.abs(moment.mean), moment.std.max())
  varies = moment.std > noise
  inverse = np.divide(1, moment.std, out=np.zeros_like(noise), where=varies)
  return Scaling(moment.mean.astype(h.dtype), inverse.astype(h.dtype))


def digest(*parts: bytes | str) -> str:
  """Returns a short checksum of everything that features depend on."""
  sha = hashlib.sha256()
  for part in parts:
    data = part.encode() if isinstance(part, str) else part
    sha.update(len(data).to_bytes(8, "little") + data)
  return sha.hexdigest()[:16]


def variables_digest(variables: PyTree) -> str:
  """Returns a checksum of a tree of arrays, names and values."""
  leaves = jax.tree_util.tree_leaves_with_path(variables)
  return digest(
    *(
      part
      for path, leaf in leaves
      for part in (tree.path_name(path), np.asarray(leaf).tobytes())
    )
  )


def source_digest(source: Source) -> str:
  """Returns a checksum of a data set: its name, size, and some of its images.

  Not of all: that would read the set again each time.
  """
  rows = np.linspace(0, len(source) - 1, min(64, len(source))).astype(int)
  batch = source.fetch(rows)
  return digest(
    source.name,
    str((len(source), source.image_shape, source.class_names)),
    batch["image"].tobytes(),
    batch["label"].tobytes(),
  )


def path(
  workdir: str | os.PathLike, *, dataset: str, split: str, name: str, key: str
) -> pathlib.Path:
  """Returns where features are kept: what a person reads, then the key."""
  readable = re.sub(r"[^\w.-]", "_", f"{dataset}-{split}-{name}")
  return pathlib.Path(workdir) / "features" / f"{readable}-{key}.npy"


def _labels_path(path: pathlib.Path) -> pathlib.Path:
  return path.with_suffix(".labels.npy")


@contextlib.contextmanager
def _renamed_when_done(path: pathlib.Path) -> Iterator[BinaryIO]:
  """Opens a file that gets its name only once it is whole."""
  path.parent.mkdir(parents=True, exist_ok=True)
  temporary = path.with_name(f"{path.name}.{os.getpid()}.tmp")
  try:
    with temporary.open("wb") as file:
      yield file
    temporary.replace(path)
  finally:
    temporary.unlink(missing_ok=True)


def _made(
  path: pathlib.Path,
  encode: Encode,
  source: Source,
  batch_size: int,
  mesh: Mesh,
  workers: int,
) -> Iterator[tuple[Float[np.ndarray, "b d"], Int[np.ndarray, "b"]]]:
  """Yields features and labels, whole batches on every process."""
  bad = 0
  for batch, real in pipeline.eval_batches(
    source,
    batch_size=-(-batch_size // mesh.size) * mesh.size,
    sharding=batch_sharding(mesh),
    workers=workers,
  ):
    h = distributed.to_host(encode(batch["image"]))[:real].astype(np.float32)
    bad += int(np.sum(~np.isfinite(h).all(1)))
    yield h, distributed.to_host(batch["label"])[:real]
  if bad:  # Every process has counted all rows, so all of them raise.
    raise NotFiniteError(
      f"{path.stem}: {bad} of {len(source)} rows of features are not finite"
    )


def _write(
  path: pathlib.Path,
  images: int,
  batches: Iterable[tuple[Float[np.ndarray, "b d"], Int[np.ndarray, "b"]]],
) -> None:
  labels: list[np.ndarray] = []
  # Written, not memory-mapped: a full disk is then an error, not a crash.
  with _renamed_when_done(path) as file:
    for h, of_batch in batches:
      if not labels:
        header = np.lib.format.header_data_from_array_1_0(h)
        header["shape"] = (images, h.shape[1])
        np.lib.format.write_array_header_1_0(file, header)
      file.write(h.tobytes())
      labels.append(of_batch)
    with _renamed_when_done(_labels_path(path)) as label_file:
      np.save(label_file, np.concatenate(labels))


def read(path: pathlib.Path, num_classes: int) -> Features:
  """Opens features that were kept, without reading them."""
  return Features(
    h=np.load(path, mmap_mode="r"),
    labels=np.load(_labels_path(path)),
    num_classes=num_classes,
  )


def extract(
  path: pathlib.Path,
  encode: Encode,
  source: Source,
  *,
  batch_size: int,
  mesh: Mesh,
  workers: int = 0,
) -> Features:
  """Returns the features of a source: those kept at `path`, or made and kept.

  Args:
    path: of the features; whatever they depend on must be in its name.
    encode: uint8 images on the mesh [b, h, w, c] to features [b, d], jitted.
    source: images and labels.
    batch_size: images at once; rounded up to what divides over the mesh.
    mesh: of the devices of all processes; batches are split over it.
    workers: processes that decode; 0 does it in a thread.

  Raises:
    NotFiniteError: features are not; none are kept.
    ValueError: of several processes some don't see what the first wrote.
    OSError: the disk is full.
  """
  if not distributed.broadcast_from_first(path.exists()):
    batches = _made(path, encode, source, batch_size, mesh, workers)
    if distributed.is_first():
      _write(path, len(source), batches)
    else:
      collections.deque(batches, maxlen=0)  # It makes its part of each batch.
    distributed.barrier(f"wrote {path.name}")
  if not path.exists():
    raise ValueError(
      f"{path} was written by process 0 and is not there for process "
      f"{jax.process_index()}; all need one workdir: use a shared disk"
    )
  return read(path, source.num_classes)


def forget_all_but(workdir: str | os.PathLike, steps: list[int]) -> None:
  """Removes the kept features of checkpoints that are no longer there."""
  for found in (pathlib.Path(workdir) / "features").glob("*.npy"):
    step = re.search(r"-step(\d+)-[0-9a-f]+(\.labels)?\.npy$", found.name)
    if step and int(step[1]) not in steps:
      found.unlink(missing_ok=True)


def export(file: str | os.PathLike, train: Features, test: Features) -> None:
  """Writes features and labels of train and test to an `.npz`."""
  with _renamed_when_done(pathlib.Path(file)) as out:
    np.savez(
      out,
      train_features=train.h,
      train_labels=train.labels,
      test_features=test.h,
      test_labels=test.labels,
    )
