"""Trials of the `methods` study: one training and one probe each.

Each runs in its own process, so that a failure affects one trial only.
"""

import dataclasses
import pathlib
import shlex
import subprocess
import sys
from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import NamedTuple

from jssl import checkpoint
from jssl.config import command_line
from jssl.config.build import has_teacher, read_config
from jssl.config.parse import replace, to_dict
from jssl.config.schema import Config
from jssl.probe.record_file import RecordFile
from jssl.probe.records import Part
from jssl.runtime.workdir import claim_workdir

Environ = Mapping[str, str]


class Trial(NamedTuple):
  """One method, pretrained from one seed.

  `config` is that before `probe.baselines` is set; `flags` of the training
  give this config.
  """

  method: str
  seed: int
  workdir: pathlib.Path
  config: Config
  flags: tuple[str, ...]
  diagnostics: bool = False

  @property
  def steps(self) -> int:
    """Number of training steps."""
    return self.config.train.steps

  @property
  def dataset(self) -> str:
    """Name of the data set of training and probe."""
    return self.config.data.name

  def is_trained(self) -> bool:
    """True if the last checkpoint exists."""
    return self.steps in checkpoint.steps(self.workdir)

  def is_probed(self) -> bool:
    """True if the last checkpoint is probed."""
    parts: list[Part] = ["probe"]
    if self.diagnostics:
      parts.append("diagnostics")
    key = ("backbone", self.steps, self.dataset)
    records = RecordFile(self.workdir)
    evaluated = "teacher" if has_teacher(self.config) else "student"
    return all(key in records.done(part, backbone=evaluated) for part in parts)

  def baseline_settings(self, kind: str) -> tuple:
    """Settings that a baseline depends on, besides the seed.

    Raw pixels depend on the images; a random backbone also on the model and the
    vectors that the probe takes from it.
    """
    data, probe = self.config.data, self.config.probe
    vectors = self.config.model, probe.features, probe.blocks
    return (
      *(data.name, data.split, data.test_split, data.image_size_px),
      self.config.augment.crop_size_px,
      vectors if kind == "random" else None,
    )

  def with_baseline(
    self, kind: str, trials: Iterable["Trial"]
  ) -> "Trial | None":
    """Returns the first trial that has measured the same baseline, if any.

    A random backbone is the initial one of a run, which depends on its seed.
    """
    for other in trials:
      if (
        (kind != "random" or self.seed == other.seed)
        and self.baseline_settings(kind) == other.baseline_settings(kind)
        and (kind, 0, other.dataset) in RecordFile(other.workdir).done("probe")
      ):
        return other
    return None


def plan(
  config: str,
  workdir: pathlib.Path,
  *,
  methods: Sequence[str] = (),
  seeds: int = 1,
  overrides: Sequence[str] = (),
  diagnostics: bool = False,
) -> list[Trial]:
  """Returns all trials; runs and writes nothing.

  Arguments are the flags of `python -m jssl.study methods`; `overrides` are
  those of the config, such as `--config.train.steps=100`.

  Raises:
    FileNotFoundError: if there is no such config file.
    ValueError: if a method or a key of the config is unknown.
  """
  config_file, _, arg = config.partition(":")
  known = command_line.run_file(config_file).get("METHODS")
  if not known:
    raise ValueError(
      f"--config={config_file} has no METHODS, a dict of the methods that its "
      "get_config takes; see configs/fashion_mnist.py."
    )
  unknown = [method for method in methods if method not in known]
  if unknown:
    raise ValueError(
      f"--methods={','.join(unknown)}: not in METHODS of {config_file}; known: "
      f"{', '.join(known)}"
    )
  if arg and not arg.startswith(","):
    raise ValueError(
      f"--config={config}: choose methods with --methods; the argument after "
      "the colon must start with a comma and is appended to each method."
    )
  if any(flag.startswith("--config.seed=") for flag in overrides):
    raise ValueError("--config.seed cannot be set; set the number with --seeds")

  def trial(method: str, seed: int) -> Trial:
    spec = f"{config_file}:{method}{arg}"
    own = (*overrides, f"--config.seed={seed}")
    config = command_line.load(spec, own, Config)
    path = workdir / method / f"seed_{seed}"
    flags = (f"--config={spec}", *own)
    return Trial(method, seed, path, config, flags, diagnostics)

  chosen = dict.fromkeys(methods or known)
  return [trial(method, seed) for method in chosen for seed in range(seeds)]


