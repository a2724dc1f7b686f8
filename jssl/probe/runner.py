"""Probes the checkpoints of a run: extract features, fit, write records.

With several processes all extract features together, each fits the same probes,
and the first one writes the records.
"""

import contextlib
import os
import time
from collections.abc import Callable, Iterator, Sequence

from jssl import checkpoint
from jssl.config import checks, command_line
from jssl.config.build import (
  build_backbone,
  read_config,
)
from jssl.config.parse import to_dict
from jssl.config.schema import Config
from jssl.probe import encoders, features, selection
from jssl.probe.accuracy import tables
from jssl.probe.dataset import FeatureSet, ProbeDataset, change_dataset
from jssl.probe.dense import dense_records
from jssl.probe.diagnosis import Diagnosis
from jssl.probe.encoders import BackboneEncoders, Encoder
from jssl.probe.heads import Heads
from jssl.probe.plan import Plan
from jssl.probe.record_file import RecordFile, write_events
from jssl.probe.records import (
  PARTS,
  NotMeasuredRecord,
  Part,
  Record,
)
from jssl.probe.robustness import robustness_records
from jssl.probe.splits import LabelsError
from jssl.probe.suite import (
  classifier_record,
  probe_records,
  spectrum_record,
  vectors,
)
from jssl.runtime import compilation, distributed
from jssl.runtime.goodput import Clock
from jssl.runtime.paths import as_path
from jssl.runtime.workdir import check_workdir_shared, lock
from jssl.typing import Variables

# One row per start of the probe: how it spent its time.
GOODPUT = "probe_goodput.jsonl"
# These parts count as "probe".
_KINDS = {part: part for part in PARTS} | {
  "dense": "probe",
  "robustness": "probe",
}
GOODPUT_KINDS = ("wait", "restore", "features", *dict.fromkeys(_KINDS.values()))
_POLL_SECONDS = 5.0
# Longer than the deletion of a checkpoint takes.
_DELETION_SECONDS = 2.0


def _new_steps(
  workdir: str | os.PathLike, *, follow: bool, last_step: int
) -> Iterator[int]:
  """Yields each checkpoint once, the oldest first: it is the next deleted."""
  done: set[int] = set()
  while True:
    steps = distributed.broadcast_from_first(checkpoint.steps(workdir))
    new = [step for step in steps if step not in done]
    if new:
      done.add(new[0])
      yield new[0]
    elif not follow or last_step in done:
      return
    else:
      time.sleep(_POLL_SECONDS)


