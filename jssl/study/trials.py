"""Trials of a study: planned, then trained and probed.

Each training and each probe is a process of its own, so that one leaves no
memory behind for the next, and may fail for itself.
"""

import dataclasses
import pathlib
import runpy
import subprocess
import sys
from collections.abc import Callable, Mapping, Sequence
from typing import NamedTuple

from jssl import checkpoint
from jssl.config import command_line
from jssl.config.parse import parse, replace, to_dict
from jssl.config.schema import Config
from jssl.probe.records import Part, RecordFile
from jssl.runtime.workdir import claim_workdir, load_config

Environ = Mapping[str, str]
Tell = Callable[[str], None]


class Trial(NamedTuple):
  """One method, pretrained from one seed.

  Attributes:
    method: its name in METHODS.
    seed: of the pretraining.
    workdir: of its run.
    config: as the training reads it, but for `probe.baselines`.
    flags: that say this config to the training.
    diagnostics: whether the probe also measures what features are like.
  """

  method: str
  seed: int
  workdir: pathlib.Path
  config: Config
  flags: tuple[str, ...]
  diagnostics: bool = False

  @property
  def steps(self) -> int:
    """Steps of the whole run."""
    return self.config.train.steps

  @property
  def dataset(self) -> str:
    """The set that it is pretrained and probed on."""
    return self.config.data.name


class Call(NamedTuple):
  """A process: its command, and its environment."""

  command: tuple[str, ...]
  environ: Environ


def _known_methods(config_file: str) -> list[str]:
  known = runpy.run_path(config_file).get("METHODS")
  if not known:
    raise ValueError(
      f"--config={config_file} has no METHODS, a dict of the methods that its "
      "get_config takes; configs/fashion_mnist.py is an example"
    )
  return [*known]


def plan(
  config: str,
  workdir: pathlib.Path,
  *,
  methods: Sequence[str] = (),
  seeds: int = 1,
  overrides: Sequence[str] = (),
  diagnostics: bool = False,
) -> list[Trial]:
  """Returns all trials; nothing is run or written.

  Args:
    config: a file with METHODS; after a colon, what is added to each method.
    workdir: of the study.
    methods: some of them; all if empty.
    seeds: of each method.
    overrides: flags for all trials, as `--config.train.steps=100`.
    diagnostics: whether the probes also measure what features are like.

  Raises:
    FileNotFoundError: there is no such config file.
    ValueError: a method or a key of the config is unknown.
  """
  config_file, _, rest = config.partition(":")
  known = _known_methods(config_file)
  unknown = [method for method in methods if method not in known]
  if unknown:
    raise ValueError(
      f"--methods={','.join(unknown)}: {config_file} has no such; known: "
      f"{', '.join(known)}"
    )
  if rest and not rest.startswith(","):
    raise ValueError(
      f"--config={config}: the methods are added here, choose some with "
      "--methods; after a colon may stand a comma and what all have"
    )
  if any(flag.startswith("--config.seed=") for flag in overrides):
    raise ValueError("--config.seed is set here; say how many with --seeds")
  trials = []
  for method in dict.fromkeys(methods or known):
    for seed in range(seeds):
      spec = f"{config_file}:{method}{rest}"
      overridden = (*overrides, f"--config.seed={seed}")
      trials.append(
        Trial(
          method,
          seed,
          workdir / method / f"seed_{seed}",
          command_line.load(spec, overridden, Config),
          (f"--config={spec}", *overridden),
          diagnostics,
        )
      )
  return trials


def calls(
  trial: Trial, *, baselines: Sequence[str], environ: Environ
) -> list[Call]:
  """Returns training and probe of a trial.

  Args:
    trial: one of the plan.
    baselines: that the probe is to measure. It reads that from the config that
      the training leaves in the workdir.
    environ: that both start from.
  """
  workdir = f"--workdir={trial.workdir}"
  measured = f"--config.probe.baselines={tuple(baselines)!r}"
  module = (sys.executable, "-m")
  return [
    # Two CPU devices of one core each are faster than one of two.
    Call(
      (*module, "jssl.train", *trial.flags, measured, workdir),
      {"JAX_NUM_CPU_DEVICES": "2", **environ},
    ),
    # The probe's collectives can wait for each other without end on several.
    Call(
      (
        *module,
        "jssl.probe",
        workdir,
        *(("--diagnostics",) if trial.diagnostics else ()),
      ),
      {**environ, "JAX_NUM_CPU_DEVICES": "1"},
    ),
  ]


def _is_trained(trial: Trial) -> bool:
  return trial.steps in checkpoint.steps(trial.workdir)


def _is_probed(trial: Trial) -> bool:
  about = ("backbone", trial.steps, trial.dataset)
  records = RecordFile(trial.workdir)
  parts: list[Part] = ["probe"]
  if trial.diagnostics:
    parts.append("diagnostics")
  return all(about in records.done(part) for part in parts)


