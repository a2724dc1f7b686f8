"""Every method at one budget: plan, run, collect, table.

Each training and each probe is a process of its own, so that one leaves no
memory behind for the next, and may fail for itself.
"""

import dataclasses
import json
import os
import pathlib
import platform
import runpy
import subprocess
import sys
from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import NamedTuple

import jax
import numpy as np
from absl import flags
from ml_collections import ConfigDict, config_flags

from jssl import build, checkpoint, manifest
from jssl.probe.results import Log
from jssl.report.read import Run, read
from jssl.sections import Probe

Environ = Mapping[str, str]
Tell = Callable[[str], None]

_NO_BASELINES = "--config.probe.baselines=()"
_BASELINES = {"pixels": "raw pixels", "random": "random backbone"}
# Kinds of probe, and what they are called in the table.
_PROBES = {"linear": "linear", "mlp": "MLP", "knn": "kNN"}
_CLOSE_POINTS = 5.0
_MARK = " †"


class Trial(NamedTuple):
  """One method, pretrained from one seed.

  Attributes:
    method: its name in METHODS.
    seed: of the pretraining.
    workdir: of its run.
    config: as the training reads it, but for `probe.baselines`.
    flags: that say this config to the training.
  """

  method: str
  seed: int
  workdir: pathlib.Path
  config: ConfigDict
  flags: tuple[str, ...]

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


@dataclasses.dataclass(frozen=True)
class Accuracy:
  """On test, in [0, 1]: mean and (population) standard deviation."""

  mean: float
  std: float


@dataclasses.dataclass(frozen=True)
class Row:
  """One kind of features.

  Attributes:
    name: a method, or a baseline.
    accuracies: by kind of probe; a kind that wasn't fitted is not there.
    above_random_points: of linear accuracy, in percent points.
    collapse_auc: see `diagnostics.spectrum`.
    steps_per_second: of the training.
    failure: why a method has no numbers, "" where it has.
  """

  name: str
  accuracies: Mapping[str, Accuracy] = dataclasses.field(default_factory=dict)
  above_random_points: float | None = None
  collapse_auc: float | None = None
  steps_per_second: float | None = None
  failure: str = ""

  @property
  def linear(self) -> float | None:
    """Mean accuracy of the linear probe."""
    return (
      self.accuracies["linear"].mean if "linear" in self.accuracies else None
    )

  @property
  def is_close_to_random(self) -> bool:
    """Whether the training hardly paid: something may be wrong."""
    points = self.above_random_points
    return points is not None and points < _CLOSE_POINTS


@dataclasses.dataclass(frozen=True)
class About:
  """What the table was measured on.

  Attributes:
    command: that makes it again.
    machine: cores and system.
    dataset: pretrained and probed on.
    steps: of each pretraining.
    batch_size: images of a batch.
    backbone: the `model` section in words.
    seeds: of the pretraining.
    probe_seeds: of the probe.
  """

  command: str
  machine: str
  dataset: str
  steps: str
  batch_size: str
  backbone: str
  seeds: int
  probe_seeds: int


# ---- Plan --------------------------------------------------------------------