class Process(NamedTuple):
  """Command and environment of a process."""

  command: tuple[str, ...]
  environ: Environ


def processes(
  trial: Trial, *, baselines: Sequence[str], environ: Environ
) -> tuple[Process, Process]:
  """Returns training and probe of a trial.

  The probe reads the baselines from the config that the training writes.
  """
  workdir = f"--workdir={trial.workdir}"
  measured = f"--config.probe.baselines={tuple(baselines)!r}"
  diagnostics = ("--diagnostics",) if trial.diagnostics else ()
  python = (sys.executable, "-m")
  return (
    # Two CPU devices of one core each are faster than one device of two.
    Process(
      (*python, "jssl.train", *trial.flags, measured, workdir),
      {"JAX_NUM_CPU_DEVICES": "2", **environ},
    ),
    # With several CPU devices the collectives of the probe can deadlock.
    Process(
      (*python, "jssl.probe", workdir, *diagnostics),
      {**environ, "JAX_NUM_CPU_DEVICES": "1"},
    ),
  )


def _check_workdir(trial: Trial) -> None:
  """Raises ValueError if the workdir has a run of another config."""
  if not (trial.workdir / "config.json").exists():
    return
  old = read_config(trial.workdir)
  config = replace(trial.config, {"probe.baselines": old.probe.baselines})
  # `claim_workdir` allows changes of `probe`, for checkpoints to come.
  before, now = (dataclasses.asdict(c.probe) for c in (old, config))
  changes = [
    f"probe.{key}: was {before[key]!r}, now {now[key]!r}"
    for key in before
    if before[key] != now[key]
  ]
  if changes and trial.is_probed():
    raise ValueError(
      f"{trial.workdir} was probed with other settings ({'; '.join(changes)}). "
      "Choose another --workdir, or delete its probe.jsonl."
    )
  claim_workdir(to_dict(config), trial.workdir)


def _run_process(process: Process, log_file: pathlib.Path) -> int:
  """Runs a process, appends its output to a file, and returns its status."""
  log_file.parent.mkdir(parents=True, exist_ok=True)
  with log_file.open("a", encoding="utf-8", errors="replace") as file:
    print("$", shlex.join(process.command), file=file, flush=True)
    popen = subprocess.Popen(
      process.command,
      env=dict(process.environ),
      stdin=subprocess.DEVNULL,
      stdout=file,
      stderr=subprocess.STDOUT,
    )
    try:
      status = popen.wait()
    except BaseException:
      # A training saves a checkpoint on SIGTERM.
      popen.terminate()
      popen.wait()
      raise
    if status < 0:
      print(f"ended by signal {-status}", file=file)
  return status


def _run_trial(
  trial: Trial, *, baselines: Sequence[str], environ: Environ
) -> str:
  """Trains and probes; returns the last log line of a failure, else ""."""
  log_file = trial.workdir / "log.txt"
  training, probe = processes(trial, baselines=baselines, environ=environ)
  succeeded = (
    _run_process(training, log_file) == 0
    and trial.is_trained()
    and _run_process(probe, log_file) == 0
    and trial.is_probed()
  )
  if succeeded:
    return ""
  lines = log_file.read_text("utf-8", errors="replace").splitlines()
  return next((line.strip() for line in lines[::-1] if line.strip()), "")


def run(
  trials: Sequence[Trial], *, environ: Environ, log: Callable[[str], None]
) -> list[str]:
  """Trains and probes incomplete trials, and measures each baseline once.

  Returns:
    For each trial the last log line of its failure, "" if it is complete.

  Raises:
    ValueError: if a workdir has a run of another config; nothing is run.
  """
  for trial in trials:
    _check_workdir(trial)
  failures = []
  for number, trial in enumerate(trials, 1):
    name = f"[{number}/{len(trials)}] {trial.method}, seed {trial.seed}"
    baselines = [
      kind
      for kind in trial.config.probe.baselines
      if not trial.with_baseline(kind, trials)
    ]
    failure = ""
    if trial.is_trained() and trial.is_probed() and not baselines:
      log(f"{name}: complete")
    else:
      log(f"{name}: see {trial.workdir / 'log.txt'}")
      failure = _run_trial(trial, baselines=baselines, environ=environ)
      if failure:
        log(f"{name}: failed: {failure}")
    failures.append(failure)
  return failures
