"""Writes a folder of image files as a TFDS data set, without TensorFlow.

See `layout` for its subfolders. The set has one channel if all images are
grayscale, otherwise 3, or 4 if it keeps transparency, or those of --channels.
"""

import dataclasses
import itertools
import os
import shutil
from collections.abc import Mapping

import PIL
import tabulate
import tensorflow_datasets as tfds
from absl import logging
from tensorflow_datasets.core.utils import shard_utils

from jssl.data.encode import (
  Kind,
  Options,
  join_kinds,
)
from jssl.data.layout import Layout, Path
from jssl.data.manifest import Manifest
from jssl.data.parts import encode_all, image_feature

_VERSION = tfds.core.Version("1.0.0")
_PASSED_OVER = "passed_over.jsonl"
# Classes that a summary counts.
_SUMMARY_CLASSES = 20


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
    self._manifest.write_passed_over(Path(self.data_dir, _PASSED_OVER))


def _check(manifest: Manifest, source: Path, options: Options) -> None:
  """Raises ValueError if images have problems, or a split has none left."""
  number, lines = manifest.problems(damage=not options.skip_damaged)
  if number:
    if more := number - len(lines):
      all_lines = manifest.folder / _PASSED_OVER
      manifest.write_passed_over(all_lines)
      lines.append(f"and {more:,} more, see {all_lines}")
    omit = "" if options.skip_damaged else ", or omit damage: --skip_damaged"
    raise ValueError(
      f"{source}: images that cannot be stored: {number:,}; repair or "
      f"remove them{omit}:\n" + "\n".join(lines)
    )
  for split, (number, _) in manifest.splits().items():
    if not number:
      raise ValueError(
        f"{source}: all images of the split {split} are damaged or unreadable; "
        "expected some that are not"
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


def _summary(manifest: Manifest, layout: Layout) -> str:
  """Returns counts of classes, and files that are passed over."""
  splits, counts = manifest.splits(), sorted(manifest.counts().items())
  rows = [
    [own or "(no labels)", *(numbers.get(split, 0) for split in splits)]
    for own, numbers in counts[:_SUMMARY_CLASSES]
  ]
  if more := len(counts) - len(rows):
    rows.append([f"{more:,} more classes"])
  rows.append(["all", *(number for number, _ in splits.values())])
  lines = [tabulate.tabulate(rows, headers=["class", *splits], intfmt=",")]
  if passed_over := manifest.describe_passed_over():
    lines += ["Passed over, see passed_over.jsonl of the set:", *passed_over]
  lines += filter(None, [layout.describe_links()])
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
    manifest.scan(layout, labels=labels, settings=settings, masks=options.masks)
    kinds = encode_all(manifest, source, options, workers)
    _check(manifest, source, options)
    _warn(manifest, kinds, options)
    size = None if options.stored_size_px else manifest.image_size()
    features: dict[str, tfds.features.FeatureConnector] = {
      "image": image_feature(join_kinds(kinds), options, size),
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
    return target, _summary(manifest, layout)
