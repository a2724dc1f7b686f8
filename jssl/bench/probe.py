"""`python -m jssl.bench.probe`: our linear probe beside scikit-learn's.

Both choose among the same L2 values on the same splits, fit all of train again,
and read the test set. The features are 60,000 x 128 made-up ones of ten classes
that overlap (86% is about what a linear probe gets), or those of `--features`.
"""

import time
import warnings

import numpy as np
from absl import app, flags

_FEATURES = flags.DEFINE_string(
  "features", "", "An .npz that `python -m jssl.probe --export` wrote."
)
_SEEDS = flags.DEFINE_integer("seeds", 3, "Number of splits.")

_TRAIN, _TEST, _DIM, _CLASSES = 60_000, 10_000, 128, 10
_SEPARATION = 0.38


def synthetic() -> dict[str, np.ndarray]:
  """Returns features as `--export` writes them.

  Gaussian classes about random means, in directions whose deviations fall as
  a power law, mixed and rectified.
  """
  rng = np.random.default_rng(0)
  labels = rng.integers(0, _CLASSES, _TRAIN + _TEST, dtype=np.int32)
  deviations = (1 + np.arange(_DIM)) ** -0.5
  means = _SEPARATION * rng.normal(size=(_CLASSES, _DIM))
  h = (means[labels] + rng.normal(size=(len(labels), _DIM))) * deviations
  h = np.maximum(h @ rng.normal(size=(_DIM, _DIM)), 0).astype(np.float32)
  return {
    "train_features": h[:_TRAIN],
    "train_labels": labels[:_TRAIN],
    "test_features": h[_TRAIN:],
    "test_labels": labels[_TRAIN:],
  }


def main(argv: list[str]) -> None:
  """Prints seconds and accuracies of both."""
  if len(argv) > 1:
    raise app.UsageError(f"unexpected arguments: {argv[1:]}")
  # What follows takes seconds to import; --help shouldn't.
  from sklearn.exceptions import ConvergenceWarning
  from sklearn.linear_model import LogisticRegression

  from jssl import mesh
  from jssl.config.schema import Probe
  from jssl.probe import linear, splits
  from jssl.probe.features import Features, scaling

  arrays = dict(np.load(_FEATURES.value)) if _FEATURES.value else synthetic()
  classes = int(arrays["train_labels"].max()) + 1
  train, test = (
    Features(arrays[f"{s}_features"], arrays[f"{s}_labels"], classes)
    for s in ("train", "test")
  )
  settings = Probe(seeds=_SEEDS.value)
  l2_values = settings.linear_l2_values
  rows, dim = train.h.shape
  print(
    f"{rows:,} x {dim} features, {classes} classes, {len(l2_values)} L2 values,"
    f" {settings.seeds} seeds"
  )
  started = time.perf_counter()
  ours = linear.probe(
    train,
    test,
    mesh=mesh.make_mesh(-1, 1),
    seeds=settings.seeds,
    l2_values=l2_values,
    validation_fraction=settings.validation_fraction,
    tolerance=settings.linear_tolerance,
    max_iterations=settings.linear_max_iterations,
  )
  seconds = time.perf_counter() - started

  def report(name: str, accuracy: np.ndarray, l2: list, seconds: float) -> None:
    percent = ", ".join(f"{100 * a:.2f}" for a in accuracy)
    print(
      f"{name:12} {seconds:7.1f} s   test % {percent}"
      f"   mean {100 * accuracy.mean():.2f}   l2 {l2}",
      flush=True,
    )

  report("jssl", ours.test_accuracy, ours.chosen["l2"], seconds)

  scale = scaling(train.h)
  x, x_test = scale(train.h), scale(test.h)

  def fit(l2: float, rows: np.ndarray) -> LogisticRegression:
    model = LogisticRegression(C=1 / (l2 * rows.sum()), max_iter=1000)
    with warnings.catch_warnings():
      warnings.simplefilter("ignore", ConvergenceWarning)
      return model.fit(x[rows], train.labels[rows])

  started = time.perf_counter()
  accuracies, chosen = [], []
  for seed in range(settings.seeds):
    held = splits.hold_out(
      train.labels, fraction=settings.validation_fraction, seed=seed
    )
    scores = [
      fit(l2, ~held).score(x[held], train.labels[held]) for l2 in l2_values
    ]
    chosen.append(l2_values[int(np.argmax(scores))])
    model = fit(chosen[-1], np.ones_like(held))
    accuracies.append(model.score(x_test, test.labels))
  seconds = time.perf_counter() - started
  report("scikit-learn", np.array(accuracies), chosen, seconds)


if __name__ == "__main__":
  app.run(main)
