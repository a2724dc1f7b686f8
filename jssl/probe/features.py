"""Frozen features, extracted once and cached in the workdir."""

import collections
import hashlib
import os
import re
import zipfile
from collections.abc import Callable, Iterable, Iterator
from typing import NamedTuple

import jax
import numpy as np
from absl import logging
from jax.sharding import Mesh
from jaxtyping import Float, Int

from jssl import tree
from jssl.data import pipeline
from jssl.data.source import Source
from jssl.diagnostics import spectrum
from jssl.mesh import batch_sharding
from jssl.runtime import distributed, files
from jssl.runtime.paths import Path, StorePath, as_path
from jssl.runtime.progress import progress
from jssl.typing import PyTree

Encode = Callable[[jax.Array], jax.Array]
Batch = tuple[Float[np.ndarray, "b d"], Int[np.ndarray, "b"]]


# The name of an encoder, then the key and the suffix of the file.
_OF_STEP = r"-step(\d+)(-student|-teacher)?-[0-9a-f]+(\.labels)?\.np[yz]$"


class NotFiniteError(ValueError):
  """The features of an encoder are not finite."""


class Features(NamedTuple):
  """Frozen float32 features of a labelled split; may be memory-mapped."""

  h: Float[np.ndarray, "n d"]
  labels: Int[np.ndarray, "n"]
  num_classes: int


class Scaling(NamedTuple):
  """Standardisation to mean 0 and standard deviation 1."""

  mean: Float[np.ndarray, "d"]
  inverse_std: Float[np.ndarray, "d"]

  def __call__(self, h: Float[np.ndarray, "*n d"]) -> Float[np.ndarray, "*n d"]:
    """Returns the standardised features."""
    return (h - self.mean) * self.inverse_std


def scaling(h: Float[np.ndarray, "n d"]) -> Scaling:
  """Returns the standardisation by `h`; constant columns become 0."""
  moment = spectrum.second_moment(h)
  # Columns that are constant in float32 would be amplified to noise.
  noise = 1e-6 * np.maximum(np.abs(moment.mean), moment.std.max())
  varies = moment.std > noise
  inverse = np.divide(1, moment.std, out=np.zeros_like(noise), where=varies)
  return Scaling(moment.mean.astype(h.dtype), inverse.astype(h.dtype))


def digest(*parts: bytes | str) -> str:
  """Returns a short checksum."""
  sha = hashlib.sha256()
  for part in parts:
    data = part.encode() if isinstance(part, str) else part
    sha.update(len(data).to_bytes(8, "little") + data)
  return sha.hexdigest()[:16]


def variables_digest(variables: PyTree) -> str:
  """Returns a checksum of a tree of arrays, names and values."""
  parts: list[bytes | str] = []
  for path, leaf in jax.tree_util.tree_leaves_with_path(variables):
    parts += [tree.path_name(path), np.asarray(leaf).tobytes()]
  return digest(*parts)


def source_digest(source: Source) -> str:
  """Returns a checksum of the name, size and up to 64 images of a data set."""
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
) -> Path:
  """Returns the path of cached features: a readable name and a key."""
  readable = re.sub(r"[^\w.-]", "_", f"{dataset}-{split}-{name}")
  return as_path(workdir) / "features" / f"{readable}-{key}.npy"


def _labels_path(path: Path) -> Path:
  """Path of the labels, and of the SHA-256 of the features; written last."""
  return path.with_suffix(".labels.npz")


def _sha256(path: Path) -> str:
  with path.open("rb") as file:
    return hashlib.file_digest(file, "sha256").hexdigest()


