"""Results of the `methods` study: all methods at one budget."""

import dataclasses
from collections.abc import Iterable, Mapping, Sequence

import numpy as np

from jssl.probe.records import BASELINES, ProbeRecord, SpectrumRecord
from jssl.report.read import Run, read
from jssl.study.trials import Trial

CLOSE_POINTS = 5.0


@dataclasses.dataclass(frozen=True)
class Accuracy:
  """Test accuracy in [0, 1]: mean and (population) standard deviation."""

  mean: float
  std: float


@dataclasses.dataclass(frozen=True)
class Row:
  """A row of the table: a method, or a baseline.

  Accuracies are by probe. `above_random_points` is the linear accuracy minus
  that of the random backbone, in percentage points. `failure` is the reason
  why a method has no numbers, else "".
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
    linear = self.accuracies.get("linear")
    return linear.mean if linear else None

  @property
  def is_close_to_random(self) -> bool:
    """True if training hardly improved on the random backbone."""
    points = self.above_random_points
    return points is not None and points < CLOSE_POINTS


def _steps_per_second(run: Run) -> float | None:
  # The first row includes compilation.
  seconds = run.metrics.get("seconds_per_step", np.zeros(0))[1:]
  return float(1 / np.median(seconds)) if seconds.size else None


def run_row(trial: Trial, name: str, features: str, step: int) -> Row:
  """Numbers of one kind of features in a trial's workdir."""
  run = read(trial.workdir)
  key = {"features": features, "step": step, "dataset": trial.dataset}
  spectra = run.select(SpectrumRecord, **key)
  return Row(
    name,
    accuracies={
      record.probe: Accuracy(record.test_accuracy, record.test_accuracy_std)
      for record in run.select(ProbeRecord, label_fraction=1, **key)
    },
    collapse_auc=spectra[0].collapse_auc if spectra else None,
    steps_per_second=_steps_per_second(run) if step else None,
  )


def _mean(values: Iterable[float | None]) -> float | None:
  known = [value for value in values if value is not None]
  return float(np.mean(known)) if known else None


def _over_seeds(rows: Sequence[Row]) -> Row:
  """Mean over pretraining seeds, and their standard deviation.

  With one seed, the standard deviation is that of the probe.
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


def _baseline(
  of: Sequence[Trial], trials: Sequence[Trial], kind: str
) -> Row | None:
  """Baseline of a method's trials, measured by any trial that shares it."""
  rows = []
  # Raw pixels have no seed.
  for trial in of if kind == "random" else of[:1]:
    if other := trial.with_baseline(kind, trials):
      rows.append(run_row(other, BASELINES[kind], kind, 0))
  return _over_seeds(rows) if rows else None


def _by_method(trials: Sequence[Trial]) -> dict[str, list[Trial]]:
  methods: dict[str, list[Trial]] = {}
  for trial in trials:
    methods.setdefault(trial.method, []).append(trial)
  return methods


def _baselines(trials: Sequence[Trial]) -> list[Row]:
  """Each baseline once; if there are several of a kind, with their method."""
  rows = []
  for kind in BASELINES:
    found: dict[tuple, tuple[str, Row]] = {}
    for method, own in _by_method(trials).items():
      settings = own[0].baseline_settings(kind)
      if settings not in found and (row := _baseline(own, trials, kind)):
        found[settings] = method, row
    for method, row in found.values():
      suffix = f" (that of {method})" if len(found) > 1 else ""
      rows.append(dataclasses.replace(row, name=row.name + suffix))
  return rows


def collect(trials: Sequence[Trial], failures: Sequence[str]) -> list[Row]:
  """Returns baselines, then methods by linear accuracy, failed ones last."""
  failed = {
    (trial.method, trial.seed): failure
    for trial, failure in zip(trials, failures, strict=True)
  }
  rows = []
  for method, own in _by_method(trials).items():
    errors = [
      (f"seed {trial.seed}: " if len(own) > 1 else "") + failure
      for trial in own
      if (failure := failed[method, trial.seed])
    ]
    if errors:
      rows.append(Row(method, failure=errors[0]))
      continue
    row = _over_seeds([run_row(t, method, "backbone", t.steps) for t in own])
    random = _baseline(own, trials, "random")
    if random and random.linear is not None and row.linear is not None:
      points = 100 * (row.linear - random.linear)
      row = dataclasses.replace(row, above_random_points=points)
    rows.append(row)
  rows.sort(key=lambda row: (bool(row.failure), -(row.linear or 0.0)))
  return _baselines(trials) + rows
