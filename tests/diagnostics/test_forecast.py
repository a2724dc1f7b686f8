import numpy as np
import pytest

from jssl.diagnostics import forecast


def checkpoints(runs=4, each=5, noise=0.05):
  rng = np.random.default_rng(0)
  aucs = rng.uniform(0.6, 1, runs * each)
  accuracies = 1.2 - 0.9 * aucs + noise * rng.normal(size=runs * each)
  names = rng.permutation(np.repeat([f"run {i}" for i in range(runs)], each))
  return aucs, accuracies, names


def test_a_line_without_noise_is_recovered():
  aucs, accuracies, runs = checkpoints(noise=0)
  fit = forecast.fit_accuracy(aucs, accuracies)
  np.testing.assert_allclose(fit, [-0.9, 1.2, 1])
  np.testing.assert_allclose(fit.predict([0.5, 0.7]), [0.75, 0.57])
  found = forecast.leave_one_run_out(aucs, accuracies, runs)
  np.testing.assert_allclose(found.predicted, accuracies)
  assert found.root_mean_square_error < 1e-12
  assert found.baseline_root_mean_square_error > 0.05
  assert all(type(number) is float for number in (*fit, *found[1:]))


def test_the_fit_is_that_of_least_squares():
  aucs, accuracies, _ = checkpoints()
  fit = forecast.fit_accuracy(aucs, accuracies)
  np.testing.assert_allclose(fit[:2], np.polyfit(aucs, accuracies, 1))
  correlation = np.corrcoef(aucs, accuracies)[0, 1]
  np.testing.assert_allclose(fit.r_squared, correlation**2)


def test_accuracies_that_are_all_equal_are_a_flat_line():
  fit = forecast.fit_accuracy([0.6, 0.7, 0.9], [0.3, 0.3, 0.3])
  np.testing.assert_allclose(fit, [0, 0.3, 0], atol=1e-15)


def test_each_run_is_forecast_by_all_others():
  aucs, accuracies, runs = checkpoints()
  found = forecast.leave_one_run_out(aucs, accuracies, runs)
  predicted, baseline = [], []
  for i in range(len(aucs)):
    others = [j for j in range(len(aucs)) if runs[j] != runs[i]]
    assert len(others) == 15
    line = np.polyfit(aucs[others], accuracies[others], 1)
    predicted.append(np.polyval(line, aucs[i]))
    baseline.append(np.mean(accuracies[others]))
  np.testing.assert_allclose(found.predicted, predicted)
  errors = []
  for values in (predicted, baseline):
    left = np.array(values) - accuracies
    errors += [np.abs(left).mean(), np.sqrt((left**2).mean())]
  np.testing.assert_allclose(found[1:], errors)


def test_runs_may_be_numbers_of_any_size():
  aucs, accuracies, names = checkpoints()
  numbers = [7 * int(name[-1]) + 3 for name in names]
  np.testing.assert_array_equal(
    forecast.leave_one_run_out(aucs, accuracies, numbers).predicted,
    forecast.leave_one_run_out(aucs, accuracies, names).predicted,
  )


def test_the_least_collapsed_checkpoint_is_first():
  ranked = forecast.rank_checkpoints([0.8, 0.6, 0.9, 0.6])
  np.testing.assert_array_equal(ranked, [1, 3, 0, 2])


def ranks(x):
  return np.array([np.mean(np.flatnonzero(np.sort(x) == v)) for v in x])


def test_rank_correlation_is_that_of_ranks():
  aucs = np.array([0.9, 0.7, 0.7, 0.8, 0.6])
  accuracies = np.array([0.2, 0.5, 0.4, 0.4, 0.3])
  expected = np.corrcoef(ranks(-aucs), ranks(accuracies))[0, 1]
  found = forecast.rank_correlation(aucs, accuracies)
  np.testing.assert_allclose(found, expected)
  assert type(found) is float
  np.testing.assert_allclose(forecast.rank_correlation(aucs, -(aucs**3)), 1)
  np.testing.assert_allclose(forecast.rank_correlation(aucs, aucs**3), -1)


