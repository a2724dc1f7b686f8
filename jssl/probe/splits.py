"""How hyper-parameters are chosen: on rows held out of train, never on test.

A split is drawn from a seed, by class, and is a mask over the rows of train; so
all members of a sweep share one feature matrix.
"""

import zlib
from typing import Any, NamedTuple

import numpy as np
from jaxtyping import Bool, Float, Int

from jssl.probe.features import Features

Rows = Int[np.ndarray, "n"]
Mask = Bool[np.ndarray, "n"]


class LabelsError(ValueError):
  """A probe can't be fitted to the labels of a set; other things can be."""


class Result(NamedTuple):
  """What one kind of probe found, an entry for each seed.

  Attributes:
    test_accuracy: in [0, 1], of the chosen hyper-parameters.
    validation_accuracy: of the same, on the rows they were chosen on.
    chosen: hyper-parameter by name.
  """

  test_accuracy: Float[np.ndarray, "s"]
  validation_accuracy: Float[np.ndarray, "s"]
  chosen: dict[str, list[Any]]


def check_labels(train: Features, test: Features, dataset: str) -> None:
  """Raises LabelsError where a probe can't be fitted to these labels."""
  for split in (train, test):
    missing = int(np.sum(split.labels < 0))
    if missing:
      raise LabelsError(
        f"{dataset}: {missing} of {len(split.labels)} images have no label; "
        "a probe needs them all: choose another set with --dataset"
      )
  counts = np.bincount(train.labels, minlength=train.num_classes)
  seen = np.union1d(train.labels, test.labels)
  few = seen[counts[seen] < 2]
  if len(few):
    raise LabelsError(
      f"class {few[0]} of {dataset} has {counts[few[0]]} training images; "
      "a probe needs 2 of each class, one to fit and one to choose with"
    )


def _rank_in_class(labels: Rows, purpose: str, seed: int) -> tuple[Rows, Rows]:
  """Shuffles each class; returns each row's place in it, and its size."""
  rng = np.random.default_rng((seed, zlib.crc32(purpose.encode())))
  shuffled = rng.permutation(len(labels))
  by_class = shuffled[np.argsort(labels[shuffled], kind="stable")]
  counts = np.bincount(labels)
  starts = np.cumsum(counts) - counts
  rank = np.empty_like(by_class)
  rank[by_class] = np.arange(len(labels)) - starts[labels[by_class]]
  return rank, counts[labels]


def hold_out(labels: Rows, *, fraction: float, seed: int) -> Mask:
  """Marks `fraction` of each class, at least one row but never all.

  Args:
    labels: of train; each class has two rows or more.
    fraction: in (0, 1).
    seed: of the split.
  """
  rank, size = _rank_in_class(labels, "hold out", seed)
  return rank < np.clip(np.round(fraction * size), 1, size - 1)


def folds(
  labels: Rows, *, count: int, seed: int
) -> Bool[np.ndarray, "{count} n"]:
  """Marks `count` disjoint parts that together are all rows, by class.

  Where a class has fewer rows than there are folds some parts lack it, but as
  each class has two rows or more none takes all of it.
  """
  rank, _ = _rank_in_class(labels, "folds", seed)
  return rank % count == np.arange(count)[:, None]


def subset(labels: Rows, *, fraction: float, seed: int) -> Rows:
  """Draws `fraction` of each class, at least two rows, ascending."""
  rank, size = _rank_in_class(labels, "subset", seed)
  return np.flatnonzero(rank < np.clip(np.round(fraction * size), 2, size))


def best(validation_accuracy: Float[np.ndarray, "s m"]) -> Rows:
  """Returns the best member of each seed; the first of equals."""
  return np.argmax(validation_accuracy, axis=1)
