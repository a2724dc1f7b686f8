"""Forecasts from the collapse AUC: accuracy, best checkpoint, collapse onset.

Li, Efros and Pathak (ECCV 2022, arXiv 2209.15007) forecast the accuracy of a
linear probe from `collapse_auc`. That their fit is a line in the AUC has not
been checked against the paper.

`aucs` and `accuracies` are `collapse_auc` and the linear probe accuracy of each
checkpoint.
"""

from collections.abc import Sequence
from typing import NamedTuple

import numpy as np
from jaxtyping import Float, Int

Numbers = Sequence[float] | Float[np.ndarray, "n"]


class LinearFit(NamedTuple):
  """The line accuracy = slope * AUC + intercept, by least squares.

  Attributes:
    slope: change in accuracy per unit of AUC.
    intercept: accuracy at AUC 0, which no features have.
    r_squared: share of the variance of accuracy that the line explains; 0 if
      all accuracies are equal.
  """

  slope: float
  intercept: float
  r_squared: float

  def predict(self, aucs: Numbers) -> Float[np.ndarray, "n"]:
    """Returns the predicted accuracy at each AUC."""
    return self.slope * np.asarray(aucs, np.float64) + self.intercept


class Forecast(NamedTuple):
  """Forecasts of accuracy for held-out runs, and their errors.

  The baseline predicts the mean accuracy of the other runs' checkpoints.

  Attributes:
    predicted: forecast for each checkpoint, by the line of all other runs.
    mean_absolute_error: error of `predicted`.
    root_mean_square_error: error of `predicted`.
    baseline_mean_absolute_error: error of the baseline.
    baseline_root_mean_square_error: error of the baseline.
  """

  predicted: Float[np.ndarray, "n"]
  mean_absolute_error: float
  root_mean_square_error: float
  baseline_mean_absolute_error: float
  baseline_root_mean_square_error: float


def fit_accuracy(aucs: Numbers, accuracies: Numbers) -> LinearFit:
  """Fits accuracy as a line in the AUC, by least squares in float64.

  Example:
    >>> fit = fit_accuracy([0.7, 0.8, 0.9], [0.6, 0.5, 0.4])
    >>> fit.predict([0.75])
    array([0.55])
  """
  x, y = _columns(2, aucs=aucs, accuracies=accuracies)
  _check_vary("aucs", x)
  slope, intercept = np.polyfit(x, y, 1)
  correlation = np.corrcoef(x, y)[0, 1] if np.ptp(y) else 0
  return LinearFit(float(slope), float(intercept), float(correlation**2))


def leave_one_run_out(
  aucs: Numbers, accuracies: Numbers, runs: Sequence[object] | np.ndarray
) -> Forecast:
  """Forecasts the checkpoints of each run from the line of all other runs.

  Example:
    >>> aucs, accuracies = [0.7, 0.8, 0.7, 0.9], [0.6, 0.5, 0.6, 0.4]
    >>> leave_one_run_out(aucs, accuracies, ["a", "a", "b", "b"]).predicted
    array([0.6, 0.5, 0.6, 0.4])

  Args:
    runs: name or number of the run of each checkpoint.
  """
  x, y = _columns(2, aucs=aucs, accuracies=accuracies)
  names, run = np.unique(np.asarray(runs), return_inverse=True)
  if run.shape != x.shape:
    raise ValueError(
      f"runs must have one entry for each of {len(x)} aucs, not {run.size}"
    )
  if len(names) < 2:
    raise ValueError(
      f"leave-one-run-out needs at least 2 runs, not {len(names)} "
      f"({', '.join(map(str, names))})"
    )
  predicted, baseline = np.empty_like(y), np.empty_like(y)
  for i, name in enumerate(names):
    held_out = run == i
    try:
      fit = fit_accuracy(x[~held_out], y[~held_out])
    except ValueError as error:
      raise ValueError(f"without run {name}: {error}") from error
    predicted[held_out] = fit.predict(x[held_out])
    baseline[held_out] = y[~held_out].mean()

  def errors(forecast: Float[np.ndarray, "n"]) -> tuple[float, float]:
    gap = forecast - y
    return float(np.mean(np.abs(gap))), float(np.sqrt(np.mean(gap**2)))

  return Forecast(predicted, *errors(predicted), *errors(baseline))


