import numpy as np
import pytest
from oracles.probe import SETTINGS, logistic_regression

from jssl.config.schema import Probe
from jssl.probe import linear, suite
from jssl.probe.classes import calibration_error, classes_record
from jssl.probe.splits import Predictions

FIELDS = {
  "step": 1,
  "dataset": "made",
  "features": "backbone",
  "probe": "linear",
  "vectors": "pooled",
  "seeds": 2,
}


def by_bins(confidence, right):
  """Guo et al., eq. 3, bin by bin."""
  error = 0.0
  for m in range(1, 16):
    of_bin = [
      (c, r)
      for c, r in zip(confidence, right, strict=True)
      if (m - 1) / 15 < c <= m / 15
    ]
    if of_bin:
      accuracy = sum(r for _, r in of_bin) / len(of_bin)
      mean = sum(c for c, _ in of_bin) / len(of_bin)
      error += len(of_bin) / len(right) * abs(accuracy - mean)
  return error


def test_the_calibration_error_equals_the_loop():
  rng = np.random.default_rng(0)
  confidence = np.append(rng.random(500), [0.0, 1.0, 2 / 3, 1.0])
  right = rng.random(504) < confidence**2
  got = calibration_error(confidence, right)
  # A confidence of 0, which no classifier has, counts in the first bin.
  confidence[500] = 1e-9
  np.testing.assert_allclose(got, by_bins(confidence, right), rtol=1e-7)
  assert got > 0.1
  calibrated = rng.random(500_000)
  assert calibration_error(calibrated, rng.random(500_000) < calibrated) < 0.005


def made(num_classes, rows=400):
  """Predictions of two seeds; the last class has no test images."""
  rng = np.random.default_rng(0)
  labels = (rng.random(rows) ** 2 * (num_classes - 1)).astype(np.int32)
  wrong = rng.integers(0, num_classes, (2, rows))
  predicted = np.where(rng.random((2, rows)) < 0.6, labels, wrong)
  return Predictions(predicted, rng.random((2, rows))), labels


@pytest.mark.parametrize("num_classes", [5, 100, 101])
def test_the_record_equals_the_loops(num_classes):
  predictions, labels = made(num_classes)
  names = [f"class {i}" for i in range(num_classes)]
  got = classes_record(predictions, labels, names, **FIELDS)
  confusion = np.zeros((num_classes, num_classes), int)
  balanced, errors = [], []
  for predicted, confidence in zip(*predictions, strict=True):
    of_class = {}
    for label, found in zip(labels, predicted, strict=True):
      confusion[label, found] += 1
      of_class.setdefault(label, []).append(found == label)
    balanced.append(np.mean([np.mean(x) for x in of_class.values()]))
    errors.append(by_bins(confidence, predicted == labels))
  np.testing.assert_allclose(got.balanced_accuracy, np.mean(balanced))
  np.testing.assert_allclose(got.balanced_accuracy_std, np.std(balanced))
  np.testing.assert_allclose(got.calibration_error, np.mean(errors))
  np.testing.assert_allclose(got.calibration_error_std, np.std(errors))
  assert got.images == np.bincount(labels, minlength=num_classes).tolist()
  assert got.images[-1] == 0
  shares = np.diag(confusion) / np.maximum(confusion.sum(1), 1)
  np.testing.assert_allclose(got.accuracy, shares)
  np.fill_diagonal(wrong := confusion.copy(), 0)
  most = np.sort(wrong.ravel())[::-1][:50]
  if num_classes > 100:
    assert got.confusion == []
    assert [count for *_, count in got.confused] == most.tolist()
    assert all(wrong[a, b] == count for a, b, count in got.confused)
  else:
    assert got.confusion == confusion.tolist()
    assert got.confused == []
  ((label, predicted, count),) = got.most_confused(1)
  assert wrong[names.index(label), names.index(predicted)] == count == most[0]


@pytest.mark.slow
def test_predictions_are_those_of_the_fitted_probes(train, test, one_device):
  probes = {**SETTINGS, "probes": ("linear", "mlp"), "label_fractions": (0.5,)}
  for limit in (1.0, 1e-6):  # In memory, and in minibatches.
    settings = Probe(**probes, memory_limit_gib=limit)
    for _, _, result in suite.fit_all(settings, train, test, one_device):
      found = result.predict(test.h)
      assert found.labels.shape == found.confidence.shape == (2, 203)
      np.testing.assert_array_equal(
        (found.labels == test.labels).mean(1), result.test_accuracy
      )
      assert found.confidence.min() > 0.25
      # Confident predictions are right more often.
      sure = found.confidence > np.median(found.confidence)
      right = found.labels == test.labels
      assert right[sure].mean() > right[~sure].mean() + 0.03


def test_confidence_is_the_largest_softmax(train, test, one_device):
  settings = Probe(**SETTINGS)
  few = test._replace(h=test.h[:5], labels=test.labels[:5])
  found = linear.probe(train, few, settings, mesh=one_device)
  h = (few.h - train.h.mean(0)) / train.h.std(0)
  weights = np.ones(len(train.labels))
  x = (train.h - train.h.mean(0)) / train.h.std(0)
  for seed, l2 in enumerate(found.chosen["l2"]):
    w, b = logistic_regression(x, train.labels, weights, l2, 4)
    odds = np.exp(h @ w.T + b)
    want = odds.max(1) / odds.sum(1)
    got = found.predict(few.h).confidence[seed]
    np.testing.assert_allclose(got, want, atol=0.01)
