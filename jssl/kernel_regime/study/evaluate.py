"""Evaluates one experiment of the kernel study: embedding and classifiers."""

import time
from typing import Any, NamedTuple

import numpy as np
from jaxtyping import Float

from jssl.kernel_regime import losses
from jssl.kernel_regime.classifiers import kernel_accuracy
from jssl.kernel_regime.embedding import (
  induced_kernel,
  induced_spectrum,
  kernel_alignment,
  ridge_penalty,
  within_between,
)
from jssl.kernel_regime.psd import with_jitter
from jssl.kernel_regime.solvers import Map, alpha_max, solve
from jssl.kernel_regime.study.config import KernelStudy
from jssl.kernel_regime.study.dataset import GramMatrices, Indices
from jssl.kernel_regime.study.experiments import Experiment
from jssl.kernel_regime.targets import Ids

# Number of eigenvalues that are kept.
_SPECTRUM = 64


def measure(
  k: Float[np.ndarray, "n n"],
  m: Map,
  loss: losses.Loss,
  image_ids: Ids,
  *,
  z_test: Float[np.ndarray, "m d"],
) -> dict[str, Any]:
  """Measures an embedding at its N points, and on test images.

  For a shift-invariant loss, `within` and the keys after it are of f minus its
  mean.

  Returns:
    d_out; rank: number of dimensions that are not 0; loss: without the ridge;
    minimum: of any embedding of this dimension; gap: see `Loss.relative_gap`;
    trace_bk: Tr(B K); within and between: mean k* of views of one image (class,
    if supervised) and of different images; target_alignment: of k* and T;
    spectrum: leading eigenvalues of k* on test images, relative to the first.
  """
  z = k @ m.T
  value = loss.value(z, image_ids)
  gap = loss.relative_gap(value, image_ids, len(m))
  if loss.shift_invariant:
    mean = z.mean(0)
    z, z_test = z - mean, z_test - mean
  alignment = 0.0
  # A large ridge leaves an embedding of zeros, which has no alignment.
  if np.any(z):
    alignment = kernel_alignment(induced_kernel(z), loss.target(image_ids))
  eigenvalues = induced_spectrum(z_test)[:_SPECTRUM]
  return {
    "d_out": len(m),
    "rank": int(np.sum(np.any(m != 0, axis=1))),
    "loss": value,
    "minimum": loss.minimum(image_ids, len(m)),
    "gap": gap,
    "trace_bk": ridge_penalty(m, k),
    **within_between(z, image_ids)._asdict(),
    "target_alignment": alignment,
    "spectrum": (eigenvalues / max(eigenvalues[0], 1e-300)).tolist(),
  }


class Embedding(NamedTuple):
  """Map M fitted to the points `rows`, and its measures with the ridge."""

  rows: Indices
  m: Map
  measures: dict[str, Any]


def embed(
  grams: GramMatrices, experiment: Experiment, config: KernelStudy
) -> Embedding | None:
  """Optimal embedding of an experiment's loss; None for a raw kernel."""
  if experiment.features in ("raw", "raw_augmented"):
    return None
  views = experiment.views or 0
  # Only the supervised kernel is fitted to labelled images alone.
  supervised = experiment.features == "supervised"
  n = experiment.labels if supervised else len(grams.labels)
  rows = grams.view_rows(views, n)
  ids = np.repeat(grams.labels[:n] if supervised else np.arange(n), views)
  loss: losses.Loss = losses.Contrastive()
  if experiment.beta is not None:
    loss = losses.NonContrastive(experiment.beta)
  k = with_jitter(grams.k[np.ix_(rows, rows)], config.problem.jitter)
  alpha = 0.0
  if experiment.alpha:
    alpha = experiment.alpha * alpha_max(k, loss, ids)
  d_out = None if supervised else config.problem.d_out or None
  m = solve(k, loss, ids, d_out=d_out, alpha=alpha)
  z_test = grams.k_test[:, rows] @ m.T
  measures = measure(k, m, loss, ids, z_test=z_test)
  return Embedding(rows, m, {"alpha": alpha, **measures})


def classifier_kernels(
  grams: GramMatrices, experiment: Experiment, embedding: Embedding | None
) -> tuple[Float[np.ndarray, "n n"], Float[np.ndarray, "m n"], Indices]:
  """Returns the kernels of train and of test with train, and train image ids.

  Train points are the images themselves, like the test images. The embedding
  was fitted to their views only, so its values at the images are not targets.
  """
  rows = grams.image_rows(experiment.labels)
  ids = np.arange(experiment.labels)
  if embedding is not None:
    z, z_test = (
      k[:, embedding.rows] @ embedding.m.T
      for k in (grams.k[rows], grams.k_test)
    )
    return induced_kernel(z), induced_kernel(z_test, z), ids
  if experiment.features == "raw_augmented":
    views = experiment.views or 0
    rows = np.append(rows, grams.view_rows(views, experiment.labels))
    ids = np.append(ids, np.repeat(ids, views))
  return grams.k[np.ix_(rows, rows)], grams.k_test[:, rows], ids


def num_folds(grams: GramMatrices, labels: int, config: KernelStudy) -> int:
  """Number of folds: at most the smallest class, which must have two images."""
  fewest = int(np.unique(grams.labels[:labels], return_counts=True)[1].min())
  if fewest < 2:
    main = labels == config.problem.images
    raise ValueError(
      f"{'problem.images' if main else 'sweep.labels'}: a class has {fewest} "
      f"of {labels} labelled images; cross-validation needs at least 2."
    )
  return min(config.problem.folds, fewest)


def _evaluate(
  grams: GramMatrices, experiment: Experiment, config: KernelStudy
) -> dict[str, Any]:
  embedding = embed(grams, experiment, config)
  k, k_test, ids = classifier_kernels(grams, experiment, embedding)
  labels = grams.labels[ids]
  folds = num_folds(grams, experiment.labels, config)
  result: dict[str, Any] = {"folds": folds, "points": len(ids)}
  if embedding is not None:
    result |= {"points": len(embedding.rows), "embedding": embedding.measures}
  if not np.any(k):
    return {**result, "class_alignment": 0.0}
  for name in ("svm", "ridge"):
    result[name] = kernel_accuracy(
      name,
      k,
      labels,
      k_test,
      grams.labels_test,
      folds=folds,
      seed=config.problem.seed,
      groups=ids,
      # Validate on images only: test images are not augmented.
      scored=np.arange(len(ids)) < experiment.labels,
    )._asdict()
  same_class = (labels[:, None] == labels[None]).astype(np.float64)
  return {**result, "class_alignment": kernel_alignment(k, same_class)}


def evaluate(
  grams: GramMatrices, experiment: Experiment, config: KernelStudy
) -> dict[str, Any]:
  """Evaluates an experiment; returns all numbers, for JSON.

  If the experiment fails (kernel not positive semidefinite within the jitter,
  or out of memory), "failure" is the message and the numbers are None.
  """
  started = time.perf_counter()
  numbers = ("svm", "ridge", "points", "folds", "class_alignment", "embedding")
  result: dict[str, Any] = {
    "experiment": experiment._asdict(),
    "failure": None,
    **dict.fromkeys(numbers),
  }
  try:
    result |= _evaluate(grams, experiment, config)
  except (ValueError, MemoryError) as error:
    result["failure"] = str(error) or type(error).__name__
  return {**result, "seconds": time.perf_counter() - started}