def rank_checkpoints(aucs: Numbers) -> Int[np.ndarray, "n"]:
  """Returns indices of checkpoints, least collapsed first; ties: earlier first.

  Example:
    >>> rank_checkpoints([0.8, 0.6, 0.7])
    array([1, 2, 0])
  """
  (x,) = _columns(1, aucs=aucs)
  return np.argsort(x, kind="stable")


def rank_correlation(aucs: Numbers, accuracies: Numbers) -> float:
  """Returns Spearman's correlation of negative AUC and accuracy.

  1 if the less collapsed of any two checkpoints is the more accurate. Ties
  share their mean rank.

  Example:
    >>> round(rank_correlation([0.8, 0.6, 0.7], [0.5, 0.7, 0.6]), 6)
    1.0
  """
  x, y = _columns(2, aucs=aucs, accuracies=accuracies)
  _check_vary("aucs", x)
  _check_vary("accuracies", y)
  return float(np.corrcoef(_ranks(-x), _ranks(y))[0, 1])


def collapse_onset(
  steps: Sequence[int] | Int[np.ndarray, "n"],
  aucs: Numbers,
  *,
  margin: float = 0.25,
  patience: int = 2,
) -> int | None:
  """Returns the step at which a run begins to collapse, or None.

  The onset is the step of the lowest AUC (the last of equal ones), if the last
  `patience` checkpoints follow it and have all covered more than `margin` of
  the way from there to 1. The rule is our own. It ignores accuracy and the AUC
  of the untrained backbone: report that AUC next to it.

  Example:
    >>> collapse_onset([10, 20, 30, 40], [0.8, 0.7, 0.8, 0.9])
    20

  Args:
    steps: steps of the checkpoints of one run, ascending, without step 0.
    margin: share of the way from the lowest AUC to 1, in [0, 1).
    patience: number of checkpoints, at least 1.
  """
  when, x = _columns(1, steps=steps, aucs=aucs)
  if np.any(np.diff(when) <= 0):
    raise ValueError(f"steps must ascend strictly, not {list(steps)}")
  if not 0 <= margin < 1 or patience < 1:
    raise ValueError(
      f"margin={margin} must be in [0, 1), patience={patience} at least 1"
    )
  lowest = len(x) - 1 - int(np.argmin(x[::-1]))
  since = x[lowest + 1 :][-patience:]
  limit = x[lowest] + margin * (1 - x[lowest])
  if len(since) < patience or np.any(since <= limit):
    return None
  return int(steps[lowest])


def _columns(
  least: int, **columns: Sequence[float] | Sequence[int] | np.ndarray
) -> list[Float[np.ndarray, "n"]]:
  """Returns finite float64 columns of equal length, at least `least`."""
  arrays = {
    name: np.asarray(values, np.float64) for name, values in columns.items()
  }
  names = " and ".join(arrays)
  shapes = [array.shape for array in arrays.values()]
  if len(set(shapes)) != 1 or len(shapes[0]) != 1:
    raise ValueError(
      f"{names} must be lists of the same length, not of shapes "
      f"{', '.join(map(str, shapes))}"
    )
  if shapes[0][0] < least:
    raise ValueError(
      f"{names}: {shapes[0][0]} points, but at least {least} are needed"
    )
  for name, array in arrays.items():
    if not np.isfinite(array).all():
      bad = int((~np.isfinite(array)).sum())
      raise ValueError(f"{bad} of {len(array)} {name} are not finite")
  return list(arrays.values())


def _ranks(values: Float[np.ndarray, "n"]) -> Float[np.ndarray, "n"]:
  """Returns ranks from 1; equal values share their mean rank."""
  _, position, counts = np.unique(
    values, return_inverse=True, return_counts=True
  )
  return (np.cumsum(counts) - (counts - 1) / 2)[position]


def _check_vary(name: str, values: Float[np.ndarray, "n"]) -> None:
  if not np.ptp(values):
    raise ValueError(
      f"all {len(values)} {name} are {values[0]:.6g}; they must differ"
    )
