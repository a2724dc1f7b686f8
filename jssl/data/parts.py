"""Encodes the images of a manifest part by part, by several processes."""

import concurrent.futures
import contextlib
import datetime
import functools
import itertools
import multiprocessing
import os
import signal
import threading
import time
from collections.abc import Iterable, Iterator, Mapping
from concurrent.futures.process import BrokenProcessPool
from typing import Any, NamedTuple

import tensorflow_datasets as tfds
from absl import logging
from PIL import Image
from tensorflow_datasets.proto import tf_example_pb2

from jssl.data import manifest as manifest_lib
from jssl.data.encode import (
  DamagedFile,
  Kind,
  Options,
  describe_mask,
  encode,
  join_kinds,
  mask_path,
  read_mask,
)
from jssl.data.image import FORMATS, UNREADABLE_ERRORS
from jssl.data.layout import Path, file_name
from jssl.data.manifest import Entry, Manifest, Part, Stored
from jssl.runtime import files

_LOG_SECONDS = 10

# NumPy takes microseconds to name a dtype.
_name = functools.cache(str)


class _Task(NamedTuple):
  """A part to encode.

  Attributes:
    part: images of the part.
    folder: folder of the files of the parts.
    file: name of the new file, with the records of all images.
    source: folder of the images.
    kind: kind of the set, as far as it is known.
    options: how images are stored.
  """

  part: Part
  folder: Path
  file: str
  source: Path
  kind: Kind | None
  options: Options


def image_feature(
  kind: Kind, options: Options, size: tuple[int, int] | None = None
) -> tfds.features.FeatureConnector:
  """Returns the feature of images of a kind.

  Args:
    kind: kind of the images.
    options: how they are stored.
    size: (width, height) of all images; None if they differ.
  """
  if kind.mode(options):
    width, height = size or (None, None)
    return tfds.features.Image(shape=(height, width, kind.channels))
  # TFDS reads image files of 16 bits only with OpenCV.
  return tfds.features.Tensor(
    shape=(None, None, kind.channels),
    dtype=kind.dtype,
    encoding="zlib",
  )


def _serialize(example: Mapping[str, Any]) -> bytes:
  """Returns an example as TFDS writes it, always with the same bytes.

  TFDS leaves the order of the features to protobuf, which has another one in
  each process.
  """
  message = tf_example_pb2.Example()
  for name, value in example.items():
    feature = message.features.feature[name]
    if isinstance(value, bytes):
      feature.bytes_list.value.append(value)
    else:
      feature.int64_list.value.extend(value)
  return message.SerializeToString(deterministic=True)


def _describe_size(path: str) -> str:
  """Returns the size of an image in pixels, or else that of its file."""
  with (
    contextlib.suppress(Exception),
    Image.open(path, formats=FORMATS) as image,
  ):
    return f"{image.width} x {image.height} px"
  return f"a file of {files.format_bytes(os.path.getsize(path))}"


def _encode_entry(entry: Entry, task: _Task) -> tuple[bytes, Stored]:
  """Returns the record of an image, b"" if it has a problem."""
  path = os.path.join(task.source, entry.path)
  try:
    return _record(entry, task, path)
  except ValueError as error:
    damaged = isinstance(error, DamagedFile)
    return b"", Stored(problem=str(error), damaged=damaged)
  except UNREADABLE_ERRORS as error:
    # Without the folder, its disk may have been removed.
    if not task.source.is_dir():
      raise
    problem = f"{manifest_lib.UNREADABLE} ({error.strerror})"
    return b"", Stored(problem=problem, damaged=True)
  except OSError as error:
    # Unlike those of opening, errors of reading do not name their file.
    error.filename = error.filename or path
    raise
  except MemoryError:
    problem = (
      f"not enough memory for {_describe_size(path)}; use fewer --workers, "
      "make the image smaller or remove it"
    )
    return b"", Stored(problem=problem)


def _record(entry: Entry, task: _Task, path: str) -> tuple[bytes, Stored]:
  """Returns the record of an image at a path."""
  options = task.options
  # Before the mask is read, which may change meanwhile.
  mask = describe_mask(options.masks, entry.path)
  data = Path(path).read_bytes()
  image = encode(data, options=options, kind=task.kind)
  example: dict[str, Any] = {"file_name": file_name(entry.path).encode()}
  if entry.label >= 0:
    example["label"] = [entry.label]
  if options.masks:
    file = mask_path(options.masks, entry.path)
    example["mask"] = read_mask(file, image.size, Path(path))
  if isinstance(image.data, bytes):
    example["image"] = image.data
  else:
    feature = image_feature(image.kind, options)
    for name, value in feature.encode_example(image.data).items():
      example[f"image/{name}"] = value
  record = _serialize(example)
  channels, dtype = image.kind
  about = channels, _name(dtype), *image.size, *image[3:]
  return record, Stored(len(record), *about, mask=mask)


