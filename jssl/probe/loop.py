"""The probe loop: find checkpoints, extract features, fit, write rows.

It meets the training through files only, and needs it neither alive nor here.
"""

import dataclasses
import os
import pathlib
import time
from collections.abc import Callable, Iterator

from jax.sharding import Mesh
from ml_collections import ConfigDict

from jssl import build, checkpoint, sections
from jssl import mesh as mesh_lib
from jssl.augment import Augment
from jssl.data.sources import Source
from jssl.diagnostics import spectrum
from jssl.probe import features, selection, subjects, suite
from jssl.probe.features import Features
from jssl.probe.results import Log, Row, summary, table, write_events
from jssl.probe.subjects import Encoder, Subject
from jssl.sections import Probe

Tell = Callable[[str], None]

_POLL_SECONDS = 5.0


@dataclasses.dataclass(frozen=True)
class LabelledSet:
  """A labelled set that runs are judged on, and where its features are kept.

  Attributes:
    name: of the set.
    splits: what to fit on, and what to test on.
    sources: the same, opened.
    keys: a checksum of each.
    workdir: of the run.
    batch_size: images of a batch of the extraction.
    workers: processes that decode them.
    mesh: of all devices of this machine, whatever the run was trained on.
  """

  name: str
  splits: tuple[str, str]
  sources: tuple[Source, Source]
  keys: tuple[str, str]
  workdir: str | os.PathLike
  batch_size: int
  workers: int
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
        workers=self.workers,
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
) -> LabelledSet:
  """Opens the set of a config.

  Raises:
    ValueError: it has no labels.
  """
  data = build.section(config, "data", sections.Data)
  splits = (data.split, data.test_split)
  train, test = (build.source(config, split) for split in splits)
  if not train.num_classes:
    raise ValueError(
      f"{data.name} has no labels; a probe needs some: choose another set "
      "with --dataset"
    )
  return LabelledSet(
    name=data.name,
    splits=splits,
    sources=(train, test),
    keys=(features.source_digest(train), features.source_digest(test)),
    workdir=workdir,
    batch_size=settings.batch_size,
    workers=data.workers,
    mesh=mesh_lib.make_mesh(-1, 1),
  )


def _with_dataset(
  config: ConfigDict, name: str, data_dir: str, test_split: str
) -> ConfigDict:
  """Returns the config with its data set, or where it is, replaced."""
  changed = config.copy_and_resolve_references()
  with changed.unlocked():
    if name and name != changed.data.name:
      changed.data.update(
        {
          "name": name,
          "split": "train",
          "test_split": test_split or "test",
        }
      )
    elif test_split:
      raise ValueError(
        f"--test_split={test_split} goes with a --dataset other than that of "
        f"the run, {changed.data.name}; its own is data.test_split"
      )
    if data_dir:
      changed.data.data_dir = data_dir
  return changed


def _rows_of(
  subject: Subject, judge: LabelledSet, settings: Probe
) -> list[Row]:
  """Extracts, fits, and returns the rows of `probe.jsonl`."""
  train, test = judge.features(subject)
  about = {
    "step": subject.step,
    "dataset": judge.name,
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
  for probe, share, result in suite.fit_all(settings, train, test, judge.mesh):
    rows.append(
      {
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
      }
    )
    started = time.perf_counter()
  return rows


def new_steps(
  workdir: str | os.PathLike,
  *,
  follow: bool,
  last_step: int,
  poll_seconds: float = _POLL_SECONDS,
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


def _wait_for_run(workdir: str | os.PathLike, tell: Tell) -> None:
  config = pathlib.Path(workdir) / "config.json"
  if not config.exists():
    tell(f"waiting for {config}, which a training writes when it starts")
  while not config.exists():
    time.sleep(_POLL_SECONDS)


def _restore(
  workdir: str | os.PathLike, step: int, encoder: Encoder, tell: Tell
) -> Subject | None:
  """Returns a checkpoint's backbone; None, having told it, if it can't."""
  try:
    variables = checkpoint.restore_backbone(workdir, step)
  except checkpoint.CheckpointError as error:
    if step in checkpoint.steps(workdir):
      tell(f"skipped a damaged checkpoint: {error}")
    else:
      tell(f"skipped step {step}: it was deleted before it was probed")
    return None
  return encoder.checkpoint(step, variables)


def _pin(workdir: str | os.PathLike, rows: list[Row]) -> None:
  """Pins the checkpoint by its linear probe, as validated within train."""
  for row in rows:
    if row.get("probe") == "linear" and row["label_fraction"] == 1:
      checkpoint.pin_best(
        workdir, step=row["step"], score=row["validation_accuracy"]
      )


def run(
  workdir: str | os.PathLike,
  *,
  follow: bool = False,
  dataset: str = "",
  data_dir: str = "",
  test_split: str = "",
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
    test_split: what to test on in `dataset`, if not `test`.
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
    _wait_for_run(workdir, tell)
  elif not checkpoint.steps(workdir):
    build.load_config(workdir)  # It says what a workdir must be.
    raise FileNotFoundError(
      f"{workdir} has no finished checkpoint; wait for one with --follow"
    )
  own = build.load_config(workdir)
  config = _with_dataset(own, dataset, data_dir, test_split)
  settings = build.section(config, "probe", Probe)
  judge = _open(workdir, config, settings)
  crop_size_px = build.section(config, "augment", Augment).crop_size_px
  encoder = Encoder(
    build.backbone(config),
    crop_size_px=crop_size_px,
    channels=judge.sources[0].image_shape[-1],
    mesh=judge.mesh,
    key=str((config.model.to_json(sort_keys=True), crop_size_px)),
  )
  log = Log(workdir)

  def pending(kind: str, step: int) -> bool:
    return overwrite or (kind, step, judge.name) not in log.done()

  def probe(subject: Subject) -> list[Row]:
    rows = _rows_of(subject, judge, settings)
    log.put(rows)
    write_events(workdir, rows)
    tell(f"{subject.name} on {judge.name}: {summary(rows)}")
    return rows

  if "pixels" in settings.baselines and pending("pixels", 0):
    probe(
      subjects.pixels(
        judge.sources[0],
        crop_size_px=crop_size_px,
        max_dim=settings.pixel_dims,
      )
    )
  if "random" in settings.baselines and pending("random", 0):
    probe(encoder.random(config.get("seed", 0)))
  for step in new_steps(workdir, follow=follow, last_step=config.train.steps):
    if not pending("backbone", step):
      continue
    subject = _restore(workdir, step, encoder, tell)
    if subject is not None:
      rows = probe(subject)
      if judge.name == own.data.name:
        _pin(workdir, rows)
      features.forget_all_but(workdir, checkpoint.steps(workdir))
  if not any(k == "backbone" and d == judge.name for k, _, d in log.done()):
    raise checkpoint.CheckpointError(f"{workdir}: no checkpoint can be read")
  tell(table(log.rows(), judge.name))
  if export:
    step = checkpoint.steps(workdir)[-1]
    subject = encoder.checkpoint(
      step, checkpoint.restore_backbone(workdir, step)
    )
    features.export(export, *judge.features(subject))
    tell(f"wrote the features of step {step} to {export}")
