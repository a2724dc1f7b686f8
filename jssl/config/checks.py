"""Rules between sections of a config, checked before anything is allocated."""

from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Int

from jssl import rng
from jssl.config.schema import Config
from jssl.data.source import Source
from jssl.models import Backbone, ViT, init_variables
from jssl.objectives import OBJECTIVES, Objective
from jssl.objectives.base import grid_of
from jssl.objectives.encode import make_encoder, rows_of


def check_probe_features(config: Config, backbone: Backbone) -> None:
  """Raises ValueError if the backbone does not have what the probe fits to."""
  probe, model = config.probe, config.model
  size = config.augment.crop_size_px
  grid = backbone.grid((size, size, 1))
  if probe.dense_images and grid is None:
    raise ValueError(
      f"probe.dense_images={probe.dense_images}: expected 0, because "
      f"{type(model).__name__} (model.name) has no patch tokens"
    )
  if probe.features == "pooled":
    return
  if not (isinstance(model, ViT) and grid):
    raise ValueError(
      f'probe.features="{probe.features}": expected "pooled", because '
      f"{type(model).__name__} (model.name) has no tokens; set probe.features "
      'to "pooled"'
    )
  if probe.blocks > model.depth:
    raise ValueError(
      f"probe.blocks={probe.blocks}: expected at most model.depth={model.depth}"
    )


def check(
  config: Config,
  source: Source,
  backbone: Backbone,
  objective: Objective,
  devices: int,
) -> None:
  """Checks sections against each other, the data set and the devices.

  Raises:
    ValueError: if two sections do not fit; names the keys to change.
  """
  check_probe_features(config, backbone)
  batch_size, chunks = config.data.batch_size, config.train.chunks
  for parts, key in (
    (chunks, f"train.chunks={chunks}"),
    (2 if config.head.batch == "fresh" else 1, 'head.batch="fresh"'),
  ):
    if batch_size % (parts * devices):
      raise ValueError(
        f"data.batch_size={batch_size} does not divide into {parts} parts "
        f"({key}) over {devices} devices; use a multiple of {parts * devices}"
      )
  config.order.check(
    images=len(source), batch_size=batch_size, steps=config.train.steps
  )
  _check_objective(config, source, backbone, objective)
  _check_shapes(config, source, backbone, objective)


def labels_error(
  dataset: str,
  train: Int[np.ndarray, "n"],
  test: Int[np.ndarray, "m"],
  num_classes: int,
) -> str:
  """Returns why probes cannot be fitted to labels, or an empty string."""
  for labels in (train, test):
    missing = int(np.sum(labels < 0))
    if missing:
      return (
        f"{dataset}: {missing} of {len(labels)} images have no label, "
        "but probes need all labels; choose another set with --dataset"
      )
  counts = np.bincount(train, minlength=num_classes)
  present = np.union1d(train, test)
  rare = present[counts[present] < 2]
  if len(rare):
    return (
      f"class {rare[0]} of {dataset} has {counts[rare[0]]} training images, "
      "but probes need 2 of each class, one to fit and one to validate; choose "
      "another set with --dataset"
    )
  return ""


def _check_objective(
  config: Config, source: Source, backbone: Backbone, objective: Objective
) -> None:
  name = type(objective).__name__
  if objective.uses_labels and not source.num_classes:
    raise ValueError(
      f"data.name={source.name!r} has no labels, and {name} (objective.name) "
      "needs them"
    )
  augment = config.augment
  if augment.mixes and not objective.mixes_labels:
    others = [name for name, cls in OBJECTIVES.items() if cls.mixes_labels]
    raise ValueError(
      f"augment.mixup_alpha={augment.mixup_alpha} and augment.cutmix_alpha="
      f"{augment.cutmix_alpha}: {name} does not take mixed images; set both to "
      f"0 or objective.name to {', '.join(others)}"
    )
  size = augment.crop_size_px
  if objective.uses_tokens:
    grid_of(backbone.spec((size, size, 1)), objective)
  num_views, num_small = objective.num_views, augment.num_small
  if num_small and not objective.multi_crop:
    others = [name for name, cls in OBJECTIVES.items() if cls.multi_crop]
    raise ValueError(
      f"augment.num_small={num_small}: {name} takes {num_views} views of one "
      f"size; set it to 0 or objective.name to one of {', '.join(others)}"
    )
  if objective.multi_crop and num_views + num_small < 2:
    raise ValueError(
      f"objective.num_views={num_views} and augment.num_small={num_small}: "
      f"{name} compares views; set objective.num_views to 2 or more, or "
      "augment.num_small to 1 or more"
    )
  start = config.init_from
  if objective.anchored(-1) and not (start.workdir or start.weights):
    raise ValueError(
      f"objective.gram_start_step=0: the Gram teacher of {name} would be the "
      "random backbone; raise it, or set init_from.workdir or init_from.weights"
    )
  special = {*objective.schedules(), *objective.constant_rates()}
  if special and config.head.has_own_optimizer:
    raise ValueError(
      f'head.strategy="{config.head.strategy}" has its own optimizer, but '
      f"{name} has learning rates for {sorted(special)}: use "
      '"joint", or set objective.prototypes.freeze_steps=0 (SimSiam: '
      "objective.constant_predictor_rate=False)"
    )


def _check_shapes(
  config: Config, source: Source, backbone: Backbone, objective: Objective
) -> None:
  """Traces views, backbone and loss; allocates nothing.

  Raises ValueError for what only shapes show: crops that patches do not divide,
  channels unlike `model.mean`, groups of batch statistics that do not divide a
  chunk, a queue that is no multiple of the batch.
  """
  batch_size, size = config.data.batch_size, config.augment.crop_size_px
  image_shape = (size, size, source.image_shape[-1])
  chunk = batch_size // config.train.chunks
  rows = batch_size // 2 if config.head.batch == "fresh" else batch_size

  def trace() -> Any:
    key = rng.root(0)
    variables = init_variables(0, backbone, image_shape)
    teachers = sum(
      x is not None
      for x in (objective.teacher_momentum(0), objective.anchored(0))
    )
    encoder = make_encoder(backbone, config.augment, objective)
    pixels = jnp.zeros((chunk, *image_shape), source.image_dtype)
    parts = rows_of(pixels, key, 0, mixed=config.augment.mixes)
    features, *_ = encoder(variables, (variables,) * teachers, parts)
    features = jax.tree.map(
      lambda x: jnp.zeros((len(x), rows, *x.shape[2:]), x.dtype), features
    )
    spec = backbone.spec(image_shape, source.num_classes)
    head_params, state = objective.init(key, spec)
    return objective.loss(
      head_params,
      state,
      features.with_labels(jnp.zeros(rows, jnp.int32)),
      key=key,
      step=0,
    )

  jax.eval_shape(trace)
