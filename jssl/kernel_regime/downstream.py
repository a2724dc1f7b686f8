"""Classifiers on a kernel that is given: raw, induced or supervised.

scikit-learn's SVM and kernel ridge. Hyper-parameters are chosen by
cross-validation within train; test is read once, with what was chosen.
"""

from collections.abc import Callable, Sequence
from typing import NamedTuple

import numpy as np
from jaxtyping import Bool, Float, Int
from sklearn.kernel_ridge import KernelRidge
from sklearn.model_selection import StratifiedGroupKFold
from sklearn.preprocessing import KernelCenterer
from sklearn.svm import SVC

Labels = Int[np.ndarray, "n"]
Square = Float[np.ndarray, "n n"]
Cross = Float[np.ndarray, "m n"]

# (weight, k of train, labels, k of queries and train) -> labels of queries
_Predict = Callable[[float, Square, Labels, Cross], Labels]

C_VALUES = (1e-2, 1e-1, 1.0, 1e1, 1e2, 1e3)
RIDGE_VALUES = (1.0, 1e-1, 1e-2, 1e-3, 1e-4, 1e-5, 1e-6)


class Downstream(NamedTuple):
  """How well a classifier on a kernel does.

  Attributes:
    test_accuracy: in [0, 1], with what was chosen.
    validation_accuracy: of the same, mean over rows of train.
    chosen: C of the SVM, or the ridge.
  """

  test_accuracy: float
  validation_accuracy: float
  chosen: float


def _svm(c: float, k: Square, labels: Labels, k_test: Cross) -> Labels:
  return SVC(C=c, kernel="precomputed").fit(k, labels).predict(k_test)


def _ridge(weight: float, k: Square, labels: Labels, k_test: Cross) -> Labels:
  classes, which = np.unique(labels, return_inverse=True)
  targets = np.eye(len(classes))[which]
  mean = targets.mean(0)
  # Centred features and targets are an intercept that isn't penalised.
  centre = KernelCenterer().fit(k)
  model = KernelRidge(alpha=weight * len(k), kernel="precomputed")
  model.fit(centre.transform(k), targets - mean)
  scores = model.predict(centre.transform(k_test)) + mean
  return classes[np.argmax(scores, axis=1)]


def _check(
  k_train: Square,
  labels: Labels,
  k_test: Cross,
  labels_test: Labels,
  folds: int,
) -> None:
  n, m = len(labels), len(labels_test)
  if k_train.shape != (n, n) or k_test.shape != (m, n) or not m:
    raise ValueError(
      f"with {n} labels of train and {m} of test, k_train must be [{n}, {n}] "
      f"and k_test [{m}, {n}], test in rows, not {k_train.shape} and "
      f"{k_test.shape}"
    )
  for name, k in (("k_train", k_train), ("k_test", k_test)):
    if not np.all(np.isfinite(k)):
      raise ValueError(f"{name} has values that are not finite")
  missing = int(np.sum(labels < 0) + np.sum(labels_test < 0))
  if missing:
    raise ValueError(f"{missing} of {n + m} points have no label (-1)")
  counts = np.unique(labels, return_counts=True)[1]
  if len(counts) < 2:
    raise ValueError("all labels of train are of one class")
  if not 2 <= folds <= counts.min():
    raise ValueError(
      f"kernels.folds={folds} must be from 2 to the points of the smallest "
      f"class, {counts.min()}"
    )