def _config(given: Sequence[str]) -> ConfigDict:
  """Returns the config that a training with these flags reads.

  Raises:
    ValueError: a key is unknown or a value of another type.
  """
  argv = ["study", *given]
  values = flags.FlagValues()
  holder = config_flags.DEFINE_config_file(
    "config", lock_config=True, flag_values=values, sys_argv=argv
  )
  try:
    values(argv)
  except (flags.Error, AttributeError, KeyError, TypeError) as error:
    raise ValueError(f"{' '.join(argv[1:])}: {error}") from error
  return holder.value


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
) -> list[Trial]:
  """Returns all trials; nothing is run or written.

  Args:
    config: a file with METHODS; after a colon, what is added to each method.
    workdir: of the study.
    methods: some of them; all if empty.
    seeds: of each method.
    overrides: flags for all trials, as `--config.train.steps=100`.

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
      given = (
        f"--config={config_file}:{method}{rest}",
        *overrides,
        f"--config.seed={seed}",
      )
      trials.append(
        Trial(
          method,
          seed,
          workdir / method / f"seed_{seed}",
          _config(given),
          given,
        )
      )
  return trials


def calls(trial: Trial, *, baselines: bool, environ: Environ) -> list[Call]:
  """Returns training and probe of a trial.

  Args:
    trial: one of the plan.
    baselines: whether the probe measures those that the config asks for. It
      reads that from the config that the training leaves in the workdir.
    environ: that both start from.
  """
  workdir = f"--workdir={trial.workdir}"
  without = () if baselines else (_NO_BASELINES,)
  module = (sys.executable, "-m")
  return [
    # Two CPU devices of one core each are faster than one of two.
    Call(
      (*module, "jssl.train", *trial.flags, *without, workdir),
      {"JAX_NUM_CPU_DEVICES": "2", **environ},
    ),
    # The probe's collectives can wait for each other without end on several.
    Call(
      (*module, "jssl.probe", workdir),
      {**environ, "JAX_NUM_CPU_DEVICES": "1"},
    ),
  ]


# ---- Run ---------------------------------------------------------------------


def _is_trained(trial: Trial) -> bool:
  return trial.steps in checkpoint.steps(trial.workdir)


def _is_probed(trial: Trial) -> bool:
  about = ("backbone", trial.steps, trial.dataset)
  return about in Log(trial.workdir).done()


def is_complete(trial: Trial) -> bool:
  """Whether the last checkpoint of a trial is there and probed."""
  return _is_trained(trial) and _is_probed(trial)


def _has_baselines(trial: Trial) -> bool:
  """Whether the workdir has all baselines that the config asks for."""
  probe = build.section(trial.config, "probe", Probe)
  wanted = {(kind, 0, trial.dataset) for kind in probe.baselines}
  return wanted <= Log(trial.workdir).done()


def _check_used(trial: Trial) -> None:
  """Raises ValueError if the workdir has a run of another config."""
  if not (trial.workdir / "config.json").exists():
    return
  there = build.load_config(trial.workdir)
  config = trial.config.copy_and_resolve_references()
  config.probe.baselines = tuple(there.probe.baselines)
  build.claim_workdir(config, trial.workdir)
  if not _is_probed(trial):
    return
  # The probe may be set anew for the checkpoints to come; here none come.
  old, new = (json.loads(c.probe.to_json()) for c in (there, config))
  other = [
    f"probe.{key}: there {old.get(key)!r}, now {new.get(key)!r}"
    for key in sorted(old.keys() | new.keys())
    if old.get(key) != new.get(key)
  ]
  if other:
    raise ValueError(
      f"{trial.workdir} was probed with other settings; choose another "
      "--workdir, take back the difference or delete its probe.jsonl: "
      + "; ".join(other)
    )


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


def _run_trial(trial: Trial, *, baselines: bool, environ: Environ) -> str:
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

  Baselines are measured once: by the first trials until one has them.

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
    baselines = not any(map(_has_baselines, trials))
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


# ---- Collect -----------------------------------------------------------------


def _steps_per_second(run: Run) -> float | None:
  # The first row has the compilation in it.
  seconds = run.metrics.get("seconds_per_step", np.zeros(0))[1:]
  return float(1 / np.median(seconds)) if seconds.size else None


def _row(run: Run, name: str, features: str, step: int) -> Row:
  """Returns what a workdir has of one kind of features."""
  about = (features, step, run.config.data.name)
  return Row(
    name,
    accuracies={
      score.probe: Accuracy(score.test_accuracy, score.test_accuracy_std)
      for score in run.scores
      if (score.features, score.step, score.dataset) == about
      and score.label_fraction == 1
    },
    collapse_auc=next(
      (
        spectrum.collapse_auc
        for spectrum in run.spectra
        if (spectrum.features, spectrum.step, spectrum.dataset) == about
      ),
      None,
    ),
    steps_per_second=_steps_per_second(run) if step else None,
  )


def _mean(values: Iterable[float | None]) -> float | None:
  known = [value for value in values if value is not None]
  return float(np.mean(known)) if known else None


def over_seeds(rows: Sequence[Row]) -> Row:
  """Returns the row of a method, from those of its pretraining seeds.

  The deviation is over these seeds; that of a single one is its probe's.
  """
  if len(rows) == 1:
    return rows[0]
  means = {
    probe: [row.accuracies[probe].mean for row in rows]
    for probe in rows[0].accuracies
  }
  return Row(
    rows[0].name,
    accuracies={
      probe: Accuracy(float(np.mean(values)), float(np.std(values)))
      for probe, values in means.items()
    },
    collapse_auc=_mean(row.collapse_auc for row in rows),
    steps_per_second=_mean(row.steps_per_second for row in rows),
  )


def _baseline(trials: Sequence[Trial], kind: str) -> Row | None:
  for trial in trials:
    if (kind, 0, trial.dataset) in Log(trial.workdir).done():
      return _row(read(trial.workdir), _BASELINES[kind], kind, 0)
  return None


def _method(trials: Sequence[Trial], failures: Sequence[str]) -> Row:
  """Returns the row of one method, of all its seeds."""
  name = trials[0].method
  for trial, failure in zip(trials, failures, strict=True):
    if failure:
      which = f"seed {trial.seed}: " if len(trials) > 1 else ""
      return Row(name, failure=which + failure)
  return over_seeds(
    [_row(read(t.workdir), name, "backbone", t.steps) for t in trials]
  )


def _above(row: Row, random: Row | None) -> Row:
  if random is None or random.linear is None or row.linear is None:
    return row
  points = 100 * (row.linear - random.linear)
  return dataclasses.replace(row, above_random_points=points)


def collect(trials: Sequence[Trial], failures: Sequence[str]) -> list[Row]:
  """Returns the baselines, then the methods: the best first, failed ones last.

  Args:
    trials: the plan.
    failures: what `run` returned.
  """
  baselines = {kind: _baseline(trials, kind) for kind in _BASELINES}
  rows = []
  for method in dict.fromkeys(trial.method for trial in trials):
    own = [i for i, trial in enumerate(trials) if trial.method == method]
    row = _method([trials[i] for i in own], [failures[i] for i in own])
    rows.append(_above(row, baselines["random"]))
  rows.sort(key=lambda row: (bool(row.failure), -(row.linear or 0.0)))
  return [row for row in baselines.values() if row is not None] + rows


# ---- Table -------------------------------------------------------------------


def _in_words(section: ConfigDict) -> str:
  values = [f"{k}={v}" for k, v in section.items() if k != "name"]
  return f"{section.name} ({', '.join(values)})"


def about(trials: Sequence[Trial], *, command: str, environ: Environ) -> About:
  """Returns what the page says before the table.

  Args:
    trials: the plan.
    command: of the study.
    environ: that it ran in; what changes the speed is put before the command.
  """

  def all_of(value: Callable[[ConfigDict], object]) -> str:
    found = dict.fromkeys(str(value(trial.config)) for trial in trials)
    return " or ".join(found)

  names = [n for n in ("JAX_PLATFORMS", "JAX_NUM_CPU_DEVICES") if n in environ]
  system = f"{platform.system()} {platform.machine()}"
  return About(
    command=" ".join([*(f"{n}={environ[n]}" for n in names), command]),
    machine=f"{os.cpu_count()} CPU cores, {system}, JAX {jax.__version__}",
    dataset=all_of(lambda config: config.data.name),
    steps=all_of(lambda config: config.train.steps),
    batch_size=all_of(lambda config: config.data.batch_size),
    backbone=all_of(lambda config: _in_words(config.model)),
    seeds=len({trial.seed for trial in trials}),
    probe_seeds=trials[0].config.probe.seeds,
  )


def _number(value: float | None, form: str) -> str:
  return "-" if value is None else format(value, form)


def _cells(row: Row) -> list[str]:
  name = row.name + (_MARK if row.is_close_to_random else "")
  if row.failure:
    reason = row.failure.replace("|", "\\|")
    return [name, f"failed: {reason}", *["-"] * (len(_PROBES) + 2)]
  accuracies = []
  for probe in _PROBES:
    accuracy = row.accuracies.get(probe)
    accuracies.append(
      "-"
      if accuracy is None
      else f"{100 * accuracy.mean:.1f} ± {100 * accuracy.std:.1f}"
    )
  return [
    name,
    *accuracies,
    _number(row.above_random_points, "+.1f"),
    _number(row.collapse_auc, ".3f"),
    _number(row.steps_per_second, ".2f"),
  ]


def _caption(about: About) -> str:
  probe = f"the {about.probe_seeds} seeds of the probe"
  over = (
    f"{about.seeds} pretraining seeds (baselines: over {probe})"
    if about.seeds > 1
    else f"{probe}, of one pretraining seed"
  )
  return (
    f"Test accuracy in %: mean ± standard deviation over {over}. Above random: "
    "points of linear above the random backbone. Collapse AUC: of the "
    "backbone's features of train, 1 where they are collapsed. Steps/s: of the "
    "training, median over the logged rows without the first."
  )


def markdown(about: About, rows: Sequence[Row]) -> str:
  """Returns the page: what was run, and the table."""
  headings = ["", *_PROBES.values(), "above random", "collapse AUC", "steps/s"]
  lines = [
    f"# Methods at one budget: {about.dataset}",
    "",
    f"    {about.command}",
    "",
    f"- machine: {about.machine}",
    f"- pretraining: {about.steps} steps of {about.batch_size} images",
    f"- backbone: {about.backbone}",
    "",
    _caption(about),
    "",
    f"| {' | '.join(headings)} |",
    "|---" + "|---:" * (len(headings) - 1) + "|",
    *(f"| {' | '.join(_cells(row))} |" for row in rows),
  ]
  if any(row.is_close_to_random for row in rows):
    lines += [
      "",
      f"{_MARK.strip()} less than {_CLOSE_POINTS:g} points above the random "
      "backbone.",
    ]
  return "\n".join(lines) + "\n"


def write(workdir: pathlib.Path, about: About, rows: Sequence[Row]) -> None:
  """Writes methods.md and methods.json."""
  everything = {
    **dataclasses.asdict(about),
    "rows": [dataclasses.asdict(row) for row in rows],
  }
  workdir.mkdir(parents=True, exist_ok=True)
  (workdir / "methods.md").write_text(markdown(about, rows), encoding="utf-8")
  manifest.write_json(workdir / "methods.json", everything)
