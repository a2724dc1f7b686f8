"""Builds the objects of a run from its parsed config."""

import os
from collections.abc import Sequence
from typing import Any, NamedTuple

import jax
import optax
from jax.sharding import Mesh

from jssl import mesh as mesh_lib
from jssl import rng
from jssl.config import checks
from jssl.config.parse import parse
from jssl.config.schema import Config, Data
from jssl.data.open import open_source
from jssl.data.source import Source
from jssl.models import Backbone, init_variables
from jssl.objectives import Objective
from jssl.optim import Optim, make_optimizer
from jssl.optim.bilevel import HeadStrategy
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
  those of the config and of this process group.

  Raises:
    ValueError: if sections do not fit each other; names the keys to change.
    FileNotFoundError: if the data set is not prepared.
  """
  mesh = mesh_lib.make_mesh(config.mesh.data, config.mesh.fsdp, devices)
  mesh_lib.check_batch_size(mesh, config.data.batch_size)
  source = source or open_split(config.data, config.data.split)
  backbone = config.model.backbone()
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
  )
  return Run(config, source, image_shape, backbone, objective, optimizer, mesh)


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


def build_objective(config: Config) -> Objective:
  """Returns the objective; its schedules end with the run."""
  return config.objective.with_total_steps(config.train.steps)


def build_optimizer(
  optim: Optim,
  backbone: Backbone,
  objective: Objective,
  head: HeadStrategy,
  image_shape: tuple[int, int, int],
  total_steps: int,
) -> optax.GradientTransformation:
  """Returns the optimizer of `{"backbone": ..., "head": ...}`.

  The head's parameters are {} where `head` has an optimizer of its own.
  ValueError if the objective schedules a group without parameters, the warm-up
  is too long, or LARS or LAMB have no matrix to adapt.
  """

  def parameters() -> Any:
    head_params, _ = objective.init(rng.root(0), backbone.feature_dim)
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
