"""The probe loop: find checkpoints, extract features, fit, write rows.

It meets the training through files only, and needs it neither alive nor here.
Several processes make the features together and keep them once; each then fits
the same probes, and the first writes what it finds.
"""

import os
import pathlib
import time
from collections.abc import Callable, Iterator
from typing import get_args

from jssl import checkpoint
from jssl.config.build import build_objective
from jssl.config.parse import parse, replace, to_dict
from jssl.config.schema import Config
from jssl.probe import encoders, features, splits
from jssl.probe.dataset import Seen, open_set
from jssl.probe.diagnosis import Diagnosis
from jssl.probe.encoders import Encoder, Subject
from jssl.probe.records import Log, Part, Row, summary, table, write_events
from jssl.probe.rows import nothing, of_probes, of_spectrum
from jssl.runtime import distributed
from jssl.runtime.goodput import Clock
from jssl.runtime.workdir import check_workdir_shared, load_config
from jssl.typing import Variables

Tell = Callable[[str], None]

# A row for each time that it was started: where its time went.
CLOCK = "probe_goodput.jsonl"
KINDS = ("wait", "restore", "features", *get_args(Part))
_POLL_SECONDS = 5.0


def _with_dataset(
  config: Config, name: str, data_dir: str, test_split: str
) -> Config:
  """Returns the config with its data set, or where it is, replaced."""
  changes: dict[str, str] = {}
  if name and name != config.data.name:
    changes |= {
      "data.name": name,
      "data.split": "train",
      "data.test_split": test_split or "test",
    }
  elif test_split:
    raise ValueError(
      f"--test_split={test_split} goes with a --dataset other than that of "
      f"the run, {config.data.name}; its own is data.test_split"
    )
  if data_dir:
    changes["data.data_dir"] = data_dir
  return replace(config, changes)


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
    there = distributed.broadcast_from_first(checkpoint.steps(workdir))
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
  while not distributed.broadcast_from_first(config.exists()):
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
  errors = [
    failure for failure in distributed.all_gather_text(error) if failure
  ]
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
    ValueError: the config is wrong; or the set has no labels, or not of every
      image, or too few of a class, and nothing but probes is asked for.
    CheckpointError: no checkpoint could be read.
  """
  if not distributed.is_first():
    tell = _say_nothing
  clock = Clock(pathlib.Path(workdir) / CLOCK, KINDS)
  if follow:
    with clock.on("wait"):
      _wait_for_run(workdir, tell)
  elif not distributed.broadcast_from_first(checkpoint.steps(workdir)):
    load_config(workdir)  # It says what a workdir must be.
    raise FileNotFoundError(
      f"{workdir} has no finished checkpoint; wait for one with --follow"
    )
  check_workdir_shared(workdir)
  own = parse(load_config(workdir), Config)
  config = _with_dataset(own, dataset, data_dir, test_split)
  settings = config.probe
  judge = open_set(workdir, config, settings, without_labels=diagnostics)
  crop_size_px = config.augment.crop_size_px
  encoder = Encoder(
    config.model.backbone(),
    crop_size_px=crop_size_px,
    channels=judge.sources[0].image_shape[-1],
    mesh=judge.everywhere,
    key=str((to_dict(config)["model"], crop_size_px)),
  )
  log = Log(workdir)
  makers: dict[Part, Callable[[Seen], list[Row]]] = {
    "spectrum": lambda seen: of_spectrum(seen, judge)
  }

  def probe_rows(seen: Seen) -> list[Row]:
    try:
      return of_probes(seen, judge, settings)
    except splits.LabelsError as error:
      if not diagnostics:
        raise
      return [nothing("probe", seen.subject, judge, str(error))]

  # What their rows must say to count; rows of the others always do.
  made_with: dict[Part, Row] = {}
  if judge.has_labels:
    makers["probe"] = probe_rows
  if diagnostics:
    diagnosis = Diagnosis(
      judge,
      config.model.backbone(),
      build_objective(config),
      config.augment,
      settings,
      config.seed,
    )
    made_with["diagnostics"] = diagnosis.settings
    makers["diagnostics"] = lambda seen: diagnosis.rows(seen, workdir)

  # With `overwrite` each is done once more, and not after every checkpoint.
  redone: set[tuple[str, int]] = set()

  def pending(kind: str, step: int) -> list[Part]:
    about = kind, step, judge.name
    again = overwrite and (kind, step) not in redone
    return distributed.broadcast_from_first(
      [
        part
        for part in makers
        if again or about not in log.done(part, made_with.get(part))
      ]
    )

  def put(part: Part, name: str, rows: list[Row]) -> None:
    if distributed.is_first():
      log.put(part, rows)
      write_events(workdir, rows)
      if judge.name == own.data.name:
        _pin(workdir, rows)
    tell(f"{name} on {judge.name}: {summary(rows)}")

  def examine(subject: Subject, parts: list[Part]) -> None:
    try:
      with clock.on("features"):
        seen = judge.look(subject)
    except features.NotFiniteError as error:
      # Of this one: others may be fine.
      for part in parts:
        why = str(error)
        put(part, subject.name, [nothing(part, subject, judge, why)])
      return
    for part in parts:
      with clock.on(part):
        rows = makers[part](seen)
      put(part, subject.name, rows)
    if "diagnostics" in parts and "diagnostics" in pending("views", 0):
      with clock.on("diagnostics"):
        rows = [diagnosis.concentration(seen)]
      put("diagnostics", "views", rows)
      redone.add(("views", 0))
    clock.write()

  with clock.running():
    # Pixels have no views, and no probe without labels.
    parts: list[Part] = [p for p in pending("pixels", 0) if p != "diagnostics"]
    if "pixels" in settings.baselines and judge.has_labels and parts:
      with clock.on("features"):
        pixels = encoders.pixels(
          judge.sources[0],
          crop_size_px=crop_size_px,
          max_dim=settings.pixel_dims,
        )
      examine(pixels, parts)
    if "random" in settings.baselines and (parts := pending("random", 0)):
      examine(encoder.random(config.seed), parts)
    last_step = config.train.steps
    there = new_steps(workdir, follow=follow, last_step=last_step)
    for step in clock.each("wait", there):
      parts = pending("backbone", step)
      if not parts:
        continue
      with clock.on("restore"):
        subject = _restore(workdir, step, encoder, tell)
      if subject is not None:
        examine(subject, parts)
        if distributed.is_first():
          features.forget_all_but(workdir, checkpoint.steps(workdir))
  judged = (
    (kind, dataset) == ("backbone", judge.name)
    for part in makers
    for kind, _, dataset in log.done(part)
  )
  if not distributed.broadcast_from_first(any(judged)):
    raise checkpoint.CheckpointError(f"{workdir}: no checkpoint can be read")
  if judge.has_labels and distributed.is_first():
    tell(table(log.rows(), judge.name))
  if export:
    step = checkpoint.steps(workdir)[-1]
    subject = encoder.checkpoint(
      step, checkpoint.restore_backbone(workdir, step)
    )
    train, test = judge.features(subject)
    if distributed.is_first():
      features.export(export, train, test)
    tell(f"wrote the features of step {step} to {export}")
