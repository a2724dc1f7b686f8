"""Writes a folder of image files as a TFDS data set, without TensorFlow.

See `layout` for its subfolders. The set has one channel if all images are
grayscale, otherwise 3, or 4 if it keeps transparency, or those of --channels.
"""

import concurrent.futures
import contextlib
import dataclasses
import datetime
import functools
import itertools
import multiprocessing
import os
import shlex
import shutil
import signal
import threading
import time
from collections.abc import Iterable, Iterator, Mapping
from concurrent.futures.process import BrokenProcessPool
from typing import Any, NamedTuple

import PIL
import tabulate
import tensorflow_datasets as tfds
from absl import logging
from tensorflow_datasets.core.utils import shard_utils
from tensorflow_datasets.proto import tf_example_pb2

from jssl.data import manifest as manifest_lib
from jssl.data.encode import (
  DamagedFile,
  Kind,
  Options,
  encode,
  join_kinds,
  read_mask,
)
from jssl.data.layout import Layout, Path, file_name
from jssl.data.manifest import Entry, Manifest, Part, Stored
from jssl.runtime import files

_VERSION = tfds.core.Version("1.0.0")
_LOG_SECONDS = 10
# Classes that a summary counts.
_SUMMARY_CLASSES = 20

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


def _image_feature(
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


def _encode_entry(entry: Entry, task: _Task) -> tuple[bytes, Stored]:
  """Returns the record of an image, b"" if it has a problem."""
  options, path = task.options, os.path.join(task.source, entry.path)
  with open(path, "rb") as file:
    data = file.read()
  try:
    image = encode(data, options=options, kind=task.kind)
    example: dict[str, Any] = {"file_name": file_name(entry.path).encode()}
    if entry.label >= 0:
      example["label"] = [entry.label]
    if options.masks:
      mask = (options.masks / entry.path).with_suffix(".png")
      example["mask"] = read_mask(mask, image.size, Path(path))
  except ValueError as error:
    damaged = isinstance(error, DamagedFile)
    return b"", Stored(problem=str(error), damaged=damaged)
  if isinstance(image.data, bytes):
    example["image"] = image.data
  else:
    feature = _image_feature(image.kind, options)
    for name, value in feature.encode_example(image.data).items():
      example[f"image/{name}"] = value
  record = _serialize(example)
  channels, dtype = image.kind
  about = channels, _name(dtype), *image.size, *image[3:]
  return record, Stored(len(record), *about)


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


def _encode_all(
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


class Folder(  # type: ignore[call-arg]
  tfds.core.dataset_builder.FileReaderBuilder, skip_registration=True
):
  """TFDS builder that writes the records of a manifest."""

  VERSION = _VERSION

  def __init__(
    self,
    *,
    name: str,
    manifest: Manifest,
    features: Mapping[str, tfds.features.FeatureConnector],
    data_dir: Path,
  ):
    self.name = name
    self._manifest = manifest
    self._features = features
    super().__init__(data_dir=data_dir)

  def _info(self) -> tfds.core.DatasetInfo:
    return tfds.core.DatasetInfo(
      builder=self,
      description=f"Images of the folder set {self.name}.",
      features=tfds.features.FeaturesDict(dict(self._features)),
      supervised_keys=("image", "label") if "label" in self._features else None,
    )

  def _download_and_prepare(
    self,
    dl_manager: tfds.download.DownloadManager,
    download_config: tfds.download.DownloadConfig,
  ) -> None:
    del dl_manager
    writer = tfds.core.ExampleWriter(self.info.file_format)
    splits = []
    for split, (number, size) in self._manifest.splits().items():
      shards = download_config.get_shard_config().get_number_shards(
        size, number
      )
      ends = shard_utils.get_shard_boundaries(number, shards)
      template = self._get_filename_template(split)
      records = self._manifest.records(split)
      lengths = [b - a for a, b in itertools.pairwise([0, *ends])]
      for i, length in enumerate(lengths):
        path = template.sharded_filepath(shard_index=i, num_shards=shards)
        # The writer ignores keys.
        writer.write(path, ((0, r) for r in itertools.islice(records, length)))
      splits.append(tfds.core.SplitInfo(split, lengths, size, template))
    self.info.set_splits(tfds.core.SplitDict(splits))
    self._manifest.write_passed_over(Path(self.data_dir, "passed_over.jsonl"))


def _check(manifest: Manifest, source: Path, options: Options) -> None:
  """Raises ValueError if images have problems, or a split has none left."""
  if problems := manifest.problems(damage=not options.skip_damaged):
    omit = "" if options.skip_damaged else ", or omit damage: --skip_damaged"
    raise ValueError(
      f"{source}: images that cannot be stored: {len(problems):,}; repair or "
      f"remove them{omit}:\n" + "\n".join(problems)
    )
  for split, (number, _) in manifest.splits().items():
    if not number:
      raise ValueError(
        f"{source}: all images of the split {split} are damaged; expected some "
        "that are not"
      )


def _warn(manifest: Manifest, kinds: set[Kind], options: Options) -> None:
  """Warns of what is lost in the records."""
  images = manifest.num_images()
  if rounded := manifest.num_rounded():
    logging.warning(
      "%d of %d images have more precise values than %s, as which all are "
      "stored; convert the others to store all precisely.",
      rounded,
      images,
      join_kinds(kinds).dtype,
    )
  transparent = manifest.num_transparent()
  if transparent and not options.keep_alpha:
    logging.warning(
      "%d of %d images have transparency, and get the background %s; "
      "--background names another, and --keep_alpha keeps transparency.",
      transparent,
      images,
      options.background,
    )


def _summary(
  manifest: Manifest, layout: Layout, name: str, data_dir: Path
) -> str:
  """Returns counts, files that are passed over, and the next command."""
  splits, counts = manifest.splits(), sorted(manifest.counts().items())
  rows = [
    [own or "(no labels)", *(numbers.get(split, 0) for split in splits)]
    for own, numbers in counts[:_SUMMARY_CLASSES]
  ]
  if more := len(counts) - len(rows):
    rows.append([f"{more:,} more classes"])
  rows.append(["all", *(number for number, _ in splits.values())])
  size = sum(size for _, size in splits.values())
  lines = [tabulate.tabulate(rows, headers=["class", *splits], intfmt=",")]
  lines.append(f"{files.format_bytes(size)} of records.")
  if passed_over := manifest.describe_passed_over():
    lines += ["Passed over, see passed_over.jsonl of the set:", *passed_over]
  lines += filter(None, [layout.describe_links()])
  flags = [f"--config.data.name={name}", f"--config.data.data_dir={data_dir}"]
  command = shlex.join(["jssl", "train", "--config=CONFIG", *flags])
  lines.append(f"Next: {command} --workdir=W")
  return "\n".join(lines)


def prepare_folder(
  source: Path,
  *,
  name: str,
  data_dir: Path,
  labels: Path | None = None,
  unlabelled: bool = False,
  workers: int | None = None,
  options: Options = Options(),
  download_config: tfds.download.DownloadConfig | None = None,
) -> tuple[Path, str]:
  """Writes a folder of images as a TFDS data set.

  A process that is killed leaves what it has encoded in `.NAME-1.0.0.parts` of
  `data_dir`; the next one continues with it. Records and their order do not
  depend on the number of processes.

  Args:
    source: the folder, see `jssl.data.layout`.
    name: name of the set.
    data_dir: folder of data sets.
    labels: CSV file of file names in the source and labels; None if folders are
      classes.
    unlabelled: True for a set without labels, whatever its folders.
    workers: number of processes; None for one per processor.
    options: how images are stored.
    download_config: TFDS's settings, such as the number of files.

  Returns:
    The folder of the set, and a summary.

  Raises:
    FileExistsError: if the set exists.
    OSError: if a file cannot be read or written.
    ValueError: if the folder is no set, or has images that cannot be stored.
  """
  if labels and unlabelled:
    raise ValueError(
      f"--labels={labels} and --unlabelled: expected only one of them"
    )
  target = data_dir / name / str(_VERSION)
  if target.exists():
    raise FileExistsError(
      f"{target} exists; delete it to write it again, or choose another "
      "--data_dir"
    )
  workers = workers or len(os.sched_getaffinity(0))
  layout = Layout(source, by_folder=not (labels or unlabelled))
  # Not in the folder of the set, which may be that of the source.
  with Manifest(data_dir / f".{name}-{_VERSION}.parts") as manifest:
    # Of a process that was killed while it wrote the set.
    for folder in target.parent.glob(f"incomplete.*_{_VERSION}"):
      shutil.rmtree(folder)
    settings = dataclasses.replace(options, skip_damaged=False), PIL.__version__
    manifest.scan(layout, labels=labels, settings=settings)
    kinds = _encode_all(manifest, source, options, workers)
    _check(manifest, source, options)
    _warn(manifest, kinds, options)
    size = None if options.stored_size_px else manifest.image_size()
    features: dict[str, tfds.features.FeatureConnector] = {
      "image": _image_feature(join_kinds(kinds), options, size),
      "file_name": tfds.features.Text(),
    }
    if options.masks:
      features["mask"] = tfds.features.Image(shape=(None, None, 1))
    if manifest.classes:
      features["label"] = tfds.features.ClassLabel(names=manifest.classes)
    Folder(
      name=name, manifest=manifest, features=features, data_dir=data_dir
    ).download_and_prepare(
      file_format="array_record", download_config=download_config
    )
    return target, _summary(manifest, layout, name, data_dir)
