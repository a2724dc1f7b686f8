"""The probe loop: find checkpoints, extract features, fit, write rows.

It meets the training through files only, and needs it neither alive nor here.
"""

import dataclasses
import json
import os
import pathlib
import time
from collections.abc import Callable, Iterator
from typing import Any

from jax.sharding import Mesh
from ml_collections import ConfigDict

from jssl import build, checkpoint
from jssl import mesh as mesh_lib
from jssl.augment import Augment
from jssl.data.sources import Source
from jssl.diagnostics import spectrum
from jssl.probe import features, selection, subjects, suite
from jssl.probe.features import Features
from jssl.probe.settings import Probe
from jssl.probe.subjects import Encoder, Subject
from jssl.probe.table import Row, table, write_events

Tell = Callable[[str], None]


@dataclasses.dataclass(frozen=True)
class Dataset:
  """A labelled set that runs are judged on, and where its features are kept.

  Attributes:
    name: of the set.
    splits: what to fit on, and what to test on.
    sources: the same, opened.
    keys: a checksum of each.
    workdir: of the run.
    batch_size: images of a batch of the extraction.
    mesh: of all devices of this machine, whatever the run was trained on.
  """

  name: str
  splits: tuple[str, str]
  sources: tuple[Source, Source]
  keys: tuple[str, str]
  workdir: str | os.PathLike
  batch_size: int
  mesh: Mesh

  def features(self, subject: Subject) -> tuple[Features, Features]:
    """Returns the features of train and test, kept or made now."""
    train, test = (
      features.extract(
        features.path(
          self.workdir,
          dataset=self.name,
          split=split,
          name=subject.name,
          key=features.digest(subject.key, key),
        ),
        subject.encode,
        source,
        batch_size=self.batch_size,
        mesh=self.mesh,
      )
      for split, source, key in zip(
        self.splits, self.sources, self.keys, strict=True
      )
    )
    selection.check_labels(train, test, self.name)
    return train, test


def _open(
  workdir: str | os.PathLike, config: ConfigDict, settings: Probe
) -> Dataset:
  """Opens the set of a config; what has no labels is refused at once."""
  data = build.section(config, "data", build.Data)
  splits = (data.split, data.test_split)
  train, test = (build.source(config, split) for split in splits)
  for split, source in zip(splits, (train, test), strict=True):
    selection.check_labelled(data.name, split, source.num_classes)
  return Dataset(
    name=data.name,
    splits=splits,
    sources=(train, test),
    keys=(features.source_digest(train), features.source_digest(test)),
    workdir=workdir,
    batch_size=settings.batch_size,
    mesh=mesh_lib.make_mesh(-1, 1),
  )


def _with_dataset(config: ConfigDict, name: str, data_dir: str) -> ConfigDict:
  """Returns the config with its data set, or where it is, replaced."""
  changed = config.copy_and_resolve_references()
  with changed.unlocked():
    if name and name != changed.data.name:
      changed.data.update({"name": name, "split": "train", "test_split": "test"})
    if data_dir:
      changed.data.data_dir = data_dir
  return changed


def _rows_of(subject: Subject, dataset: Dataset, settings: Probe) -> list[Row]:
  """Extracts, fits, and returns the rows of `probe.jsonl`."""
  train, test = dataset.features(subject)
  about = {
    "step": subject.step,
    "dataset": dataset.name,
    "features": subject.kind,
  }
  values = spectrum.singular_values(train.h)
  rows: list[Row] = [
    {
      **about,
      "measure": "spectrum",
      "singular_values": values.tolist(),
      "collapse_auc": spectrum.collapse_auc(values),
    }
  ]
  started = time.perf_counter()
  for probe, share, result in suite.fit_all(
    settings, train, test, dataset.mesh
  ):
    rows.append({
      **about,
      "probe": probe,
      "label_fraction": share,
      "test_accuracy": float(result.test_accuracy.mean()),
      "test_accuracy_std": float(result.test_accuracy.std()),
      "validation_accuracy": float(result.validation_accuracy.mean()),
      "seeds": settings.seeds,
      "chosen": result.chosen,
      "seconds": time.perf_counter() - started,
      "time": time.time(),
    })
    started = time.perf_counter()
  return rows


class Log:
  """`probe.jsonl`: rows are added once all of their subject are there."""

  def __init__(self, workdir: str | os.PathLike):
    """Reads the rows that are there."""
    self._path = pathlib.Path(workdir) / "probe.jsonl"
    self.rows: list[Row] = []
    if self._path.exists():
      self.rows = [
        json.loads(line) for line in self._path.read_text().splitlines()
      ]

  def has(self, kind: str, step: int, dataset: str) -> bool:
    """Whether there are rows of these features on this set."""
    return any(_about(row) == (kind, step, dataset) for row in self.rows)

  def put(self, rows: list[Row]) -> None:
    """Adds the rows of one subject, instead of any that it had."""
    about = _about(rows[0])
    self.rows = [row for row in self.rows if _about(row) != about] + rows
    temporary = self._path.with_name("probe.jsonl.tmp")
    temporary.write_text("".join(json.dumps(row) + "\n" for row in self.rows))
    temporary.replace(self._path)


