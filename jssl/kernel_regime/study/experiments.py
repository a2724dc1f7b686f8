"""The experiments of the kernel study: the main ones and the sweeps."""

from collections.abc import Mapping
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
  "supervised": ("labels", "views", "alpha"),
  "contrastive": ("labels", "views", "alpha"),
  "non_contrastive": ("labels", "views", "beta", "alpha"),
}


class Experiment(NamedTuple):
  """One kernel; numbers that it does not depend on are None.

  "raw" is the kernel of the images, "raw_augmented" with their views as further
  training points, "supervised" the contrastive loss with classes for images.
  `alpha` is a fraction of `alpha_max`.
  """

  features: Features
  labels: int
  views: int | None = None
  beta: float | None = None
  alpha: float | None = None


def experiment(
  features: Features,
  config: KernelStudy,
  changed: Mapping[Axis, Any] | None = None,
) -> Experiment:
  """Returns the main experiment of a kernel, with some numbers changed."""
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


def ordered_features(config: KernelStudy) -> list[Features]:
  """All features, those of `loss.name` last."""
  return sorted(_AXES, key=lambda features: features == config.loss.name)


def main_experiments(config: KernelStudy) -> dict[str, Experiment]:
  """Main experiments by name, in order; those with a ridge also without."""
  found = {}
  for features in ordered_features(config):
    own, name = experiment(features, config), FEATURE_NAMES[features]
    if own.alpha:
      found[f"{name}, no ridge"] = own._replace(alpha=0.0)
    found[name] = own
  return found


def sweep_experiments(
  config: KernelStudy,
) -> dict[Axis, dict[Features, dict[float, Experiment]]]:
  """Experiments by sweep, kernel (if it depends on the number) and value."""
  values: dict[Axis, tuple[float, ...]] = {
    "views": config.sweep.views,
    "labels": config.sweep.labels,
    "beta": config.sweep.betas,
    "alpha": config.sweep.alphas,
  }
  return {
    axis: {
      features: {x: experiment(features, config, {axis: x}) for x in swept}
      for features in ordered_features(config)
      if axis in _AXES[features]
    }
    for axis, swept in values.items()
    if swept
  }


def all_experiments(config: KernelStudy) -> list[Experiment]:
  """All experiments, without duplicates."""
  swept = (
    experiment
    for by_features in sweep_experiments(config).values()
    for by_value in by_features.values()
    for experiment in by_value.values()
  )
  return [*dict.fromkeys([*main_experiments(config).values(), *swept])]
