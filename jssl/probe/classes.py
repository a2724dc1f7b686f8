"""Accuracy by class, calibration and confusion of a classifier."""

from collections.abc import Sequence
from typing import Any

import numpy as np
from jaxtyping import Bool, Float, Int

from jssl.probe.records import ClassesRecord
from jssl.probe.splits import Predictions

_BINS = 15
_MOST_CLASSES_OF_MATRIX = 100
_PAIRS = 50


def calibration_error(
  confidence: Float[np.ndarray, "n"], right: Bool[np.ndarray, "n"]
) -> float:
  """Returns the expected calibration error, Guo et al. (ICML 2017, eq. 3).

      ECE = sum_m |B_m| / n  | accuracy(B_m) - mean confidence(B_m) |

  over 15 bins B_m of confidences in ((m - 1) / 15, m / 15].
  """
  bins = np.ceil(confidence.astype(np.float64) * _BINS).astype(int) - 1
  # Each bin adds | sum (right - confidence) | / n.
  sums = np.bincount(bins.clip(0, _BINS - 1), right - confidence)
  return float(np.abs(sums).sum() / len(right))


def classes_record(
  predictions: Predictions,
  labels: Int[np.ndarray, "n"],
  names: Sequence[str],
  **fields: Any,
) -> ClassesRecord:
  """Returns the record of a probe; `fields` are those not measured here."""
  k = len(names)
  right = predictions.labels == labels
  images = np.bincount(labels, minlength=k)
  of_class = np.stack([np.bincount(labels, row, k) for row in right])
  accuracy = of_class / np.maximum(images, 1)
  balanced = accuracy[:, images > 0].mean(1)
  errors = [
    calibration_error(*of_seed)
    for of_seed in zip(predictions.confidence, right, strict=True)
  ]
  confusion: list[list[int]] = []
  confused: list[list[int]] = []
  pairs, counts = np.unique(
    labels.astype(np.int64) * k + predictions.labels, return_counts=True
  )
  if k <= _MOST_CLASSES_OF_MATRIX:
    matrix = np.zeros(k * k, int)
    matrix[pairs] = counts
    confusion = matrix.reshape(k, k).tolist()
  else:
    wrong = pairs // k != pairs % k
    pairs, counts = pairs[wrong], counts[wrong]
    most = np.argsort(-counts, kind="stable")[:_PAIRS]
    columns = pairs[most] // k, pairs[most] % k, counts[most]
    confused = np.stack(columns, 1).tolist()
  return ClassesRecord(
    balanced_accuracy=float(balanced.mean()),
    balanced_accuracy_std=float(balanced.std()),
    calibration_error=float(np.mean(errors)),
    calibration_error_std=float(np.std(errors)),
    names=list(names),
    images=images.tolist(),
    accuracy=accuracy.mean(0).tolist(),
    confusion=confusion,
    confused=confused,
    **fields,
  )
