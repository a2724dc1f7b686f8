"""The experiments of the kernel study: the main ones and the sweeps."""

from collections.abc import Iterator, Mapping
from typing import Any, Literal, NamedTuple

from jssl.kernel_regime.study.config import KernelStudy

Features = Literal[
  "raw", "raw_augmented", "contrastive", "non_contrastive", "supervised"
]
Axis = Literal["views", "labels", "beta", "alpha"]

FEATURE_NAMES: Mapping[Features, str] = {
  "raw": "raw kernel",
  "raw_augmented": "raw kernel, views added",
  "supervised": "supervised-augmented",
  "contrastive": "contrastive",
  "non_contrastive": "non-contrastive",
}
AXIS_NAMES: Mapping[Axis, str] = {
  "views": "views of each image",
  "labels": "labelled images",
  "beta": "beta (weight of the invariance)",
  "alpha": "alpha (weight of the ridge / alpha_max)",
}

# Numbers that a kernel depends on.
_AXES: Mapping[Features, tuple[Axis, ...]] = {
  "raw": ("labels",),
  "raw_augmented": ("labels", "views"),
  "contrastive": ("labels", "views", "alpha"),
  "non_contrastive": ("labels", "views", "beta", "alpha"),
  "supervised": ("labels", "views", "alpha"),
}


class Experiment(NamedTuple):
  """One kernel; numbers that it does not depend on are None.

  Attributes:
    features: "raw", the kernel of the images; "raw_augmented", with their views
      as further training points; the induced kernel of one of the two losses;
      or "supervised", of the contrastive loss with classes for images.
    labels: number of images whose labels the classifier uses.
    views: number of views of each image.
    beta: weight of the invariance of the non-contrastive loss.
    alpha: weight of the ridge as a fraction of `alpha_max`.
  """

  features: Features
  labels: int
  views: int | None = None
  beta: float | None = None
  alpha: float | None = None

  @property
  def has_embedding(self) -> bool:
    """True if the kernel is induced by an embedding."""
    return self.features not in ("raw", "raw_augmented")


def experiment(
  features: Features,
  config: KernelStudy,
  changed: Mapping[Axis, Any] | None = None,
) -> Experiment:
  """Returns the main experiment of a kernel.

  Args:
    features: see `Experiment`.
    config: of the study.
    changed: numbers that replace those of the config.
  """
  values: dict[Axis, Any] = {
    "labels": config.problem.images,
    "views": config.problem.views,
    "beta": config.loss.beta,
    "alpha": config.problem.alpha,
    **(changed or {}),
  }
  return Experiment(
    features, **{axis: values[axis] for axis in _AXES[features]}
  )


def main_experiments(config: KernelStudy) -> list[Experiment]:
  """Main experiments; those with a ridge also without."""
  main = [experiment(features, config) for features in _AXES]
  return [*(e._replace(alpha=0.0) for e in main if e.alpha), *main]


def sweep_experiments(
  config: KernelStudy,
) -> dict[Axis, dict[float, list[Experiment]]]:
  """Experiments of each sweep by value, of the kernels that depend on it."""
  values: dict[Axis, tuple[float, ...]] = {
    "views": config.sweep.views,
    "labels": config.sweep.labels,
    "beta": config.sweep.betas,
    "alpha": config.sweep.alphas,
  }

  def at(axis: Axis, value: float) -> Iterator[Experiment]:
    for features, axes in _AXES.items():
      if axis in axes:
        yield experiment(features, config, {axis: value})

  return {
    axis: {value: [*at(axis, value)] for value in values[axis]}
    for axis in values
    if values[axis]
  }


def all_experiments(config: KernelStudy) -> list[Experiment]:
  """All experiments, without duplicates."""
  experiments = main_experiments(config)
  for by_value in sweep_experiments(config).values():
    for swept in by_value.values():
      experiments += swept
  return [*dict.fromkeys(experiments)]