def _about(row: Row) -> tuple[str, int, str]:
  return row["features"], row["step"], row["dataset"]


def new_steps(
  workdir: str | os.PathLike,
  *,
  follow: bool,
  last_step: int,
  poll_seconds: float,
) -> Iterator[int]:
  """Yields each checkpoint once, the oldest first: it may soon be deleted.

  Args:
    workdir: of the run.
    follow: go on until `last_step` was there.
    last_step: of the run.
    poll_seconds: how often to look.
  """
  seen: set[int] = set()
  while True:
    fresh = [s for s in checkpoint.steps(workdir) if s not in seen]
    if fresh:
      seen.add(fresh[0])
      yield fresh[0]
    elif not follow or last_step in seen:
      return
    else:
      time.sleep(poll_seconds)


def _wait_for_config(workdir: str | os.PathLike, tell: Tell) -> None:
  if not (pathlib.Path(workdir) / "config.json").exists():
    tell(f"waiting for a run in {workdir}")
  while not (pathlib.Path(workdir) / "config.json").exists():
    time.sleep(1)


def run(
  workdir: str | os.PathLike,
  *,
  follow: bool = False,
  dataset: str = "",
  data_dir: str = "",
  export: str = "",
  overwrite: bool = False,
  tell: Tell = print,
) -> None:
  """Probes the checkpoints of a run that were not probed yet.

  Args:
    workdir: of the run.
    follow: wait for new checkpoints until the last step of the run.
    dataset: another prepared set than that of the run.
    data_dir: where prepared sets are, if elsewhere than the run had them.
    export: an .npz to write with the features of the last checkpoint.
    overwrite: probe again what was probed before.
    tell: is called with each line that is for the user.

  Raises:
    FileNotFoundError: there is no run, no checkpoint or no data set.
    ValueError: the set has no labels, or too few of a class; or the config is
      wrong.
    CheckpointError: no checkpoint could be read.
  """
  if follow:
    _wait_for_config(workdir, tell)
  config = _with_dataset(build.load_config(workdir), dataset, data_dir)
  settings = build.section(config, "probe", Probe)
  if not follow and not checkpoint.steps(workdir):
    raise FileNotFoundError(
      f"{workdir} has no finished checkpoint; wait for one with --follow"
    )
  judge = _open(workdir, config, settings)
  crop_size_px = build.section(config, "augment", Augment).crop_size_px
  key = features.digest(str((config.model, crop_size_px)))
  encoder = Encoder(
    build.backbone(config),
    crop_size_px=crop_size_px,
    channels=judge.sources[0].image_shape[-1],
    mesh=judge.mesh,
    key=key,
  )
  log = Log(workdir)

  def probe(subject: Subject) -> None:
    started = time.perf_counter()
    rows = _rows_of(subject, judge, settings)
    log.put(rows)
    write_events(workdir, rows)
    tell(_line(subject, rows, time.perf_counter() - started))

  def pending(kind: str, step: int) -> bool:
    return overwrite or not log.has(kind, step, judge.name)

  if "pixels" in settings.baselines and pending("pixels", 0):
    probe(
      subjects.pixels(
        judge.sources[0],
        crop_size_px=crop_size_px,
        max_dim=settings.pixel_dims,
        key=key,
      )
    )
  if "random" in settings.baselines and pending("random", 0):
    probe(encoder.random(config.get("seed", 0)))
  last: Subject | None = None
  failure: checkpoint.CheckpointError | None = None
  for step in new_steps(
    workdir,
    follow=follow,
    last_step=config.train.steps,
    poll_seconds=settings.poll_seconds,
  ):
    if not pending("backbone", step) and not export:
      continue
    try:
      variables = checkpoint.restore_backbone(workdir, step)
    except checkpoint.CheckpointError as error:
      if step in checkpoint.steps(workdir):
        failure = error
        tell(f"skipped a damaged checkpoint: {error}")
      else:
        tell(f"skipped step {step}: deleted before it was probed")
      continue
    last = encoder.checkpoint(step, variables)
    if pending("backbone", step):
      probe(last)
      pin(...)
  if last is None and failure is not None:
    raise failure
  if export:
    features.export(export, *judge.features(last))
  tell(table(log.rows, judge.name))
