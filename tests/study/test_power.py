"""Intervals and power against simulated studies."""

import doctest

import numpy as np
import pytest
from scipy import stats

from jssl.study import power


def test_the_interval_is_that_of_a_paired_t_test():
  rng = np.random.default_rng(0)
  a, b = rng.normal(size=(2, 7)) + np.array([[0.5], [0]])
  expected = stats.ttest_rel(a, b).confidence_interval(0.95)
  found = power.difference(a.tolist(), b.tolist())
  np.testing.assert_allclose((found.low, found.high), expected)
  np.testing.assert_allclose(found.mean, np.mean(a - b))


def test_bootstrap_percentiles_are_those_of_scipy():
  x = np.random.default_rng(1).normal(size=30)
  expected = stats.bootstrap(
    (x,), np.mean, method="percentile", rng=np.random.default_rng(2)
  ).confidence_interval
  found = power.difference(x.tolist(), [0] * 30)
  np.testing.assert_allclose(
    (found.bootstrap_low, found.bootstrap_high), expected, atol=0.03
  )


def test_the_detectable_difference_is_found_in_80_percent_of_studies():
  seeds, std = 6, 0.4
  rng = np.random.default_rng(0)
  size = (20_000, seeds)
  x = rng.normal(power.detectable(std, seeds), std, size)
  found = stats.ttest_1samp(x, 0, axis=1).pvalue < 0.05
  assert 0.78 < found.mean() < 0.85


def test_too_few_seeds():
  with pytest.raises(ValueError, match="at least 3; received 2 and 2"):
    power.difference([1, 2], [1, 2])
  with pytest.raises(ValueError, match="received 4 and 3"):
    power.difference([1, 2, 3, 4], [1, 2, 3])


def test_the_example():
  assert doctest.testmod(power).failed == 0
