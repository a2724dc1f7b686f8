"""Linear probe, compared with scikit-learn's logistic regression.

Both choose among the same L2 values on the same splits. Features are synthetic
(ten overlapping classes, about 86% accuracy), or those of --features.
"""

import argparse
import warnings
from collections.abc import Callable
from typing import Any

import numpy as np

from jssl import mesh
from jssl.bench import harness
from jssl.config.schema import Probe
from jssl.probe import linear, splits
from jssl.probe.features import Features, scaling

FLAGS = {
  "rounds": (1, "measurements of each case"),
  "features": ("", "an .npz written by `python -m jssl.probe --export`"),
  "seeds": (3, "random splits"),
  "rows": (60_000, "synthetic training rows"),
}
_DIM, _CLASSES = 128, 10
_SEPARATION = 0.38


def synthetic(train: int) -> dict[str, np.ndarray]:
  """Draws rectified mixtures of Gaussian classes, in the format of `--export`.

  Deviations fall as a power law. A sixth as many rows are test rows.
  """
  rows = train + train // 6
  rng = np.random.default_rng(0)
  labels = rng.integers(0, _CLASSES, rows, dtype=np.int32)
  deviations = (1 + np.arange(_DIM)) ** -0.5
  means = _SEPARATION * rng.normal(size=(_CLASSES, _DIM))
  h = (means[labels] + rng.normal(size=(rows, _DIM))) * deviations
  h = np.maximum(h @ rng.normal(size=(_DIM, _DIM)), 0).astype(np.float32)
  return {
    "train_features": h[:train],
    "train_labels": labels[:train],
    "test_features": h[train:],
    "test_labels": labels[train:],
  }


def _ours(train: Features, test: Features, settings: Probe) -> Any:
  found = linear.probe(train, test, settings, mesh=mesh.make_mesh(-1, 1))
  return found.test_accuracy, found.chosen["l2"]


def _scikit_learn(train: Features, test: Features, settings: Probe) -> Any:
  from sklearn.exceptions import ConvergenceWarning
  from sklearn.linear_model import LogisticRegression

  scale = scaling(train.h)
  x, x_test = scale(train.h), scale(test.h)

  def fit(l2: float, rows: np.ndarray) -> LogisticRegression:
    model = LogisticRegression(C=1 / (l2 * rows.sum()), max_iter=1000)
    with warnings.catch_warnings():
      warnings.simplefilter("ignore", ConvergenceWarning)
      return model.fit(x[rows], train.labels[rows])

  accuracies, chosen = [], []
  for seed in range(settings.seeds):
    held_out = splits.hold_out(
      train.labels, fraction=settings.validation_fraction, seed=seed
    )
    scores = [
      fit(l2, ~held_out).score(x[held_out], train.labels[held_out])
      for l2 in settings.linear_l2_values
    ]
    chosen.append(settings.linear_l2_values[int(np.argmax(scores))])
    model = fit(chosen[-1], np.ones_like(held_out))
    accuracies.append(model.score(x_test, test.labels))
  return np.array(accuracies), chosen


def _describe(result: tuple[np.ndarray, list[float]]) -> harness.Row:
  accuracy, l2 = result
  return {
    "test %": ", ".join(f"{100 * a:.2f}" for a in accuracy),
    "mean %": 100 * float(accuracy.mean()),
    "L2": ", ".join(f"{value:g}" for value in l2),
  }


def run(args: argparse.Namespace) -> harness.Report:
  """Times both probes and compares their accuracy."""
  arrays = (
    dict(np.load(args.features)) if args.features else synthetic(args.rows)
  )
  classes = int(arrays["train_labels"].max()) + 1
  train, test = (
    Features(arrays[f"{s}_features"], arrays[f"{s}_labels"], classes)
    for s in ("train", "test")
  )
  settings = Probe(seeds=args.seeds)

  def case(name: str, fit: Callable) -> harness.Case:
    return harness.Case(
      name,
      lambda: harness.timed(
        lambda: fit(train, test, settings), describe=_describe
      ),
    )

  cases = [case("scikit-learn", _scikit_learn), case("jssl", _ours)]
  rows = harness.measure(
    cases, rounds=args.rounds, columns=harness.SECONDS, warmup=0
  )
  n, dim = train.h.shape
  about = {
    "features": f"{n:,} x {dim}, {classes} classes",
    "L2 values": len(settings.linear_l2_values),
  }
  return harness.Report(rows, about)
