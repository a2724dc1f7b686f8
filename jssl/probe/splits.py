"""Splits of train that choose hyper-parameters, and small labelled subsets.

A split is drawn by class. It is a mask over train, whose features are shared.
"""

import zlib
from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

import numpy as np
from jaxtyping import Bool, Float, Int

from jssl.config.checks import labels_error
from jssl.config.schema import Probe
from jssl.probe.features import Features

Rows = Int[np.ndarray, "n"]
Mask = Bool[np.ndarray, "n"]


class LabelsError(ValueError):
  """The labels of a set do not allow a probe."""


class Predictions(NamedTuple):
  """Predicted classes of images and their probabilities, for each seed."""

  labels: Int[np.ndarray, "s n"]
  confidence: Float[np.ndarray, "s n"]


Predict = Callable[[Float[np.ndarray, "n d"]], Predictions]


class Result(NamedTuple):
  """Accuracies in [0, 1] and chosen hyper-parameters, one entry per seed.

  `predict` applies the classifiers that were tested; None for kNN.
  """

  test_accuracy: Float[np.ndarray, "s"]
  validation_accuracy: Float[np.ndarray, "s"]
  chosen: dict[str, list[Any]]
  predict: Predict | None = None


def check_labels(train: Features, test: Features, dataset: str) -> None:
  """Raises LabelsError if a probe cannot be fitted to these labels."""
  error = labels_error(dataset, train.labels, test.labels, train.num_classes)
  if error:
    raise LabelsError(error)


def _rank_in_class(labels: Rows, purpose: str, seed: int) -> tuple[Rows, Rows]:
  """Returns the rank of each row in its shuffled class, and the class size."""
  rng = np.random.default_rng((seed, zlib.crc32(purpose.encode())))
  shuffled = rng.permutation(len(labels))
  by_class = shuffled[np.argsort(labels[shuffled], kind="stable")]
  counts = np.bincount(labels)
  starts = np.cumsum(counts) - counts
  rank = np.empty_like(by_class)
  rank[by_class] = np.arange(len(labels)) - starts[labels[by_class]]
  return rank, counts[labels]


def hold_out(labels: Rows, *, fraction: float, seed: int) -> Mask:
  """Marks a fraction of each class, at least one row but never all."""
  rank, size = _rank_in_class(labels, "hold out", seed)
  return rank < np.clip(np.round(fraction * size), 1, size - 1)


def hold_out_each(labels: Rows, settings: Probe) -> Bool[np.ndarray, "s n"]:
  """Returns `hold_out` of the settings' fraction for each seed."""
  fraction = settings.validation_fraction
  return np.stack(
    [
      hold_out(labels, fraction=fraction, seed=seed)
      for seed in range(settings.seeds)
    ]
  )


def folds(
  labels: Rows, *, count: int, seed: int
) -> Bool[np.ndarray, "{count} n"]:
  """Marks `count` disjoint folds of all rows, by class.

  Classes with fewer rows than folds are missing from some folds. No fold has
  all rows of a class, because each class has at least two.
  """
  rank, _ = _rank_in_class(labels, "folds", seed)
  return rank % count == np.arange(count)[:, None]


def subset(labels: Rows, *, fraction: float, seed: int) -> Int[np.ndarray, "m"]:
  """Draws a fraction of each class, at least two rows; ascending."""
  rank, size = _rank_in_class(labels, "subset", seed)
  return np.flatnonzero(rank < np.clip(np.round(fraction * size), 2, size))


def best(validation_accuracy: Float[np.ndarray, "s m"]) -> Rows:
  """Returns the best member of each seed, the first one of ties."""
  return np.argmax(validation_accuracy, axis=1)


def result(
  candidates: Sequence[dict[str, Any]],
  validation_accuracy: Float[np.ndarray, "s m"],
  test_accuracy: Float[np.ndarray, "s"],
  predict: Predict | None = None,
) -> Result:
  """Returns the accuracies of the best candidate of each seed."""
  chosen = [candidates[i] for i in best(validation_accuracy)]
  return Result(
    test_accuracy=test_accuracy,
    validation_accuracy=validation_accuracy.max(1),
    chosen={name: [c[name] for c in chosen] for name in candidates[0]},
    predict=predict,
  )
