"""Every method at one budget: what the trials gave, as one table."""

import dataclasses
import os
import pathlib
import platform
from collections.abc import Callable, Iterable, Mapping, Sequence

import jax
import numpy as np
from matplotlib.figure import Figure

from jssl.config.parse import to_dict
from jssl.config.schema import Config
from jssl.probe.records import (
  BASELINES,
  DiagnosticsRecord,
  ProbeRecord,
  SpectrumRecord,
)
from jssl.report import charts
from jssl.report.diagnostics import COLUMNS
from jssl.report.read import Run, read
from jssl.runtime import files
from jssl.study.trials import Environ, Trial, are_alike, has_baseline, shares

# Kinds of probe, and what they are called in the table.
_PROBES = {"linear": "linear", "mlp": "MLP", "knn": "kNN"}
_CLOSE_POINTS = 5.0
_MARK = " †"
_HEAD_GRADIENT = "head_gradient"


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


def _steps_per_second(run: Run) -> float | None:
  # The first row has the compilation in it.
  seconds = run.metrics.get("seconds_per_step", np.zeros(0))[1:]
  return float(1 / np.median(seconds)) if seconds.size else None


def _row(run: Run, name: str, features: str, step: int) -> Row:
  """Returns what a workdir has of one kind of features."""
  about = {
    "features": features,
    "step": step,
    "dataset": run.config.data.name,
  }
  return Row(
    name,
    accuracies={
      score.probe: Accuracy(score.test_accuracy, score.test_accuracy_std)
      for score in run.select(ProbeRecord, label_fraction=1, **about)
    },
    collapse_auc=next(
      (
        spectrum.collapse_auc
        for spectrum in run.select(SpectrumRecord, **about)
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


def _baseline(of: Trial, trials: Sequence[Trial], kind: str) -> Row | None:
  """Returns what a trial is to be compared with, whichever measured it."""
  for trial in trials:
    if shares(of, trial, kind) and has_baseline(trial, kind):
      return _row(read(trial.workdir), BASELINES[kind], kind, 0)
  return None


def _baseline_over_seeds(
  of: Sequence[Trial], trials: Sequence[Trial], kind: str
) -> Row | None:
  """Returns what trials that differ in their seed are to be compared with."""
  # Raw pixels have no seed: they are one row, however many trials there are.
  of = of if kind == "random" else of[:1]
  rows = [_baseline(trial, trials, kind) for trial in of]
  known = [row for row in rows if row is not None]
  return over_seeds(known) if known else None


def _baselines(trials: Sequence[Trial]) -> list[Row]:
  """Returns each once; where there are several, with whose they are."""
  rows = []
  for kind in BASELINES:
    known: list[Trial] = []
    found = []
    for trial in trials:
      if any(are_alike(trial, other, kind) for other in known):
        continue
      own = [other for other in trials if other.method == trial.method]
      row = _baseline_over_seeds(own, trials, kind)
      if row:
        known.append(trial)
        found.append(row)
    several = len(found) > 1
    rows += [
      dataclasses.replace(row, name=f"{row.name} (that of {trial.method})")
      if several
      else row
      for trial, row in zip(known, found, strict=True)
    ]
  return rows


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
  rows = []
  for method in dict.fromkeys(trial.method for trial in trials):
    own = [i for i, trial in enumerate(trials) if trial.method == method]
    of = [trials[i] for i in own]
    row = _method(of, [failures[i] for i in own])
    rows.append(_above(row, _baseline_over_seeds(of, trials, "random")))
  rows.sort(key=lambda row: (bool(row.failure), -(row.linear or 0.0)))
  return _baselines(trials) + rows


def _in_words(config: Config) -> str:
  section = to_dict(config)["model"]
  values = [f"{k}={v}" for k, v in section.items() if k != "name"]
  return f"{section['name']} ({', '.join(values)})"


def about(trials: Sequence[Trial], *, command: str, environ: Environ) -> About:
  """Returns what the page says before the table.

  Args:
    trials: the plan.
    command: of the study.
    environ: that it ran in; what changes the speed is put before the command.
  """

  def all_of(value: Callable[[Config], object]) -> str:
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
    backbone=all_of(lambda config: _in_words(config)),
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
    f"{about.seeds} pretraining seeds (raw pixels: over {probe})"
    if about.seeds > 1
    else f"{probe}, of one pretraining seed"
  )
  return (
    f"Test accuracy in %: mean ± standard deviation over {over}. Above random: "
    "points of linear above the random backbone of the same model. Collapse "
    "AUC: of the backbone's features of train, 1 where they are collapsed. "
    "Steps/s: of the training, median over the logged rows without the first."
  )


def _last_gradient(run: Run) -> float | None:
  found = run.metrics.get("head_gradient_norm", np.zeros(0))
  return float(found[-1]) if found.size else None


def _diagnosed(trial: Trial) -> dict[str, dict[str, float]]:
  """Returns what a trial's last checkpoint is like, by place.

  Where a head has an inner loop, the norm of its gradient after it is there
  too.
  """
  if not (trial.workdir / "config.json").exists():
    return {}
  run = read(trial.workdir)
  found = {
    d.at: dict(d.values)
    for d in run.select(
      DiagnosticsRecord,
      dataset=trial.dataset,
      features="backbone",
      step=trial.steps,
    )
  }
  gradient = _last_gradient(run)
  if gradient is not None:
    for values in found.values():
      values[_HEAD_GRADIENT] = gradient
  return found


def likeness(trials: Sequence[Trial]) -> str:
  """Returns a table of what features are like, over each method's seeds.

  Empty where no trial was diagnosed.
  """
  seen: dict[str, list[dict[str, float]]] = {}
  for trial in trials:
    for place, values in _diagnosed(trial).items():
      seen.setdefault(f"{trial.method}, {place}", []).append(values)
  if not seen:
    return ""

  def cell(of: Sequence[Mapping[str, float]], name: str, decimals: int) -> str:
    known = [values[name] for values in of if name in values]
    if not known:
      return "-"
    mean = f"{np.mean(known):.{decimals}f}"
    return f"{mean} ± {np.std(known):.{decimals}f}" if len(known) > 1 else mean

  columns = (*COLUMNS, ("head gradient", _HEAD_GRADIENT, 3))
  headings = [heading for heading, _, _ in columns]
  lines = [
    f"| {name} | {' | '.join(cell(of, *column[1:]) for column in columns)} |"
    for name, of in seen.items()
  ]
  return "\n".join(
    [
      "What the features are like (`--diagnostics`): mean, and deviation where "
      "there are several pretraining seeds. Head gradient: its norm after an "
      "inner loop, at the last row.",
      "",
      f"|  | {' | '.join(headings)} |",
      "|---" + "|---:" * len(headings) + "|",
      *lines,
      "",
    ]
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


def draw(rows: Sequence[Row]) -> Figure:
  """Draws accuracies, a line for each method, the best of linear on top."""
  return charts.dots(
    {
      probe: {
        row.name: (
          100 * row.accuracies[kind].mean,
          100 * row.accuracies[kind].std,
        )
        for row in sorted(rows, key=lambda row: row.linear or 0.0)
        if kind in row.accuracies
      }
      for kind, probe in _PROBES.items()
    },
    title="test accuracy, %",
  )


def write(
  workdir: pathlib.Path,
  about: About,
  rows: Sequence[Row],
  trials: Sequence[Trial] = (),
) -> None:
  """Writes methods.md, with what features are like, .svg, and .json.

  The last has each run by itself too.
  """
  runs = [
    {
      "method": trial.method,
      "seed": trial.seed,
      **dataclasses.asdict(
        _row(read(trial.workdir), trial.method, "backbone", trial.steps)
      ),
      "diagnostics": _diagnosed(trial),
    }
    for trial in trials
    if (trial.workdir / "config.json").exists()
  ]
  everything = {
    **dataclasses.asdict(about),
    "rows": [dataclasses.asdict(row) for row in rows],
    "runs": runs,
  }
  workdir.mkdir(parents=True, exist_ok=True)
  page = "\n".join(filter(None, (markdown(about, rows), likeness(trials))))
  (workdir / "methods.md").write_text(page, encoding="utf-8")
  svg = charts.as_svg(draw(rows), alt="accuracy of each method")
  (workdir / "methods.svg").write_text(svg, encoding="utf-8")
  files.write_json(workdir / "methods.json", everything)
