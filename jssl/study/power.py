"""Intervals of paired differences, and the differences that a study can see."""

from collections.abc import Sequence
from typing import NamedTuple

import numpy as np
from scipy import stats

_LEVEL, _POWER = 0.95, 0.8


class Difference(NamedTuple):
  """A mean paired difference over seeds.

  Attributes:
    mean: mean difference.
    low, high: 95% interval of Student's t over seeds.
    bootstrap_low, bootstrap_high: 95% percentiles of bootstrapped means, which
      are too narrow for few seeds.
    detectable: see `detectable`, with the standard deviation of the seeds.
  """

  mean: float
  low: float
  high: float
  bootstrap_low: float
  bootstrap_high: float
  detectable: float


def detectable(std: float, seeds: int) -> float:
  """Returns the true difference that a paired t-test finds in 80% of studies.

  At a level of 5%, two-sided; by the usual approximation (t_0.975 + t_0.8) std
  / sqrt(seeds) with seeds - 1 degrees of freedom.

  Example:
    >>> round(detectable(0.5, 6), 2)
    0.71

  Args:
    std: standard deviation of the paired difference between seeds.
    seeds: number of seeds, at least 2.
  """
  quantiles = stats.t.ppf([(1 + _LEVEL) / 2, _POWER], seeds - 1)
  return float(np.sum(quantiles) * std / seeds**0.5)


def difference(a: Sequence[float], b: Sequence[float]) -> Difference:
  """Returns the difference a - b of values that are paired by seed.

  Raises:
    ValueError: if the numbers of values differ or are below 3.
  """
  if len(a) != len(b) or len(a) < 3:
    raise ValueError(
      f"expected the same number of seeds, at least 3; received {len(a)} and "
      f"{len(b)}"
    )
  x = np.asarray(a) - np.asarray(b)
  std = float(np.std(x, ddof=1))
  half = stats.t.ppf((1 + _LEVEL) / 2, len(x) - 1) * std / len(x) ** 0.5
  resampled = np.random.default_rng(0).choice(x, (10_000, len(x))).mean(1)
  low, high = np.quantile(resampled, [(1 - _LEVEL) / 2, (1 + _LEVEL) / 2])
  mean = float(x.mean())
  return Difference(
    mean,
    float(mean - half),
    float(mean + half),
    float(low),
    float(high),
    detectable(std, len(x)),
  )
