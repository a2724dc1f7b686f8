import functools

import numpy as np
import pytest
from sklearn.linear_model import Ridge
from sklearn.model_selection import StratifiedGroupKFold
from sklearn.svm import SVC

from jssl.kernel_regime.classifiers import kernel_accuracy

svm_accuracy = functools.partial(kernel_accuracy, "svm")
ridge_accuracy = functools.partial(kernel_accuracy, "ridge")
ACCURACIES = [svm_accuracy, ridge_accuracy]


def draw(n, seed, separation=1.5):
  rng = np.random.default_rng(seed)
  labels = np.arange(n) % 3
  means = np.random.default_rng(9).normal(size=(3, 4))
  return separation * means[labels] + rng.normal(size=(n, 4)), labels


@pytest.fixture
def problem():
  x, labels = draw(60, 0)
  test, labels_test = draw(45, 1)
  return x @ x.T, labels, test @ x.T, labels_test


def test_svm_is_that_of_the_features(problem):
  x, labels = draw(60, 0)
  test, labels_test = draw(45, 1)
  found = svm_accuracy(*problem, values=(3.0,), folds=4, seed=2)
  scale = np.sqrt(np.mean(np.sum(x**2, 1)))
  linear = SVC(C=3.0, kernel="linear").fit(x / scale, labels)
  expected = linear.score(test / scale, labels_test)
  np.testing.assert_allclose(found.test_accuracy, expected)
  splits = StratifiedGroupKFold(4, shuffle=True, random_state=2).split(
    x, labels, np.arange(60)
  )
  right = sum(
    np.sum(
      SVC(C=3.0, kernel="linear")
      .fit(x[fit] / scale, labels[fit])
      .predict(x[held] / scale)
      == labels[held]
    )
    for fit, held in splits
  )
  np.testing.assert_allclose(found.validation_accuracy, right / 60)


@pytest.mark.parametrize("weight", [1e-3, 0.5])
def test_ridge_is_that_of_the_features_with_an_intercept(problem, weight):
  x, labels = draw(60, 0)
  test, labels_test = draw(45, 1)
  found = ridge_accuracy(*problem, values=(weight,))
  scale = np.mean(np.sum(x**2, 1))
  model = Ridge(alpha=weight * 60 * scale).fit(x, np.eye(3)[labels])
  expected = np.mean(model.predict(test).argmax(1) == labels_test)
  np.testing.assert_allclose(found.test_accuracy, expected)


@pytest.mark.parametrize("accuracy", ACCURACIES)
def test_scale_of_the_kernel_does_not_matter(accuracy, problem):
  k, labels, k_test, labels_test = problem
  assert accuracy(*problem) == accuracy(
    2**20 * k, labels, 2**20 * k_test, labels_test
  )


@pytest.mark.parametrize("accuracy", ACCURACIES)
def test_the_test_set_has_no_say_in_the_choice(accuracy, problem):
  k, labels, k_test, labels_test = problem
  one = accuracy(*problem)
  two = accuracy(k, labels, k_test, (labels_test + 1) % 3)
  assert one[1:] == two[1:]
  assert one.test_accuracy > 0.6 > two.test_accuracy


def test_best_of_validation_is_chosen_and_the_first_of_equals(problem):
  values = (1e-9, 1.0, 1.0 + 1e-12)
  each = [svm_accuracy(*problem, values=(c,)) for c in values]
  found = svm_accuracy(*problem, values=values)
  assert each[0].validation_accuracy < each[1].validation_accuracy
  assert found == each[1]


def test_views_of_an_image_stay_in_one_fold():
  # Labels are noise, but each point is there twice: only with a copy of it to
  # learn from is anything better than chance.
  x, _ = draw(40, 0, separation=0)
  labels = np.random.default_rng(0).integers(0, 2, 40)
  x, labels = np.repeat(x, 2, 0), np.repeat(labels, 2)
  squares = np.sum((x[:, None] - x[None]) ** 2, axis=2)
  k = np.exp(-squares * 20)
  problem = (k, labels, k, labels)
  apart = svm_accuracy(*problem, values=(100.0,))
  groups = np.repeat(np.arange(40), 2)
  together = svm_accuracy(*problem, values=(100.0,), groups=groups)
  assert apart.validation_accuracy > 0.8
  assert together.validation_accuracy < 0.7


@pytest.mark.parametrize("accuracy", ACCURACIES)
def test_some_points_are_only_fitted(accuracy, problem):
  """As if they were not there, where they have nothing to do with the rest."""
  k, labels, k_test, labels_test = problem
  extra = 20
  n = len(labels)
  # Far from everything, and so of no use to anything.
  more = np.eye(n + extra)
  more[:n, :n] = k / np.trace(k) * n
  both = np.append(labels, np.arange(extra) % len(np.unique(labels)))
  wide = np.pad(k_test / np.trace(k) * n, ((0, 0), (0, extra)))
  scored = np.arange(n + extra) < n
  own = accuracy(more, both, wide, labels_test, scored=scored)
  every = accuracy(more, both, wide, labels_test)
  assert own.validation_accuracy > every.validation_accuracy
  with pytest.raises(ValueError, match="scored is False for all"):
    accuracy(more, both, wide, labels_test, scored=np.zeros(n + extra, bool))


@pytest.mark.usefixtures("unchecked")
@pytest.mark.parametrize("accuracy", ACCURACIES)
def test_bad_input_is_refused(accuracy, problem):
  k, labels, k_test, labels_test = problem
  with pytest.raises(ValueError, match=r"k_test \[45, 60\]"):
    accuracy(k, labels, k_test.T, labels_test)
  with pytest.raises(ValueError, match="one class"):
    accuracy(k, 0 * labels, k_test, labels_test)
  with pytest.raises(ValueError, match="20 of 105 points have no label"):
    accuracy(k, labels - (labels == 0), k_test, labels_test)
  with pytest.raises(ValueError, match=r"folds=21"):
    accuracy(*problem, folds=21)
  with pytest.raises(ValueError, match="k_test has non-finite"):
    accuracy(k, labels, np.full_like(k_test, np.nan), labels_test)
