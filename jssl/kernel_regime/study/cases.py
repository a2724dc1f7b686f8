"""The cases of the kernel study: a kernel, and what it is worth on test."""

import dataclasses
import time
from collections.abc import Iterator, Mapping
from typing import Any, Literal, NamedTuple, get_args

import numpy as np
from jaxtyping import Float
from scipy import linalg

from jssl.kernel_regime import losses
from jssl.kernel_regime.downstream import ridge_accuracy, svm_accuracy
from jssl.kernel_regime.embedding import (
  Map,
  alignment_with,
  induced,
  spectrum,
  trace_bk,
  within_between,
)
from jssl.kernel_regime.optimum import (
  closed_form,
  ridge_form,
  supervised_form,
  vanishing_alpha,
)
from jssl.kernel_regime.psd import factor, with_jitter
from jssl.kernel_regime.study.points import Grams, Indices
from jssl.kernel_regime.study.setting import Kernels, Loss
from jssl.kernel_regime.targets import Eigenpairs, Ids

Features = Literal[
  "raw", "raw_augmented", "contrastive", "non_contrastive", "supervised"
]
FEATURES: tuple[Features, ...] = get_args(Features)
Axis = Literal["views", "labels", "beta", "alpha"]
AXES: tuple[Axis, ...] = get_args(Axis)

# Of the spectrum that is kept.
_SPECTRUM = 64


class Case(NamedTuple):
  """One kernel; what it doesn't depend on is None.

  Attributes:
    features: "raw", the kernel of the images; "raw_augmented", their views as
      further points to learn from; the induced kernel of one of the two losses,
      or of the contrastive one with classes for images, "supervised".
    labels: images whose labels the classifier sees.
    views: of each image.
    beta: of the non-contrastive loss.
    alpha: as a fraction of the one from which on the optimum is 0.
  """

  features: Features
  labels: int
  views: int | None = None
  beta: float | None = None
  alpha: float | None = None


def case(
  features: Features,
  kernels: Kernels,
  loss: Loss,
  **changed: Any,
) -> Case:
  """Returns a case of the main setting, with one number changed or none."""
  every = {
    "labels": kernels.images,
    "views": kernels.views,
    "beta": loss.beta,
    "alpha": kernels.alpha,
    **changed,
  }
  axes = {
    "raw": ("labels",),
    "raw_augmented": ("labels", "views"),
    "contrastive": ("labels", "views", "alpha"),
    "non_contrastive": ("labels", "views", "beta", "alpha"),
    "supervised": ("labels", "views", "alpha"),
  }
  return Case(features, **{axis: every[axis] for axis in axes[features]})


def main(kernels: Kernels, loss: Loss) -> list[Case]:
  """Returns the cases of the main setting; those with a ridge also without."""
  own = [case(features, kernels, loss) for features in FEATURES]
  without = [one._replace(alpha=0.0) for one in own if one.alpha]
  return [*without, *own]


def swept(kernels: Kernels, loss: Loss) -> dict[Axis, dict[float, list[Case]]]:
  """Returns the cases of each sweep, by the number that it changes.

  Of all kernels that depend on it, and of no others.
  """
  values: Mapping[Axis, tuple[float, ...]] = {
    "views": kernels.sweep_views,
    "labels": kernels.sweep_labels,
    "beta": kernels.sweep_betas,
    "alpha": kernels.sweep_alphas,
  }

  def changed(axis: Axis, value: float) -> Iterator[Case]:
    for features in FEATURES:
      own = case(features, kernels, loss, **{axis: value})
      if getattr(own, axis) is not None:
        yield own

  return {
    axis: {value: [*changed(axis, value)] for value in values[axis]}
    for axis in AXES
  }


@dataclasses.dataclass(frozen=True)
class Measures:
  """What an embedding is like.

  Where the loss doesn't see a shift, k* is that of f less its mean over the
  points, from `within` on.

  Attributes:
    d_out: its dimension,
    rank: and how many of them the optimum uses.
    alpha: weight of the ridge.
    loss: of the points, without the ridge.
    minimum: the least loss of any embedding of as many dimensions.
    gap: their difference, relative to the larger of |minimum| and ||T||^2.
    trace_bk: Tr(B K).
    within: mean k* of two views of one image (of one class: supervised),
    between: and of views of different images.
    target_alignment: of k* and T, at the points.
    spectrum: leading eigenvalues of k* on test images, the first being 1.
  """

  d_out: int
  rank: int
  alpha: float
  loss: float
  minimum: float
  gap: float
  trace_bk: float
  within: float
  between: float
  target_alignment: float
  spectrum: list[float]