@pytest.mark.parametrize(
  ("aucs", "onset"),
  [
    ([0.7, 0.65, 0.62, 0.6], None),
    ([0.7, 0.6, 0.65, 0.71, 0.75], 20),
    # One checkpoint above the limit, less than `patience`.
    ([0.7, 0.65, 0.6, 0.8], None),
    # The AUC comes back down.
    ([0.7, 0.6, 0.8, 0.605], None),
    ([0.7, 0.6, 0.8, 0.8, 0.69, 0.8], None),
    # Slow at first; exactly a quarter of the way is not above the limit.
    ([0.6, 0.605, 0.65, 0.71, 0.73], 10),
    ([0.5, 0.625, 0.75], None),
    ([0.5, 0.626, 0.75], 10),
    # A run whose accuracy rose; its random backbone had an AUC of 0.927.
    ([0.914, 0.921, 0.925, 0.9241], None),
    # The last of several minima.
    ([0.6, 0.6, 0.71, 0.71], 20),
    ([0.6], None),
  ],
)
def test_collapse_begins_at_the_lowest_auc(aucs, onset):
  steps = 10 * np.arange(1, len(aucs) + 1)
  found = forecast.collapse_onset(steps, aucs)
  assert found == onset
  assert found is None or type(found) is int


def test_patience_and_margin_delay_the_onset():
  steps, aucs = [10, 20, 30, 40], [0.6, 0.72, 0.74, 0.81]
  assert forecast.collapse_onset(steps, aucs) == 10
  assert forecast.collapse_onset(steps, aucs, patience=3) == 10
  assert forecast.collapse_onset(steps, aucs, patience=4) is None
  assert forecast.collapse_onset(steps, aucs, margin=0.5) is None
  assert forecast.collapse_onset(steps, aucs, margin=0.5, patience=1) == 10


@pytest.mark.parametrize(
  ("call", "message"),
  [
    (lambda: forecast.fit_accuracy([0.6], [0.5]), "1 points, but at least 2"),
    (lambda: forecast.fit_accuracy([0.6, 0.7], [0.5]), r"\(2,\), \(1,\)"),
    (
      lambda: forecast.fit_accuracy([0.7, 0.7], [0.5, 0.6]),
      "all 2 aucs are 0.7",
    ),
    (
      lambda: forecast.fit_accuracy([0.7, np.nan, 0.9], [0.5, 0.6, 0.7]),
      "1 of 3 aucs are not finite",
    ),
    (
      lambda: forecast.fit_accuracy([0.7, 0.8], [0.5, np.inf]),
      "1 of 2 accuracies are not finite",
    ),
    (
      lambda: forecast.leave_one_run_out([0.6, 0.7], [0.5, 0.6], ["a", "a"]),
      r"at least 2 runs, not 1 \(a\)",
    ),
    (
      lambda: forecast.leave_one_run_out([0.6, 0.7], [0.5, 0.6], ["a"]),
      "one entry for each of 2 aucs, not 1",
    ),
    (
      lambda: forecast.leave_one_run_out(
        [0.6, 0.7, 0.7], [0.5, 0.6, 0.7], ["a", "b", "b"]
      ),
      "without run a: all 2 aucs are 0.7",
    ),
    (
      lambda: forecast.leave_one_run_out([0.6, 0.7], [0.5, 0.6], [0, 1]),
      "without run 0: .* 1 points",
    ),
    (lambda: forecast.rank_checkpoints([]), "0 points"),
    (
      lambda: forecast.rank_correlation([0.6, 0.7], [0.5, 0.5]),
      "all 2 accuracies are 0.5",
    ),
    (lambda: forecast.collapse_onset([], []), "0 points"),
    (lambda: forecast.collapse_onset([1], [0.6, 0.7]), r"\(1,\), \(2,\)"),
    (lambda: forecast.collapse_onset([2, 2], [0.6, 0.7]), "steps must ascend"),
    (
      lambda: forecast.collapse_onset([1, 2], [0.6, 0.7], patience=0),
      "patience=0 at least 1",
    ),
    (
      lambda: forecast.collapse_onset([1, 2], [0.6, 0.7], margin=1),
      r"margin=1 must be in \[0, 1\)",
    ),
  ],
)
def test_inputs_without_a_forecast_are_errors(call, message):
  with pytest.raises(ValueError, match=message):
    call()
