"""Whether the collapse AUC tells the accuracy of a run's checkpoints.

Li, Efros and Pathak, ECCV 2022: a linear fit of accuracy on the collapse AUC of
the backbone's features, which need no labels. Here methods are left out one by
one, with all their seeds, and the fit to the others must tell their accuracies.

The AUC is of as many dimensions as features have: runs are also compared with
those alone that have as many.
"""

import pathlib
from collections.abc import Callable, Sequence
from typing import NamedTuple

import numpy as np
from matplotlib.figure import Figure

from jssl import diagnostics
from jssl.probe.records import ProbeRecord, SpectrumRecord
from jssl.report import charts
from jssl.report.read import Run, read


class Point(NamedTuple):
  """A probed checkpoint.

  Attributes:
    run: name of its run.
    step: of the checkpoint.
    dims: of the features.
    collapse_auc: of the backbone's features of train.
    accuracy: of the linear probe on test, in [0, 1].
  """

  run: str
  step: int
  dims: int
  collapse_auc: float
  accuracy: float


def _points(name: str, run: Run) -> list[Point]:
  own = run.config.data.name
  accuracies = {
    s.step: s.test_accuracy
    for s in run.select(
      ProbeRecord,
      dataset=own,
      features="backbone",
      probe="linear",
      label_fraction=1,
    )
  }
  return [
    Point(
      name,
      s.step,
      len(s.singular_values),
      s.collapse_auc,
      accuracies[s.step],
    )
    for s in run.select(SpectrumRecord, dataset=own, features="backbone")
    if s.step in accuracies
  ]


def collect(workdir: pathlib.Path) -> list[Point]:
  """Returns the probed checkpoints of all runs of a study.

  Args:
    workdir: of `python -m jssl.study methods`.

  Raises:
    ValueError: there are none.
  """
  points = [
    point
    for path in sorted(workdir.glob("*/seed_*/config.json"))
    for point in _points(
      str(path.parent.relative_to(workdir)), read(path.parent)
    )
  ]
  if not points:
    raise ValueError(
      f"{workdir} has no run with a linear probe; --workdir must be that of "
      "`python -m jssl.study methods`"
    )
  return points


def _runs(points: Sequence[Point]) -> dict[str, list[Point]]:
  runs: dict[str, list[Point]] = {}
  for point in points:
    runs.setdefault(point.run, []).append(point)
  return runs


def _collapse(points: Sequence[Point]) -> str:
  onset = diagnostics.collapse_onset(
    [p.step for p in points], [p.collapse_auc for p in points]
  )
  return "-" if onset is None else f"{onset:,}"


def _or_reason(said: Callable[[], str]) -> str:
  try:
    return said()
  except ValueError as error:
    return f"not defined ({error})"


def _fit(points: Sequence[Point]) -> list[str]:
  """Returns lines on the fit, and how well it foretells what it didn't see.

  What can't be done (all accuracies alike, a method left out leaves one point)
  has its reason in its place.
  """
  aucs = [p.collapse_auc for p in points]
  accuracies = [p.accuracy for p in points]
  methods = [p.run.split("/")[0] for p in points]

  def line() -> str:
    fit = diagnostics.fit_accuracy(aucs, accuracies)
    return (
      f"linear accuracy = {100 * fit.intercept:.1f} {100 * fit.slope:+.1f} x "
      f"AUC (percent), R^2 = {fit.r_squared:.2f}"
    )

  def order() -> str:
    return f"{diagnostics.rank_correlation(aucs, accuracies):+.2f}"

  def unseen() -> str:
    left_out = diagnostics.leave_one_run_out(aucs, accuracies, methods)
    return (
      f"mean absolute error {100 * left_out.mean_absolute_error:.1f} points; "
      "that of the mean of the others "
      f"{100 * left_out.baseline_mean_absolute_error:.1f}"
    )

  lines = [
    f"{len(points)} checkpoints of {len(_runs(points))} runs: "
    f"{_or_reason(line)}; rank correlation of a smaller AUC with a higher "
    f"accuracy {_or_reason(order)}.",
  ]
  if len(set(methods)) > 1:
    lines += ["", f"Leaving one method out: {_or_reason(unseen)}."]
  return lines


def markdown(points: Sequence[Point]) -> str:
  """Returns what was found: the runs, the fit, and how well it foretells."""
  runs = _runs(points)
  lines = [
    "| run | first AUC | last AUC | last linear, % | AUC rises since step |",
    "|---|---:|---:|---:|---:|",
    *(
      f"| {name} | {own[0].collapse_auc:.3f} | {own[-1].collapse_auc:.3f} "
      f"| {100 * own[-1].accuracy:.1f} | {_collapse(own)} |"
      for name, own in runs.items()
    ),
    "",
    *_fit(points),
  ]
  by_dims: dict[int, list[Point]] = {}
  for point in points:
    by_dims.setdefault(point.dims, []).append(point)
  if len(by_dims) > 1:
    for dims, own in sorted(by_dims.items()):
      lines += ["", f"Features of {dims} dimensions alone:", "", *_fit(own)]
  within = [
    diagnostics.rank_correlation(
      [p.collapse_auc for p in own], [p.accuracy for p in own]
    )
    for own in runs.values()
    if len({p.collapse_auc for p in own}) > 1
    and len({p.accuracy for p in own}) > 1
  ]
  if within:
    lines += [
      "",
      f"Within a run the rank correlation is {np.mean(within):+.2f} on average "
      f"({min(within):+.2f} to {max(within):+.2f}, {len(within)} runs).",
    ]
  return "\n".join(lines) + "\n"


def draw(points: Sequence[Point]) -> Figure:
  """Draws accuracy over collapse AUC, a line for each run, and the fit."""
  series = {
    name: [(p.collapse_auc, 100 * p.accuracy) for p in own]
    for name, own in _runs(points).items()
  }
  aucs = [p.collapse_auc for p in points]
  ends = np.array([min(aucs), max(aucs)])
  line = None
  if np.ptp(ends):
    fit = diagnostics.fit_accuracy(aucs, [p.accuracy for p in points])
    line = (ends, 100 * fit.predict(ends))
  return charts.paths(
    series,
    title="accuracy of the linear probe, %; a run's last checkpoint is large",
    x_label="collapse AUC",
    line=line,
  )


def write(workdir: pathlib.Path, points: Sequence[Point]) -> str:
  """Writes forecast.md and forecast.svg; returns the text."""
  text = markdown(points)
  (workdir / "forecast.md").write_text(text, encoding="utf-8")
  svg = charts.as_svg(draw(points), alt="linear accuracy over collapse AUC")
  (workdir / "forecast.svg").write_text(svg, encoding="utf-8")
  return text
