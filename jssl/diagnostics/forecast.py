"""What the spectrum forecasts: accuracy, the best checkpoint, a collapse.

Li, Efros and Pathak (ECCV 2022, arXiv 2209.15007) forecast the accuracy of a
linear probe from the AUC of `spectrum.collapse_auc` by a linear fit over
checkpoints and runs. That the fit is a line in the AUC is recalled, not read in
a source, and so unverified. Ranks and the onset need no accuracies at all.
"""

from collections.abc import Sequence
from typing import NamedTuple

import numpy as np
from jaxtyping import Float, Int

Numbers = Sequence[float] | Float[np.ndarray, "n"]


class LinearFit(NamedTuple):
  """accuracy = slope * AUC + intercept, by least squares.

  Attributes:
    slope: change in accuracy for a change of 1 in AUC; negative where collapse
      costs accuracy.
    intercept: accuracy at AUC 0 (which no features have).
    r_squared: share of the variance of accuracy that the line explains; 0 where
      all accuracies are equal.
  """

  slope: float
  intercept: float
  r_squared: float

  def predict(self, aucs: Numbers) -> Float[np.ndarray, "n"]:
    """Returns the accuracy that the line gives for each AUC."""
    return self.slope * np.asarray(aucs, np.float64) + self.intercept


class Forecast(NamedTuple):
  """How well accuracy is forecast for runs that the fit hasn't seen.

  Attributes:
    predicted: accuracy of each checkpoint, by the line of all other runs.
    mean_absolute_error: of `predicted`.
    root_mean_square_error: of `predicted`.
    baseline_mean_absolute_error: of predicting the mean accuracy of the other
      runs' checkpoints; a forecast is of use if it is below this.
    baseline_root_mean_square_error: of the same.
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

  Args:
    aucs: of each checkpoint, from `collapse_auc`.
    accuracies: of a linear probe on the same checkpoints.

  Raises:
    ValueError: fewer than two points, not as many of one as of the other,
      values that are not finite, or AUCs that are all equal.
  """
  x, y = _checked(least=2, aucs=aucs, accuracies=accuracies)
  _check_differ("aucs", x)
  offset = x - x.mean()
  slope = offset @ (y - y.mean()) / (offset @ offset)
  intercept = y.mean() - slope * x.mean()
  left = np.sum((y - slope * x - intercept) ** 2)
  total = np.sum((y - y.mean()) ** 2)
  return LinearFit(
    slope=float(slope),
    intercept=float(intercept),
    # Rounding may leave more than there was.
    r_squared=max(float(1 - left / total), 0.0) if np.ptp(y) else 0.0,
  )


def leave_one_run_out(
  aucs: Numbers, accuracies: Numbers, runs: Sequence[object] | np.ndarray
) -> Forecast:
  """Forecasts the checkpoints of each run by the line of all other runs.

  Checkpoints of one run resemble each other: leaving out single ones would
  flatter the fit.

  Example:
    >>> runs = ["a", "a", "b", "b"]
    >>> forecast = leave_one_run_out(
    ...   [0.7, 0.8, 0.7, 0.9], [0.6, 0.5, 0.6, 0.4], runs
    ... )
    >>> forecast.predicted
    array([0.6, 0.5, 0.6, 0.4])

  Args:
    aucs: of each checkpoint.
    accuracies: of each checkpoint.
    runs: name or number of the run that each checkpoint is of.

  Raises:
    ValueError: fewer than two runs; and as `fit_accuracy`, of the checkpoints
      that remain without a run.
  """
  x, y = _checked(least=2, aucs=aucs, accuracies=accuracies)
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
    left_out = run == i
    try:
      fit = fit_accuracy(x[~left_out], y[~left_out])
    except ValueError as error:
      raise ValueError(f"without run {name}: {error}") from error
    predicted[left_out] = fit.predict(x[left_out])
    baseline[left_out] = y[~left_out].mean()
  return Forecast(
    predicted=predicted,
    mean_absolute_error=float(np.mean(np.abs(predicted - y))),
    root_mean_square_error=float(np.sqrt(np.mean((predicted - y) ** 2))),
    baseline_mean_absolute_error=float(np.mean(np.abs(baseline - y))),
    baseline_root_mean_square_error=float(
      np.sqrt(np.mean((baseline - y) ** 2))
    ),
  )


def rank_checkpoints(aucs: Numbers) -> Int[np.ndarray, "n"]:
  """Returns the indices of checkpoints, least collapsed first, without labels.

  Of equal ones the earlier comes first.

  Example:
    >>> rank_checkpoints([0.8, 0.6, 0.7])
    array([1, 2, 0])

  Raises:
    ValueError: there are none, or some are not finite.
  """
  (x,) = _checked(least=1, aucs=aucs)
  return np.argsort(x, kind="stable")


def rank_correlation(aucs: Numbers, accuracies: Numbers) -> float:
  """Returns Spearman's correlation of the order by AUC with accuracy.

  1 where the less collapsed of any two checkpoints is the more accurate one, -1
  where it is the less accurate one; ties share their mean rank.

  Example:
    >>> round(rank_correlation([0.8, 0.6, 0.7], [0.5, 0.7, 0.6]), 6)
    1.0

  Raises:
    ValueError: fewer than two points, not as many of one as of the other,
      values that are not finite, or all equal.
  """
  x, y = _checked(least=2, aucs=aucs, accuracies=accuracies)
  _check_differ("aucs", x)
  _check_differ("accuracies", y)
  return float(np.corrcoef(_ranks(-x), _ranks(y))[0, 1])


def collapse_onset(
  steps: Sequence[int] | Int[np.ndarray, "n"],
  aucs: Numbers,
  *,
  margin: float = 0.25,
  patience: int = 2,
) -> int | None:
  """Returns the step at which a run began to collapse, None if it did not.

  That is the step of its lowest AUC (the last, if several are), if each of its
  last `patience` or more checkpoints has gone more than `margin` of the way
  from there to 1. Our own rule, in no paper: it knows neither the accuracy nor
  where training began, so tell the AUC of the random backbone beside it. A run
  that comes back down has not collapsed.

  Example:
    >>> collapse_onset([10, 20, 30, 40], [0.8, 0.7, 0.8, 0.9])
    20

  Args:
    steps: of the checkpoints of one run, ascending. An untrained backbone's
      (step 0) AUC says nothing of training: the caller leaves it out.
    aucs: of each checkpoint.
    margin: share of the way from the lowest AUC to 1, in [0, 1).
    patience: checkpoints, at least 1.

  Raises:
    ValueError: there are no checkpoints, not as many steps as AUCs, steps that
      don't ascend, AUCs that are not finite, or `margin` or `patience` out of
      range.
  """
  when, x = _checked(least=1, steps=steps, aucs=aucs)
  if np.any(np.diff(when) <= 0):
    raise ValueError(f"steps must ascend, each once, not {list(steps)}")
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


def _checked(
  *, least: int, **columns: Sequence[float] | Sequence[int] | np.ndarray
) -> list[Float[np.ndarray, "n"]]:
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
  """Ranks from 1; equal values share their mean rank."""
  _, position, counts = np.unique(
    values, return_inverse=True, return_counts=True
  )
  return (np.cumsum(counts) - (counts - 1) / 2)[position]


def _check_differ(name: str, values: Float[np.ndarray, "n"]) -> None:
  if not np.ptp(values):
    raise ValueError(
      f"all {len(values)} {name} are {values[0]:.6g}; they must differ"
    )
