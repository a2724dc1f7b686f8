"""The `forecast` study: predicts accuracy from the collapse AUC.

Li, Efros and Pathak, ECCV 2022, fit accuracy linearly to the collapse AUC of
the backbone's features. Here methods are left out one by one, with all their
seeds. The AUC depends on the number of feature dimensions, so runs of equal
dimensions are also fitted separately.
"""

import pathlib
from collections.abc import Callable, Sequence
from typing import NamedTuple

import numpy as np
from matplotlib.figure import Figure

from jssl import diagnostics
from jssl.probe.records import ProbeRecord, SpectrumRecord
from jssl.report import charts
from jssl.report import write as report
from jssl.report.read import read
from jssl.report.tables import markdown_table


class Point(NamedTuple):
  """A probed checkpoint; `run` is METHOD/seed_N, the accuracy in [0, 1]."""

  run: str
  step: int
  dims: int
  collapse_auc: float
  accuracy: float

  @property
  def method(self) -> str:
    """Method of the run."""
    return self.run.partition("/")[0]


def collect(workdir: pathlib.Path) -> list[Point]:
  """Returns the probed checkpoints of a study; ValueError if there are none."""
  points = []
  for path in sorted(workdir.glob("*/seed_*/config.json")):
    name, run = str(path.parent.relative_to(workdir)), read(path.parent)
    key = {"dataset": run.config.data.name, "features": "backbone"}
    linear = {"probe": "linear", "label_fraction": 1, **key}
    accuracies = {
      r.step: r.test_accuracy for r in run.select(ProbeRecord, **linear)
    }
    points += [
      Point(
        name, r.step, len(r.singular_values), r.collapse_auc, accuracies[r.step]
      )
      for r in run.select(SpectrumRecord, **key)
      if r.step in accuracies
    ]
  if not points:
    raise ValueError(
      f"{workdir} has no run with a linear probe; --workdir must be that of "
      "`python -m jssl.study methods`."
    )
  return points


def _by_run(points: Sequence[Point]) -> dict[str, list[Point]]:
  runs: dict[str, list[Point]] = {}
  for point in points:
    runs.setdefault(point.run, []).append(point)
  return runs


def _arrays(points: Sequence[Point]) -> tuple[list[float], list[float]]:
  return [p.collapse_auc for p in points], [p.accuracy for p in points]


def _or_reason(describe: Callable[[], str]) -> str:
  """Text of a statistic, or why it is not defined."""
  try:
    return describe()
  except ValueError as error:
    return f"not defined ({error})"


def _fit(points: Sequence[Point]) -> str:
  """Describes the linear fit and its leave-one-method-out error."""
  aucs, accuracies = _arrays(points)
  methods = [p.method for p in points]

  def line() -> str:
    fit = diagnostics.fit_accuracy(aucs, accuracies)
    return (
      f"linear accuracy = {100 * fit.intercept:.1f} {100 * fit.slope:+.1f} x "
      f"AUC (percent), R^2 = {fit.r_squared:.2f}"
    )

  def rank_correlation() -> str:
    return f"{diagnostics.rank_correlation(aucs, accuracies):+.2f}"

  def errors() -> str:
    left_out = diagnostics.leave_one_run_out(aucs, accuracies, methods)
    return (
      f"mean absolute error {100 * left_out.mean_absolute_error:.1f} points "
      "(predicting the mean of the others: "
      f"{100 * left_out.baseline_mean_absolute_error:.1f})"
    )

  text = (
    f"{len(points)} checkpoints of {len(_by_run(points))} runs: "
    f"{_or_reason(line)}; rank correlation of a smaller AUC with a higher "
    f"accuracy {_or_reason(rank_correlation)}."
  )
  if len(set(methods)) > 1:
    text += f"\n\nLeaving one method out: {_or_reason(errors)}."
  return text


def markdown(points: Sequence[Point]) -> str:
  """Returns the table of runs, the fits and their errors."""
  runs = _by_run(points)
  rows = []
  for name, own in runs.items():
    onset = diagnostics.collapse_onset(
      [p.step for p in own], [p.collapse_auc for p in own]
    )
    rows.append(
      [
        name,
        f"{own[0].collapse_auc:.3f}",
        f"{own[-1].collapse_auc:.3f}",
        f"{100 * own[-1].accuracy:.1f}",
        "-" if onset is None else f"{onset:,}",
      ]
    )
  headings = [
    "run",
    "first AUC",
    "last AUC",
    "last linear, %",
    "AUC rises from",
  ]
  parts = [markdown_table(headings, rows), f"{_fit(points)}\n"]
  dims = sorted({point.dims for point in points})
  for number in dims if len(dims) > 1 else ():
    own = [point for point in points if point.dims == number]
    parts.append(f"Features of {number} dimensions alone:\n\n{_fit(own)}\n")
  within = [
    diagnostics.rank_correlation(*_arrays(own))
    for own in runs.values()
    if all(len({*values}) > 1 for values in _arrays(own))
  ]
  if within:
    parts.append(
      f"Within a run the rank correlation is {np.mean(within):+.2f} on average "
      f"({min(within):+.2f} to {max(within):+.2f}, {len(within)} runs).\n"
    )
  return "\n".join(parts)


def draw(points: Sequence[Point]) -> Figure:
  """Draws accuracy over collapse AUC, a line per method, and the fit.

  A line has the means of checkpoints over the runs of a method.
  """
  aucs, accuracies = _arrays(points)
  ends = np.array([min(aucs), max(aucs)])
  line = None
  if np.ptp(ends):
    fit = diagnostics.fit_accuracy(aucs, accuracies)
    line = (ends, 100 * fit.predict(ends))
  by_method: dict[str, list[list[Point]]] = {}
  for own in _by_run(points).values():
    by_method.setdefault(own[0].method, []).append(own)

  def mean(same: Sequence[Point]) -> tuple[float, float]:
    auc, accuracy = np.mean(_arrays(same), axis=1)
    return float(auc), float(100 * accuracy)

  return charts.paths(
    {
      # Unfinished runs shorten the line.
      method: [mean(same) for same in zip(*runs, strict=False)]
      for method, runs in by_method.items()
    },
    title="accuracy of the linear probe, %; the last checkpoint is large",
    x_label="collapse AUC",
    line=line,
  )


def write(workdir: pathlib.Path, points: Sequence[Point]) -> str:
  """Writes forecast.md and forecast.svg; returns the text."""
  text = markdown(points)
  svg = charts.as_svg(draw(points), alt="linear accuracy over collapse AUC")
  report.write(workdir, "forecast", text, figures={"forecast": svg})
  return text