def smoothest(
  k: Float[np.ndarray, "n n"], top: Eigenpairs, d_out: int
) -> Eigenpairs:
  """Keeps the first of eigenpairs; of those that tie, those of least Tr(B K).

  Where the last to be kept ties with the next the closed form isn't unique:
  with fewer dimensions than images any images' means will do. Of the optima
  this is the one that the kernel finds simplest, and, less its mean where the
  loss doesn't see it, the limit of the ridge's as alpha goes to 0: Tr(B K) =
  tr(V^T K^-1 V) for equal eigenvalues, least for the smallest eigenvectors of
  U^T K^-1 U.

  Args:
    k: Gram matrix, positive definite; of a loss that sees no shift K centred,
      and anything along 1.
    top: of the target, all that are positive.
    d_out: dimension of the embedding.
  """
  values, vectors = top.values, top.vectors.copy()
  tied = np.flatnonzero(np.isclose(values, values[d_out - 1]))
  if tied[-1] >= d_out and values[d_out - 1] > 0:
    u = vectors[:, tied]
    half = linalg.solve_triangular(factor(k), u, lower=True)
    vectors[:, tied] = u @ np.linalg.eigh(half.T @ half)[1]
  return Eigenpairs(values[:d_out], vectors[:, :d_out])


def optimum(
  k: Float[np.ndarray, "n n"],
  loss: losses.Loss,
  image_ids: Ids,
  *,
  d_out: int,
  alpha: float,
  memory_limit_gib: float | None = None,
) -> Map:
  """Returns M of a loss, [d_out, N].

  Args:
    k: Gram matrix with its jitter.
    loss: one of the two.
    image_ids: [N].
    d_out: dimension of the embedding.
    alpha: weight of the ridge; 0 takes the closed form without it.
    memory_limit_gib: None takes 80% of what is available.
  """
  if alpha:
    return ridge_form(
      k,
      loss,
      image_ids,
      alpha=alpha,
      d_out=d_out,
      memory_limit_gib=memory_limit_gib,
    )
  every = max(d_out, len(image_ids) - loss.shift_invariant)
  metric = k
  if loss.shift_invariant:
    rows = k - k.mean(0)
    metric = rows - rows.mean(1, keepdims=True) + np.trace(k) / k.size
  top = smoothest(metric, loss.eigenpairs(image_ids, every), d_out)
  return closed_form(k, top, memory_limit_gib=memory_limit_gib)


def directions_between(loss: losses.Loss, image_ids: Ids) -> int:
  """Returns how many directions tell images apart."""
  return len(np.unique(image_ids)) - loss.shift_invariant


def measure(
  k: Float[np.ndarray, "n n"],
  m: Map,
  loss: losses.Loss,
  image_ids: Ids,
  *,
  alpha: float,
  z_test: Float[np.ndarray, "m d"],
) -> Measures:
  """Returns what an embedding is like.

  Args:
    k: Gram matrix with its jitter, [N, N].
    m: M, [d_out, N].
    loss: that it minimises.
    image_ids: [N].
    alpha: weight of the ridge.
    z_test: embedded test images.
  """
  z = k @ m.T
  value = loss.of_embedding(z, image_ids)
  minimum = loss.minimum(image_ids, len(m))
  scale = max(abs(minimum), loss.target_squares(image_ids))
  if loss.shift_invariant:
    mean = z.mean(0)
    z, z_test = z - mean, z_test - mean
  pairs = within_between(z, image_ids)
  values = spectrum(z_test)
  # Where the ridge leaves nothing, nothing is aligned.
  nonzero = bool(np.any(z))
  return Measures(
    d_out=len(m),
    rank=int(np.sum(np.any(m != 0, axis=1))),
    alpha=alpha,
    loss=value,
    minimum=minimum,
    gap=(value - minimum) / scale,
    trace_bk=trace_bk(m, k),
    within=pairs.within,
    between=pairs.between,
    target_alignment=(
      alignment_with(induced(z), loss.target(image_ids)) if nonzero else 0.0
    ),
    spectrum=[*map(float, values[:_SPECTRUM] / max(values[0], 1e-300))],
  )


class Induced(NamedTuple):
  """A map on some of the points.

  Attributes:
    at: the points X that it was found on.
    m: M.
    measures: what it is like.
  """

  at: Indices
  m: Map
  measures: Measures


