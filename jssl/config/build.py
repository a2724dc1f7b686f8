"""Builds the objects of a run from its parsed config."""

import dataclasses
import os
from collections.abc import Sequence
from typing import Any, NamedTuple

import jax
import optax
from absl import logging
from jax.sharding import Mesh

from jssl import mesh as mesh_lib
from jssl import rng
from jssl.config import checks
from jssl.config.parse import parse
from jssl.config.schema import Config, Data
from jssl.data.open import open_source
from jssl.data.source import InMemory, Segmented, Source
from jssl.models import Backbone, ResNet, ViT, init_variables
from jssl.objectives import Objective
from jssl.optim import Optim, make_optimizer
from jssl.optim.bilevel import HeadStrategy
from jssl.runtime import distributed
from jssl.runtime.workdir import load_config


class Run(NamedTuple):
  """Objects of a training run.

  The objective has its total steps. `image_shape` is the (height, width,
  channels) of the views that the backbone sees.
  """

  config: Config
  source: Source
  image_shape: tuple[int, int, int]
  backbone: Backbone
  objective: Objective
  optimizer: optax.GradientTransformation
  mesh: Mesh


def read_config(workdir: str | os.PathLike) -> Config:
  """Reads the config of a run.

  Raises:
    FileNotFoundError: if it is not the workdir of a run.
    ValueError: if the config is damaged or of another version.
  """
  given = load_config(workdir)
  try:
    return parse(given, Config)
  except (ValueError, TypeError) as error:
    raise ValueError(
      f"{os.path.join(workdir, 'config.json')} is not the config of a run of "
      f"this version of `python -m jssl.train`: {error}"
    ) from error


def build(
  config: Config,
  *,
  source: Source | None = None,
  devices: Sequence[jax.Device] | None = None,
) -> Run:
  """Builds and checks everything that a run needs; allocates no arrays.

  `source` and `devices`, such as a topology to compile for, are used instead of
  those of the config and of this process group. With a `source`, the test split
  of the probe is not checked.

  Raises:
    ValueError: if sections do not fit each other, or the probe cannot open its
      test split; names the keys to change.
    FileNotFoundError: if the data set is not prepared.
  """
  mesh = mesh_lib.make_mesh(config.mesh.data, config.mesh.fsdp, devices)
  mesh_lib.check_batch_size(mesh, config.data.batch_size)
  if source is None:
    source = open_split(config.data, config.data.split)
    _check_probe(config, source)
  backbone = build_backbone(config)
  objective = build_objective(config)
  checks.check(config, source, backbone, objective, mesh.size)
  size = config.augment.crop_size_px
  image_shape = (size, size, source.image_shape[-1])
  optimizer = build_optimizer(
    config.optim,
    backbone,
    objective,
    config.head,
    image_shape,
    config.train.steps,
    source.num_classes,
  )
  return Run(config, source, image_shape, backbone, objective, optimizer, mesh)


def _check_probe(config: Config, train: Source) -> None:
  """Opens the probe's test split, without reading its images; checks masks.

  Logs a warning if the labels do not allow probes: another set may be probed.
  """
  data, images = config.data, config.probe.dense_images
  if images and not isinstance(train, Segmented):
    raise ValueError(
      f"probe.dense_images={images}: expected 0, because data.name={data.name} "
      "has no masks"
    )
  if not config.probe.probes:
    return
  try:
    on_disk = dataclasses.replace(data, in_memory=False)
    test = open_split(on_disk, data.test_split)
    test.fingerprint()  # Fails if a file is missing.
  except (ValueError, FileNotFoundError) as error:
    raise ValueError(
      f"data.test_split={data.test_split!r}: expected a split that the probe "
      f"can evaluate on; set probe.probes=() to train without one. {error}"
    ) from error
  problem = ""
  if not train.num_classes:
    problem = f"{data.name} has no labels; choose another set with --dataset"
  elif isinstance(train, InMemory):
    tested = test.labels if isinstance(test, InMemory) else train.labels[:0]
    problem = checks.labels_error(
      data.name, train.labels, tested, train.num_classes
    )
  if problem and distributed.is_first():
    logging.warning("`python -m jssl.probe` cannot fit probes: %s.", problem)


def open_split(data: Data, split: str) -> Source:
  """Opens one split; FileNotFoundError with the command if not prepared."""
  return open_source(
    data.name,
    data_dir=data.data_dir,
    split=split,
    image_size_px=data.image_size_px,
    in_memory=data.in_memory,
    # A neighbour in place of a test image would be tested twice.
    skip_damaged=data.skip_damaged and split == data.split,
  )


def build_model(config: Config) -> ViT | ResNet:
  """Returns the model, with a mask token if the objective uses one."""
  model, objective = config.model, config.objective
  if isinstance(model, ViT) and objective.uses_mask_token:
    model = dataclasses.replace(model, mask_token=True)
  return model


def build_backbone(config: Config) -> Backbone:
  """Returns the encoder, see `build_model`; frozen if its rate is 0."""
  backbone = build_model(config).backbone()
  return backbone if config.optim.backbone_rate else backbone.freeze()


def build_objective(config: Config) -> Objective:
  """Returns the objective; its schedules end with the run."""
  return config.objective.with_total_steps(config.train.steps)


def has_teacher(config: Config) -> bool:
  """True if the method of a run averages the backbone."""
  return build_objective(config).teacher_momentum(0) is not None


def build_optimizer(
  optim: Optim,
  backbone: Backbone,
  objective: Objective,
  head: HeadStrategy,
  image_shape: tuple[int, int, int],
  total_steps: int,
  num_classes: int = 0,
) -> optax.GradientTransformation:
  """Returns the optimizer of `{"backbone": ..., "head": ...}`.

  The head's parameters are {} where `head` has an optimizer of its own.
  ValueError if the objective schedules a group without parameters, the warm-up
  is too long, or LARS or LAMB have no matrix to adapt.
  """

  def parameters() -> Any:
    spec = backbone.spec(image_shape, num_classes)
    head_params, _ = objective.init(rng.root(0), spec)
    variables = init_variables(0, backbone, image_shape)
    return {
      "backbone": variables["params"],
      "head": head.outer_params(head_params),
    }

  shapes = jax.eval_shape(parameters)
  groups = {
    "backbone": jax.tree.map(lambda _: "backbone", shapes["backbone"]),
    "head": objective.groups(shapes["head"]),
  }
  optimizer = make_optimizer(
    optim,
    groups,
    objective.schedules(),
    total_steps=total_steps,
    constant=objective.constant_rates(),
  )
  jax.eval_shape(optimizer.init, shapes)
  return optimizer
