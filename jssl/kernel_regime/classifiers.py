"""SVM and ridge classifiers on a precomputed kernel, with cross-validation."""

from collections.abc import Sequence
from typing import Literal, NamedTuple

import numpy as np
from jaxtyping import Bool, Float, Int
from sklearn.kernel_ridge import KernelRidge
from sklearn.model_selection import StratifiedGroupKFold
from sklearn.preprocessing import KernelCenterer
from sklearn.svm import SVC

Labels = Int[np.ndarray, "n"]
TestLabels = Int[np.ndarray, "m"]
Square = Float[np.ndarray, "n n"]
Cross = Float[np.ndarray, "m n"]
Classifier = Literal["svm", "ridge"]

# Of equal accuracies the first value is taken: the strongest regularisation.
C_VALUES = (1e-2, 1e-1, 1.0, 1e1, 1e2, 1e3)
RIDGE_VALUES = (1.0, 1e-1, 1e-2, 1e-3, 1e-4, 1e-5, 1e-6)


class Accuracy(NamedTuple):
  """Accuracy of a classifier on a kernel.

  Attributes:
    test_accuracy: in [0, 1], with the chosen hyper-parameter.
    validation_accuracy: mean over the points of train, by cross-validation.
    chosen: C of the SVM, or the weight of the ridge.
  """

  test_accuracy: float
  validation_accuracy: float
  chosen: float


def _svm(c: float, k: Square, labels: Labels, k_test: Cross) -> TestLabels:
  return SVC(C=c, kernel="precomputed").fit(k, labels).predict(k_test)


def _ridge(
  weight: float, k: Square, labels: Labels, k_test: Cross
) -> TestLabels:
  classes, index = np.unique(labels, return_inverse=True)
  targets = np.eye(len(classes))[index]
  mean = targets.mean(0)
  # Centred features and targets amount to an intercept without penalty.
  centre = KernelCenterer().fit(k)
  model = KernelRidge(alpha=weight * len(k), kernel="precomputed")
  model.fit(centre.transform(k), targets - mean)
  scores = model.predict(centre.transform(k_test)) + mean
  return classes[np.argmax(scores, axis=1)]


# Functions (hyper-parameter, k_train, labels, k_queries) -> predicted labels.
_CLASSIFIERS = {"svm": (_svm, C_VALUES), "ridge": (_ridge, RIDGE_VALUES)}


def _check(
  k_train: Square,
  labels: Labels,
  k_test: Cross,
  labels_test: TestLabels,
  folds: int,
) -> None:
  n, m = len(labels), len(labels_test)
  if k_train.shape != (n, n) or k_test.shape != (m, n) or not m:
    raise ValueError(
      f"With {n} train and {m} test labels k_train must be [{n}, {n}] and "
      f"k_test [{m}, {n}]; got {k_train.shape} and {k_test.shape}."
    )
  for name, k in (("k_train", k_train), ("k_test", k_test)):
    if not np.all(np.isfinite(k)):
      raise ValueError(f"{name} has non-finite values.")
  missing = int(np.sum(labels < 0) + np.sum(labels_test < 0))
  if missing:
    raise ValueError(f"{missing} of {n + m} points have no label (-1).")
  counts = np.unique(labels, return_counts=True)[1]
  if len(counts) < 2:
    raise ValueError("All train labels are of one class.")
  if not 2 <= folds <= counts.min():
    raise ValueError(
      f"folds={folds} must be from 2 to the size of the smallest class, "
      f"{counts.min()}."
    )


def kernel_accuracy(
  classifier: Classifier,
  k_train: Square,
  labels: Labels,
  k_test: Cross,
  labels_test: TestLabels,
  *,
  values: Sequence[float] | None = None,
  folds: int = 5,
  seed: int = 0,
  groups: Int[np.ndarray, "n"] | None = None,
  scored: Bool[np.ndarray, "n"] | None = None,
) -> Accuracy:
  """Fits a classifier on a kernel and returns its accuracy.

  "svm" is scikit-learn's `SVC` (one against one). "ridge" is least squares on
  one-hot classes with an intercept; its penalty is relative to the mean squared
  error. The kernel is divided by the mean of its diagonal on train, so that
  hyper-parameters do not depend on its scale. They are chosen by stratified
  cross-validation within train; test is read once.

  Args:
    classifier: "svm" or "ridge".
    k_train: [n, n] kernel of train.
    labels: [n] labels of train.
    k_test: [m, n] kernel of test (rows) and train.
    labels_test: [m] labels of test.
    values: candidates for C or the ridge weight, of which the first of equals
      is taken; None is `C_VALUES` or `RIDGE_VALUES`.
    folds: number of folds.
    seed: seed of the folds.
    groups: [n] ids of points that stay in one fold, such as image ids of views;
      None is one group per point.
    scored: [n] True for points that count for validation; the others are only
      fitted. None is all.

  Raises:
    ValueError: if shapes do not match, a label is missing, there is one class,
      a class has fewer points than folds, or values are not positive and
      finite.
  """
  predict, default_values = _CLASSIFIERS[classifier]
  values = tuple(default_values if values is None else values)
  labels, labels_test = np.asarray(labels), np.asarray(labels_test)
  _check(k_train, labels, k_test, labels_test, folds)
  if not values or min(values) <= 0:
    raise ValueError(f"values={values} must be positive.")
  scale = np.trace(k_train) / len(k_train)
  if not scale > 0:
    raise ValueError(f"tr(k_train) / n = {scale:.3g} must be positive.")
  k_train, k_test = k_train / scale, k_test / scale
  splitter = StratifiedGroupKFold(folds, shuffle=True, random_state=seed)
  group_ids = np.arange(len(labels)) if groups is None else groups
  splits = list(splitter.split(k_train, labels, group_ids))
  counted = np.ones(len(labels), bool) if scored is None else scored
  if not counted.any():
    raise ValueError("scored is False for all points; validation needs some.")

  def validation(value: float) -> float:
    predicted = np.empty_like(labels)
    for fit, held in splits:
      k_fit, k_held = k_train[np.ix_(fit, fit)], k_train[np.ix_(held, fit)]
      predicted[held] = predict(value, k_fit, labels[fit], k_held)
    return float(np.mean((predicted == labels)[counted]))

  accuracies = [validation(value) for value in values]
  best = int(np.argmax(accuracies))
  predicted = predict(values[best], k_train, labels, k_test)
  return Accuracy(
    test_accuracy=float(np.mean(predicted == labels_test)),
    validation_accuracy=accuracies[best],
    chosen=float(values[best]),
  )