def embed(found: Grams, this: Case, kernels: Kernels) -> Induced:
  """Returns the optimum of a case's loss.

  Args:
    found: the kernel.
    this: a case with a loss.
    kernels: the main setting.
  """
  views = this.views or 0
  # Only the supervised kernel must not see images without a label.
  supervised = this.features == "supervised"
  n = this.labels if supervised else len(found.labels)
  at = found.views(views, n)
  of = np.repeat(found.labels[:n] if supervised else np.arange(n), views)
  loss: losses.Loss = (
    losses.Contrastive()
    if this.beta is None
    else losses.NonContrastive(this.beta)
  )
  limit = kernels.limit_gib
  k = with_jitter(found.k[np.ix_(at, at)], kernels.jitter)
  alpha = 0.0
  if this.alpha:
    most = vanishing_alpha(k, loss, of, memory_limit_gib=limit)
    alpha = this.alpha * most
  if supervised:
    m = supervised_form(k, of, alpha=alpha, memory_limit_gib=limit)
  else:
    m = optimum(
      k,
      loss,
      of,
      d_out=kernels.d_out or directions_between(loss, of),
      alpha=alpha,
      memory_limit_gib=limit,
    )
  z_test = found.k_test[:, at] @ m.T
  measures = measure(k, m, loss, of, alpha=alpha, z_test=z_test)
  return Induced(at, m, measures)


def on_images(
  found: Grams, this: Case, embedded: Induced | None
) -> tuple[Float[np.ndarray, "n n"], Float[np.ndarray, "m n"], Indices]:
  """Returns the kernel of labelled points, of test, and whose points they are.

  Points are the images themselves: seen as test images are, and, unlike the
  views that the embedding was made for, not where it was told what to be.
  """
  own = found.images(this.labels)
  ids = np.arange(this.labels)
  if embedded is not None:
    z, z_test = (
      k[:, embedded.at] @ embedded.m.T for k in (found.k[own], found.k_test)
    )
    return induced(z), induced(z_test, z), ids
  if this.features == "raw_augmented":
    views = this.views or 0
    own = np.concatenate([own, found.views(views, this.labels)])
    ids = np.concatenate([ids, np.repeat(ids, views)])
  return found.k[np.ix_(own, own)], found.k_test[:, own], ids


def _class_alignment(k: Float[np.ndarray, "n n"], labels: Ids) -> float:
  same = (labels[:, None] == labels[None]).astype(np.float64)
  return alignment_with(k, same) if np.any(k) else 0.0


def row(found: Grams, this: Case, kernels: Kernels) -> dict[str, Any]:
  """Returns all numbers of a case, as they are written.

  Args:
    found: the kernel.
    this: the case.
    kernels: the main setting.

  Raises:
    ValueError: labels are too few for the folds, the kernel isn't positive
      semidefinite within the jitter, or memory doesn't suffice.
  """
  started = time.perf_counter()
  with_loss = this.features not in ("raw", "raw_augmented")
  embedded = embed(found, this, kernels) if with_loss else None
  k, k_test, ids = on_images(found, this, embedded)
  labels = found.labels[ids]
  folds = folds_of(found, this.labels, kernels)
  accuracies: dict[str, Any] = {}
  for name, accuracy in (("svm", svm_accuracy), ("ridge", ridge_accuracy)):
    accuracies[name] = (
      accuracy(
        k,
        labels,
        k_test,
        found.labels_test,
        folds=folds,
        seed=kernels.seed,
        groups=ids,
        # Views that are points too are not what test images are.
        scored=np.arange(len(ids)) < this.labels,
      )._asdict()
      if np.any(k)
      else None
    )
  return {
    "case": this._asdict(),
    "not_done": None,
    **accuracies,
    "points": len(embedded.at) if embedded else len(ids),
    "folds": folds,
    "class_alignment": _class_alignment(k, labels),
    "embedding": (dataclasses.asdict(embedded.measures) if embedded else None),
    "seconds": time.perf_counter() - started,
  }


def row_or_reason(found: Grams, this: Case, kernels: Kernels) -> dict[str, Any]:
  """Returns `row`; of a case that can't be done only why, as "not_done"."""
  started = time.perf_counter()
  try:
    return row(found, this, kernels)
  except (ValueError, MemoryError) as error:
    nothing = dict.fromkeys(
      ("svm", "ridge", "points", "folds", "class_alignment", "embedding")
    )
    return {
      "case": this._asdict(),
      "not_done": str(error) or type(error).__name__,
      **nothing,
      "seconds": time.perf_counter() - started,
    }


def folds_of(found: Grams, labels: int, kernels: Kernels) -> int:
  """Returns the folds for so many labels: fewer where a class has fewer.

  Raises:
    ValueError: a class has one label, which can't be held out.
  """
  fewest = int(np.unique(found.labels[:labels], return_counts=True)[1].min())
  if fewest < 2:
    key = "images" if labels == kernels.images else "sweep_labels"
    raise ValueError(
      f"kernels.{key}: of {labels} labelled images a class has {fewest}; there "
      "must be 2 of each at least, to choose C and the ridge by"
    )
  return min(kernels.folds, fewest)