def write(path: Path, images: int, batches: Iterable[Batch]) -> None:
  """Writes features and labels of all images to the cache."""
  labels: list[np.ndarray] = []
  # Not memory-mapped, where a full disk would crash the process.
  with files.open_atomically(path) as file:
    for h, of_batch in batches:
      if not labels:
        header = np.lib.format.header_data_from_array_1_0(h)
        header["shape"] = (images, h.shape[1])
        np.lib.format.write_array_header_1_0(file, header)
      file.write(h.tobytes())
      labels.append(of_batch)
  with files.open_atomically(_labels_path(path)) as file:
    np.savez(file, labels=np.concatenate(labels), sha256=_sha256(path))


def _read(path: Path, num_classes: int) -> Features:
  """Opens cached features, memory-mapped; reads those of a store."""
  with _labels_path(path).open("rb") as file, np.load(file) as found:
    labels = found["labels"]
  if isinstance(path, StorePath):
    with path.open("rb") as file:
      return Features(np.load(file), labels, num_classes)
  return Features(np.load(path, mmap_mode="r"), labels, num_classes)


def cached(path: Path, num_classes: int) -> Features | None:
  """Opens cached features; None, with a warning, if they are damaged."""
  if not path.exists():
    return None
  try:
    # np.load would leave a damaged file open.
    with _labels_path(path).open("rb") as file, np.load(file) as found:
      intact = str(found["sha256"]) == _sha256(path)
    if intact:
      return _read(path, num_classes)
  except (OSError, ValueError, KeyError, EOFError, zipfile.BadZipFile):
    pass
  logging.warning("Ignored damaged features in %s.", path)
  return None


def extract(
  path: Path,
  encode: Encode,
  source: Source,
  *,
  batch_size: int,
  mesh: Mesh,
  workers: int = 0,
) -> Features:
  """Returns the features of a source, from the cache or by encoding.

  `path` contains a key of all inputs. The batch size is rounded up to a
  multiple of the devices of all processes.

  Raises:
    NotFiniteError: if features are not finite; nothing is cached then.
    ValueError: if the processes do not share the workdir.
  """

  def encoded() -> Iterator[Batch]:
    """Yields features and labels of each batch, complete on every process."""
    bad = 0
    batches = pipeline.eval_batches(
      source,
      batch_size=batch_size,
      sharding=batch_sharding(mesh),
      workers=workers,
    )
    number = -(-len(source) // batch_size)
    name = f"features {path.stem.rpartition('-')[0]}"
    for batch, real in progress(name, batches, number):
      h = distributed.to_host(encode(batch["image"]))[:real].astype(np.float32)
      bad += int(np.sum(~np.isfinite(h).all(1)))
      yield h, distributed.to_host(batch["label"])[:real]
    if bad:  # All processes count all rows, so all of them raise.
      raise NotFiniteError(
        f"{path.stem}: {bad} of {len(source)} rows of features are not finite"
      )

  found = cached(path, source.num_classes) if distributed.is_first() else None
  if not distributed.broadcast_from_first(found is not None):
    if distributed.is_first():
      write(path, len(source), encoded())
    else:
      collections.deque(encoded(), maxlen=0)  # Its part of each batch.
    distributed.barrier(f"wrote {path.name}")
  if not path.exists():
    raise ValueError(
      f"process {jax.process_index()} cannot see {path}, which process 0 "
      "wrote; put the workdir on a disk that all processes share"
    )
  return _read(path, source.num_classes)


def forget_all_but(workdir: str | os.PathLike, steps: list[int]) -> None:
  """Removes the cached features of deleted checkpoints."""
  for found in (as_path(workdir) / "features").glob("*.np[yz]"):
    step = re.search(_OF_STEP, found.name)
    if step and int(step[1]) not in steps:
      found.unlink(missing_ok=True)


def export(
  file: str | os.PathLike, train: Features, test: Features, backbone: str
) -> None:
  """Writes features and labels of train and test to an `.npz` file.

  `backbone` is that of the records, "student" or "teacher".
  """
  with files.open_atomically(as_path(file)) as out:
    np.savez(
      out,
      train_features=train.h,
      train_labels=train.labels,
      test_features=test.h,
      test_labels=test.labels,
      backbone=backbone,
    )