def is_complete(trial: Trial) -> bool:
  """Whether the last checkpoint of a trial is there and probed."""
  return _is_trained(trial) and _is_probed(trial)


def are_alike(trial: Trial, other: Trial, kind: str) -> bool:
  """Whether a baseline of one trial is that of another, but for the seed.

  Raw pixels are those of the same images; a random backbone must be of the same
  model too.
  """

  def seen(config: Config) -> tuple:
    data = config.data
    images = (data.name, data.split, data.test_split, data.image_size_px)
    pixels = (*images, config.augment.crop_size_px)
    model = str(config.model)
    return (pixels, model) if kind == "random" else (pixels,)

  return seen(trial.config) == seen(other.config)


def shares(trial: Trial, other: Trial, kind: str) -> bool:
  """Whether a baseline of one trial is also that of another.

  A random backbone is the one that a run starts from, so of its seed.
  """
  same_start = kind != "random" or trial.seed == other.seed
  return same_start and are_alike(trial, other, kind)


def has_baseline(trial: Trial, kind: str) -> bool:
  """Whether a baseline was measured in the workdir of a trial."""
  return (kind, 0, trial.dataset) in RecordFile(trial.workdir).done("probe")


def _missing_baselines(trial: Trial, trials: Sequence[Trial]) -> list[str]:
  """Returns those that a trial's config asks for and no trial has for it."""
  probe = trial.config.probe
  return [
    kind
    for kind in probe.baselines
    if not any(
      has_baseline(other, kind)
      for other in trials
      if shares(trial, other, kind)
    )
  ]


def _check_used(trial: Trial) -> None:
  """Raises ValueError if the workdir has a run of another config."""
  if not (trial.workdir / "config.json").exists():
    return
  there = parse(load_config(trial.workdir), Config)
  config = replace(trial.config, {"probe.baselines": there.probe.baselines})
  # The probe may be set anew for the checkpoints to come; here none come.
  old, new = (dataclasses.asdict(c.probe) for c in (there, config))
  other = [
    f"probe.{key}: there {old[key]!r}, now {new[key]!r}"
    for key in sorted(old)
    if old[key] != new[key]
  ]
  if other and _is_probed(trial):
    raise ValueError(
      f"{trial.workdir} was probed with other settings; choose another "
      "--workdir, take back the difference or delete its probe.jsonl: "
      + "; ".join(other)
    )
  claim_workdir(to_dict(config), trial.workdir)


def _run_process(call: Call, log: pathlib.Path) -> int:
  """Runs a process, its output added to the log; returns its status."""
  log.parent.mkdir(parents=True, exist_ok=True)
  with log.open("a") as file:
    print("$", *call.command, file=file, flush=True)
    process = subprocess.Popen(
      call.command,
      env=dict(call.environ),
      stdin=subprocess.DEVNULL,
      stdout=file,
      stderr=subprocess.STDOUT,
    )
    try:
      status = process.wait()
    except BaseException:
      # A training that is terminated saves first.
      process.terminate()
      process.wait()
      raise
    if status < 0:
      print(f"ended by signal {-status}", file=file)
  return status


def _last_line(log: pathlib.Path) -> str:
  lines = log.read_text(errors="replace").split("\n")
  return next((line.strip() for line in lines[::-1] if line.strip()), "")


def _run_trial(
  trial: Trial, *, baselines: Sequence[str], environ: Environ
) -> str:
  """Trains and probes; returns the last line of what failed, else ""."""
  log = trial.workdir / "log.txt"
  training, probe = calls(trial, baselines=baselines, environ=environ)
  fails = (
    _run_process(training, log)
    or not _is_trained(trial)
    or _run_process(probe, log)
    or not _is_probed(trial)
  )
  return _last_line(log) if fails else ""


def run(trials: Sequence[Trial], *, environ: Environ, tell: Tell) -> list[str]:
  """Trains and probes what isn't complete.

  A baseline is measured once, by the first trials until one has it: for all,
  or for all of the same model and seed.

  Args:
    trials: the plan.
    environ: of the processes.
    tell: is called with each line that is for the user.

  Returns:
    For each trial the last line of its failure, "" where it is complete.

  Raises:
    ValueError: a workdir belongs to a run of another config; nothing was run.
  """
  for trial in trials:
    _check_used(trial)
  failures = []
  for number, trial in enumerate(trials, 1):
    name = f"[{number}/{len(trials)}] {trial.method}, seed {trial.seed}"
    baselines = _missing_baselines(trial, trials)
    if is_complete(trial) and not baselines:
      tell(f"{name}: complete")
      failures.append("")
      continue
    tell(f"{name}: see {trial.workdir / 'log.txt'}")
    failure = _run_trial(trial, baselines=baselines, environ=environ)
    if failure:
      tell(f"{name}: failed: {failure}")
    failures.append(failure)
  return failures
