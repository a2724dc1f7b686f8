"""The probe loop: find checkpoints, extract features, fit, write rows.

It meets the training through files only, and needs it neither alive nor here.
Several processes make the features together and keep them once; each then fits
the same probes, and the first writes what it finds.
"""

import os
import pathlib
import time
from collections.abc import Callable, Iterator

from ml_collections import ConfigDict

from jssl import build, checkpoint, hosts
from jssl.augment import Augment
from jssl.diagnostics import spectrum
from jssl.probe import features, subjects, suite
from jssl.probe.diagnosis import Diagnosis
from jssl.probe.features import Features
from jssl.probe.judge import JudgedSet, open_set
from jssl.probe.results import Log, Part, Row, summary, table, write_events
from jssl.probe.subjects import Encoder, Subject
from jssl.sections import Probe
from jssl.typing import Variables

Tell = Callable[[str], None]

_POLL_SECONDS = 5.0


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


def _spectrum(train: Features, judge: JudgedSet) -> Row:
  try:
    values = spectrum.singular_values(train.h, mesh=judge.mesh)
  except ValueError as error:  # Too few images; a probe is possible still.
    return {"not_measured": str(error)}
  return {
    "singular_values": values.tolist(),
    "collapse_auc": spectrum.collapse_auc(values),
  }


def _rows_of(subject: Subject, judge: JudgedSet, settings: Probe) -> list[Row]:
  """Extracts, fits, and returns the rows of `probe.jsonl`."""
  train, test = judge.features(subject)
  about = {
    "step": subject.step,
    "dataset": judge.name,
    "features": subject.kind,
  }
  rows: list[Row] = [
    {**about, "measure": "spectrum", **_spectrum(train, judge)}
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
    there = hosts.first_says(checkpoint.steps(workdir))
    fresh = [step for step in there if step not in seen]
    if fresh:
      seen.add(fresh[0])
      yield fresh[0]
    elif not follow or last_step in seen:
      return
    else:
      time.sleep(poll_seconds)


def _say_nothing(line: str) -> None:
  """Is told what the first process says."""
  del line


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
  variables: Variables = {}
  error = ""
  try:
    variables = checkpoint.restore_backbone(workdir, step)
  except checkpoint.CheckpointError as failure:
    error = str(failure)
  # What one process couldn't read none of them probes.
  errors = [failure for failure in hosts.texts_of_all(error) if failure]
  if errors and step in checkpoint.steps(workdir):
    tell(f"skipped a damaged checkpoint: {errors[0]}")
  elif errors:
    tell(f"skipped step {step}: it was deleted before it was probed")
  return None if errors else encoder.checkpoint(step, variables)


def _pin(workdir: str | os.PathLike, rows: list[Row]) -> None:
  """Pins the checkpoint by its linear probe, as validated within train."""
  for row in rows:
    linear = row.get("probe") == "linear" and row["label_fraction"] == 1
    if linear and row["features"] == "backbone":
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
  diagnostics: bool = False,
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
    diagnostics: measure what features are like too, also of checkpoints that
      were only probed before.
    tell: is called with each line that is for the user.

  Raises:
    FileNotFoundError: there is no run, no checkpoint or no data set.
    ValueError: the set has no labels, or too few of a class; or the config is
      wrong.
    CheckpointError: no checkpoint could be read.
  """
  if not hosts.is_first():
    tell = _say_nothing
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
  judge = open_set(workdir, config, settings, without_labels=diagnostics)
  crop_size_px = build.section(config, "augment", Augment).crop_size_px
  encoder = Encoder(
    build.backbone(config),
    crop_size_px=crop_size_px,
    channels=judge.sources[0].image_shape[-1],
    mesh=judge.everywhere,
    key=str((config.model.to_json(sort_keys=True), crop_size_px)),
  )
  log = Log(workdir)
  makers: dict[Part, Callable[[Subject], list[Row]]] = {}
  if judge.has_labels:
    makers["probe"] = lambda subject: _rows_of(subject, judge, settings)
  if diagnostics:
    diagnosis = Diagnosis(
      judge,
      build.backbone(config),
      build.objective(config, config.train.steps),
      build.section(config, "augment", Augment),
      settings,
      config.get("seed", 0),
    )
    makers["diagnostics"] = lambda subject: diagnosis.rows(subject, workdir)

  # With `overwrite` each is done once more, and not after every checkpoint.
  redone: set[tuple[str, int]] = set()

  def pending(kind: str, step: int) -> list[Part]:
    about = kind, step, judge.name
    again = overwrite and (kind, step) not in redone
    return hosts.first_says(
      [part for part in makers if again or about not in log.done(part)]
    )

  def put(part: Part, name: str, rows: list[Row]) -> None:
    if hosts.is_first():
      log.put(part, rows)
      write_events(workdir, rows)
      if judge.name == own.data.name:
        _pin(workdir, rows)
    tell(f"{name} on {judge.name}: {summary(rows)}")

  def examine(subject: Subject) -> None:
    for part in pending(subject.kind, subject.step):
      rows = makers[part](subject)
      put(part, subject.name, rows)
    if "diagnostics" in pending("views", 0):
      put("diagnostics", "views", [diagnosis.concentration(subject)])
      redone.add(("views", 0))

  if "pixels" in settings.baselines and "probe" in pending("pixels", 0):
    pixels = subjects.pixels(
      judge.sources[0],
      crop_size_px=crop_size_px,
      max_dim=settings.pixel_dims,
    )
    put("probe", pixels.name, makers["probe"](pixels))
  if "random" in settings.baselines and pending("random", 0):
    examine(encoder.random(config.get("seed", 0)))
  for step in new_steps(workdir, follow=follow, last_step=config.train.steps):
    if not pending("backbone", step):
      continue
    subject = _restore(workdir, step, encoder, tell)
    if subject is not None:
      examine(subject)
      if hosts.is_first():
        features.forget_all_but(workdir, checkpoint.steps(workdir))
  judged = (
    (kind, dataset) == ("backbone", judge.name)
    for part in makers
    for kind, _, dataset in log.done(part)
  )
  if not hosts.first_says(any(judged)):
    raise checkpoint.CheckpointError(f"{workdir}: no checkpoint can be read")
  if judge.has_labels and hosts.is_first():
    tell(table(log.rows(), judge.name))
  if export:
    step = checkpoint.steps(workdir)[-1]
    subject = encoder.checkpoint(
      step, checkpoint.restore_backbone(workdir, step)
    )
    train, test = judge.features(subject)
    if hosts.is_first():
      features.export(export, train, test)
    tell(f"wrote the features of step {step} to {export}")