def _encode_part(task: _Task) -> list[Stored]:
  """Writes the records of a part; keeps those that have the right kind."""
  part, found = task.part, []
  with contextlib.ExitStack() as stack:
    out = stack.enter_context(files.open_atomically(task.folder / task.file))
    if part.file:
      old = stack.enter_context((task.folder / part.file).open("rb"))
    for entry in part.entries:
      stored = entry.stored
      record = old.read(stored.bytes) if part.file else b""
      if not part.file or (record and stored.kind() != task.kind):
        record, stored = _encode_entry(entry, task)
      out.write(record)
      found.append(stored)
  return found


def _end_with_parent() -> None:
  """Ends this process with the one that started it, even if that is killed."""
  signal.signal(signal.SIGINT, signal.SIG_IGN)
  parent = multiprocessing.parent_process()

  def watch() -> None:
    if parent is not None:
      parent.join()
      os._exit(1)

  threading.Thread(target=watch, daemon=True).start()


def _encode_parts(
  tasks: Iterable[_Task], workers: int
) -> Iterator[tuple[_Task, list[Stored]]]:
  """Yields tasks as they are done, by this process or by several others."""
  tasks = iter(tasks)
  if workers == 1:
    for task in tasks:
      yield task, _encode_part(task)
    return
  # A fork would copy locks that threads of the program hold, such as JAX's.
  pool = concurrent.futures.ProcessPoolExecutor(
    workers, multiprocessing.get_context("spawn"), _end_with_parent
  )
  running: dict[concurrent.futures.Future[list[Stored]], _Task] = {}
  try:
    while True:
      # As many again as are running, so that no process waits.
      for task in itertools.islice(tasks, 2 * workers - len(running)):
        running[pool.submit(_encode_part, task)] = task
      if not running:
        return
      done, _ = concurrent.futures.wait(
        running, return_when=concurrent.futures.FIRST_COMPLETED
      )
      for future in done:
        yield running.pop(future), future.result()
  except BrokenProcessPool as error:
    raise OSError(
      "a process that encodes images has ended, perhaps for lack of memory; "
      "run the same command again to continue, with fewer --workers"
    ) from error
  finally:
    pool.shutdown(cancel_futures=True)


class _Progress:
  """Logs how many images are encoded, and how long the others take."""

  def __init__(self, total: int, done: int):
    self._total, self._done, self._new = total, done, 0
    self._start = self._logged = time.monotonic()
    if done:
      logging.info("Resumed: %d of %d images are encoded.", done, total)

  def add(self, images: int) -> None:
    self._done, self._new = self._done + images, self._new + images
    now = time.monotonic()
    if not images or now - self._logged < _LOG_SECONDS:
      return
    self._logged = now
    rate = self._new / (now - self._start)
    left = round(max(0, self._total - self._done) / rate)
    logging.info(
      "Encoded %d of %d images, %.0f images/s, ETA %s.",
      self._done,
      self._total,
      rate,
      datetime.timedelta(seconds=left),
    )


def _tasks(
  manifest: Manifest, source: Path, options: Options, kinds: set[Kind]
) -> Iterator[_Task]:
  """Yields what is left to encode; `kinds` are those of the images so far."""
  for part in manifest.pending(join_kinds(kinds) if kinds else None):
    kind = join_kinds(kinds) if kinds else None
    name = f"{kind.channels}-{kind.dtype}" if kind else "own"
    file = f"{part.number:06}.{name}.records"
    yield _Task(part, manifest.folder, file, source, kind, options)


def encode_all(
  manifest: Manifest, source: Path, options: Options, workers: int
) -> set[Kind]:
  """Encodes the images without a record; returns the kinds of all images."""
  images, done = manifest.num_images(), manifest.num_encoded()
  progress = _Progress(images, done)
  # A process needs a second to start.
  workers = min(workers, 1 + (images - done) // manifest_lib.PART_IMAGES)
  kinds, unfinished = manifest.kinds(), True
  # Most images are encoded once the kind of the set is known from others. The
  # first ones may be encoded again.
  while unfinished:
    unfinished = False
    tasks = _tasks(manifest, source, options, kinds)
    for task, stored in _encode_parts(tasks, workers):
      unfinished = True
      manifest.finish(task.part, task.file, stored)
      kinds |= {one.kind() for one in stored if one.bytes}
      progress.add(len(stored) if task.part.file is None else 0)
  return kinds