class Runner:
  """Adds the missing records of baselines and checkpoints; see `run`."""

  def __init__(
    self,
    workdir: str | os.PathLike,
    config: Config,
    clock: Clock,
    *,
    overwrite: bool,
    diagnostics: bool,
    own_data: bool,
    log: Callable[[str], None],
    channels: int | None = None,
  ):
    """Opens the data set; `channels` are those of the backbone, if others.

    With `own_data`, the set is the run's: the best checkpoint is pinned, and
    the classifier of a supervised run is evaluated.
    """
    self._workdir, self._config, self._clock = workdir, config, clock
    self._own_data, self._log = own_data, log
    self._settings = config.probe
    self._backbone = build_backbone(config)
    self._records = RecordFile(workdir)
    self._dataset = ProbeDataset(workdir, config)
    self._plan = Plan(
      config,
      self._dataset,
      self._records,
      own_data=own_data,
      diagnostics=diagnostics,
      overwrite=overwrite,
      log=log,
    )
    self._evaluated = self._plan.evaluated
    size = config.augment.crop_size_px
    of_images = self._dataset.train.image_shape[-1]
    if channels and of_images not in (1, channels):
      raise ValueError(
        f"{config.data.name} has images of {of_images} channels: expected 1 or "
        f"{channels}, as the weights have; choose another set with --dataset"
      )
    image_shape = (size, size, channels or of_images)
    checks.check_probe_features(config, self._backbone)
    self._encoders = BackboneEncoders(
      self._backbone,
      image_shape,
      mesh=self._dataset.global_mesh,
      key=str((to_dict(config)["model"], size)),
      blocks=encoders.last_blocks(config),
    )
    self._diagnosis: Diagnosis | None = None  # Made with the first features.
    self._classifier: Heads | None = None
    if own_data and "classifier" in config.objective.heads:
      classes = self._dataset.train.num_classes
      spec = self._backbone.spec(image_shape, classes)
      self._classifier = Heads(config.objective, spec)

  def run(self, *, follow: bool) -> None:
    """Probes the baselines, then the checkpoints."""
    self._pin(self._records.read())
    self._probe_baselines()
    steps = _new_steps(
      self._workdir, follow=follow, last_step=self._config.train.steps
    )
    for step in self._clock.each("wait", steps):
      parts = self._plan.missing("backbone", step)
      of_student = self._plan.missing("student", step)
      if not parts and not of_student:
        continue
      with self._clock.on("restore"):
        encoder = self._restore(step)
      if encoder is not None:
        self._probe(encoder, parts)
        if encoder.student is not None:
          self._probe(encoder.student, of_student)
        if distributed.is_first():
          features.forget_all_but(
            self._workdir, checkpoint.steps(self._workdir)
          )
    probed = any(
      (record.features, record.dataset) == ("backbone", self._dataset.name)
      for record in self._records.read()
    )
    if not distributed.broadcast_from_first(probed):
      raise checkpoint.CheckpointError(
        f"no checkpoint of {self._workdir} can be read"
      )
    self._log_tables()

  def run_on(self, name: str, restore: Callable[[], Variables]) -> None:
    """Probes the baselines, then the backbone with variables from elsewhere.

    `name` is that of the features in records.
    """
    self._probe_baselines()
    parts = self._plan.missing(name, 0)
    if parts:
      with self._clock.on("restore"):
        variables = restore()
      self._probe(self._encoders.published(name, variables), parts)
    else:
      self._log(
        f"{name} on {self._dataset.name} has records: replace them with "
        "--overwrite, or choose another --name"
      )
    self._log_tables()

  def _log_tables(self) -> None:
    if distributed.is_first():
      for table in tables(self._records.read(), self._dataset.name):
        self._log(str(table))

  def export(self, path: str | os.PathLike) -> None:
    """Writes features and labels of the last checkpoint to an `.npz` file."""
    step = checkpoint.steps(self._workdir)[-1]
    variables = encoders.restore(
      self._workdir, step, teacher=self._evaluated == "teacher"
    )
    found = self._dataset.extract(self._encoders.checkpoint(step, *variables))
    found = found.selected(self._settings)
    if distributed.is_first():
      features.export(path, found.train, found.test, self._evaluated)
    self._log(
      f"Wrote features of the {self._evaluated} of step {step} to {path}."
    )

  def _probe_baselines(self) -> None:
    wanted = self._settings.baselines
    parts = self._plan.missing("pixels", 0)
    if "pixels" in wanted and parts:
      with self._clock.on("features"):
        pixels = encoders.pixels(
          self._dataset.train,
          crop_size_px=self._config.augment.crop_size_px,
          max_dim=self._settings.pixel_dims,
          grid=self._encoders.grid,
        )
      self._probe(pixels, parts)
    parts = self._plan.missing("random", 0)
    if "random" in wanted and parts:
      self._probe(self._encoders.random(self._config.seed), parts)

  def _restore(self, step: int) -> Encoder | None:
    """Returns a checkpoint's backbone; None, with a log line, on failure."""
    variables: tuple[Variables, ...] = ()
    error = ""
    try:
      variables = encoders.restore(
        self._workdir, step, teacher=self._evaluated == "teacher"
      )
    except (checkpoint.CheckpointError, OSError) as failure:
      error = str(failure)
    # All processes skip what one of them cannot read.
    errors = [e for e in distributed.all_gather_text(error) if e]
    if not errors:
      return self._encoders.checkpoint(step, *variables)
    # A training in progress may be deleting it: let it finish.
    time.sleep(_DELETION_SECONDS)
    if step in checkpoint.steps(self._workdir):
      self._log(f"Skipped a damaged checkpoint: {errors[0]}")
    else:
      self._log(f"Skipped step {step}: deleted before it was probed.")
    return None

  def _probe(self, encoder: Encoder, parts: Sequence[Part]) -> None:
    """Measures parts of one encoder and writes their records."""
    if not parts:
      return
    images = len(self._dataset.train) + len(self._dataset.test)
    self._log(
      f"Measuring {', '.join(parts)} of {encoder.name} on {self._dataset.name} "
      f"({images:,} images)."
    )
    try:
      with self._clock.on("features"):
        found = self._dataset.extract(encoder)
    except features.NotFiniteError as error:
      # Other checkpoints may be finite.
      for part in parts:
        self._write([self._not_measured(part, encoder, error)], encoder.name)
      return
    for part in parts:
      with self._clock.on(_KINDS[part]):
        records = self._measure(part, found)
      self._write(records, encoder.name)
    self._clock.write()

  def _measure(self, part: Part, found: FeatureSet) -> Sequence[Record]:
    name = self._dataset.name
    try:
      if part == "diagnostics":
        return self._diagnose(found.pooled)
      if part == "probe":
        fitted = probe_records(
          self._settings, found, name, self._dataset.train.class_names
        )
        return [*fitted, *self._classify(found.pooled)]
      if part == "robustness":
        return robustness_records(
          self._settings,
          found,
          self._dataset,
          crop_size_px=self._config.augment.crop_size_px,
        )
      if part == "dense":
        return dense_records(
          self._settings,
          found.encoder,
          self._dataset,
          crop_size_px=self._config.augment.crop_size_px,
        )
      return [spectrum_record(found.pooled, name)]
    except ValueError as error:
      # Too few images for a spectrum, or for probes beside the diagnostics.
      if part != "spectrum" and not (
        isinstance(error, LabelsError) and "diagnostics" in self._plan.parts
      ):
        raise
      return [self._not_measured(part, found.encoder, error)]

  def _classify(self, found: FeatureSet) -> Sequence[Record]:
    """Evaluates the classifier of a checkpoint, if it has one."""
    if self._classifier is None or found.encoder.kind != "backbone":
      return []
    try:
      heads = self._classifier.restore(self._workdir, found.encoder.step)
    except (checkpoint.CheckpointError, OSError) as error:
      # A training in progress may have deleted it.
      self._log(f"Could not restore the classifier: {error}")
      return []
    return [classifier_record(found, self._dataset.name, heads["classifier"])]

  def _diagnose(self, found: FeatureSet) -> Sequence[Record]:
    """Measures features; the first call measures the views if missing."""
    if self._diagnosis is None:
      self._diagnosis = Diagnosis(
        self._dataset, self._backbone, self._config, found.train.labels
      )
      if "diagnostics" in self._plan.missing("views", 0):
        self._write([self._diagnosis.concentration()], "views")
    return self._diagnosis.records(found, self._workdir)

  def _not_measured(
    self, part: Part, encoder: Encoder, error: Exception
  ) -> NotMeasuredRecord:
    return NotMeasuredRecord(
      part=part,
      **encoder.fields(self._dataset.name),
      reason=str(error),
      settings=self._plan.settings(part, encoder.kind),
    )

  def _write(self, records: Sequence[Record], name: str) -> None:
    """Writes and logs records of one part, and pins the best checkpoint."""
    if distributed.is_first():
      self._records.replace(records)
      write_events(self._workdir, records)
      self._pin(records)
    found = ", ".join(record.summary for record in records)
    self._log(f"{name} on {self._dataset.name}: {found}")

  def _pin(self, records: Sequence[Record]) -> None:
    if self._own_data and distributed.is_first():
      selection.pin_best(
        self._workdir,
        records,
        rule=self._settings.select_by,
        dataset=self._dataset.name,
        backbone=self._evaluated,
        vectors=vectors(self._settings, "backbone"),
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
  overrides: Sequence[str] = (),
  log: Callable[[str], None] = distributed.log_on_first,
) -> None:
  """Probes the checkpoints of a run that have no records yet.

  The other arguments are the flags of `python -m jssl.probe`; `overrides` are
  those of `probe` in the config. `log` is called with each line for the user.

  Raises:
    FileNotFoundError: if there is no run, no checkpoint or no data set.
    ValueError: if the config is invalid, labels do not allow probes, or another
      probe of the workdir is running.
    CheckpointError: if no checkpoint could be read.
  """
  clock = Clock(as_path(workdir) / GOODPUT, GOODPUT_KINDS)
  if follow:
    config_file = as_path(workdir) / "config.json"
    if not config_file.exists():
      log(f"Waiting for {config_file}, which a training writes when it starts.")
    with clock.on("wait"):
      while not distributed.broadcast_from_first(config_file.exists()):
        time.sleep(_POLL_SECONDS)
  elif not distributed.broadcast_from_first(checkpoint.steps(workdir)):
    read_config(workdir)  # Raises if this is not a run.
    raise FileNotFoundError(
      f"{workdir} has no finished checkpoint; wait for one with --follow"
    )
  check_workdir_shared(workdir)
  own = read_config(workdir)
  config = command_line.override(
    change_dataset(own, dataset, data_dir, test_split), overrides, "probe"
  )
  advice = "Lower --config.probe.batch_size or --config.probe.memory_limit_gib"
  with probing(workdir, advice):
    runner = Runner(
      workdir,
      config,
      clock,
      overwrite=overwrite,
      diagnostics=diagnostics,
      own_data=config.data.name == own.data.name,
      log=log,
    )
    with clock.running():
      runner.run(follow=follow)
    if export:
      runner.export(export)


@contextlib.contextmanager
def probing(workdir: str | os.PathLike, advice: str) -> Iterator[None]:
  """Locks a workdir against a second probe; advises on a lack of memory."""
  with (
    compilation.explain_errors("the probe", advice),
    # Each record rewrites `probe.jsonl`: a second probe would lose some.
    lock(workdir, "probe.lock"),
  ):
    yield