def _chosen(
  predict: _Predict,
  weights: Sequence[float],
  k_train: Square,
  labels: Labels,
  k_test: Cross,
  labels_test: Labels,
  *,
  folds: int,
  seed: int,
  groups: Int[np.ndarray, "n"] | None,
  scored: Bool[np.ndarray, "n"] | None,
) -> Downstream:
  labels, labels_test = np.asarray(labels), np.asarray(labels_test)
  _check(k_train, labels, k_test, labels_test, folds)
  if not weights or min(weights) <= 0:
    raise ValueError(f"values to choose from must be positive, not {weights}")
  scale = np.trace(k_train) / len(k_train)
  if not scale > 0:
    raise ValueError(f"tr(k_train) / n = {scale:.3g} must be positive")
  k_train, k_test = k_train / scale, k_test / scale
  own = np.arange(len(labels)) if groups is None else groups
  splits = list(
    StratifiedGroupKFold(folds, shuffle=True, random_state=seed).split(
      k_train, labels, own
    )
  )
  counted = np.ones(len(labels), bool) if scored is None else scored
  for fit, held in splits:
    if not counted[held].any() or len(np.unique(labels[fit])) < 2:
      raise ValueError(
        f"kernels.folds={folds}: a fold holds {counted[held].sum()} points to "
        f"score, and what is left to fit has {len(np.unique(labels[fit]))} "
        "classes; take fewer folds, or more images of each class"
      )

  def validation(weight: float) -> float:
    right = 0
    for fit, fold in splits:
      held = fold[counted[fold]]
      predicted = predict(
        weight,
        k_train[np.ix_(fit, fit)],
        labels[fit],
        k_train[np.ix_(held, fit)],
      )
      right += int(np.sum(predicted == labels[held]))
    return right / int(counted.sum())

  accuracies = [validation(weight) for weight in weights]
  best = int(np.argmax(accuracies))
  predicted = predict(weights[best], k_train, labels, k_test)
  return Downstream(
    test_accuracy=float(np.mean(predicted == labels_test)),
    validation_accuracy=accuracies[best],
    chosen=float(weights[best]),
  )


def svm_accuracy(
  k_train: Square,
  labels: Labels,
  k_test: Cross,
  labels_test: Labels,
  *,
  c_values: Sequence[float] = C_VALUES,
  folds: int = 5,
  seed: int = 0,
  groups: Int[np.ndarray, "n"] | None = None,
  scored: Bool[np.ndarray, "n"] | None = None,
) -> Downstream:
  """Fits an SVM on a kernel (one against one, scikit-learn's `SVC`).

  The kernel is divided by the mean of its diagonal on train, so that C means
  the same for kernels of any scale.

  Args:
    k_train: k(x, x') of train, [n, n].
    labels: of train, [n].
    k_test: k of test (rows) and train, [m, n].
    labels_test: [m].
    c_values: C to choose from, ascending: of equals the first is taken.
    folds: of the cross-validation within train, by class.
    seed: of the folds.
    groups: points that stay in one fold, such as image ids where train holds
      several views of an image; None: each on its own.
    scored: points that the choice is made by; the others, which are not as test
      points are, are only fitted. None: all.

  Raises:
    ValueError: shapes don't fit, a label is missing, there is one class, a
      class has fewer points than folds, or values aren't positive and finite.
  """
  return _chosen(
    _svm,
    tuple(c_values),
    k_train,
    labels,
    k_test,
    labels_test,
    folds=folds,
    seed=seed,
    groups=groups,
    scored=scored,
  )


def ridge_accuracy(
  k_train: Square,
  labels: Labels,
  k_test: Cross,
  labels_test: Labels,
  *,
  ridge_values: Sequence[float] = RIDGE_VALUES,
  folds: int = 5,
  seed: int = 0,
  groups: Int[np.ndarray, "n"] | None = None,
  scored: Bool[np.ndarray, "n"] | None = None,
) -> Downstream:
  """Fits a ridge classifier on a kernel: least squares on one-hot classes.

  With an intercept. The penalty of the mean squared error is the ridge times
  the mean of the kernel's diagonal, so that it means the same for kernels of
  any scale and sets of any size.

  Args:
    k_train: k(x, x') of train, [n, n].
    labels: of train, [n].
    k_test: k of test (rows) and train, [m, n].
    labels_test: [m].
    ridge_values: to choose from, descending: of equals the first is taken.
    folds: as of `svm_accuracy`.
    seed: of the folds.
    groups: as of `svm_accuracy`.
    scored: as of `svm_accuracy`.

  Raises:
    ValueError: as `svm_accuracy`.
  """
  return _chosen(
    _ridge,
    tuple(ridge_values),
    k_train,
    labels,
    k_test,
    labels_test,
    folds=folds,
    seed=seed,
    groups=groups,
    scored=scored,
  )
