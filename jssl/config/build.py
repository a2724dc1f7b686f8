"""From a config to objects: the only reader of a ConfigDict.

Every section of a config has the fields of one frozen dataclass. What is wrong
within a section or between two of them is said here, before anything is
allocated, with the key to change.
"""

import dataclasses
import os
from collections.abc import Callable, Mapping, Sequence
from typing import Any, NamedTuple, TypeVar

import jax
import jax.numpy as jnp
import optax
from jax.sharding import Mesh
from ml_collections import ConfigDict

from jssl import checkpoint
from jssl import mesh as mesh_lib
from jssl.augment import Augment, views
from jssl.config import parse, schema
from jssl.data.open import open_source
from jssl.data.order import Order
from jssl.data.source import Source
from jssl.models.backbone import Backbone, init_variables
from jssl.models.resnet import ResNet
from jssl.models.vit import ViT
from jssl.objectives.barlow_twins import BarlowTwins
from jssl.objectives.base import Features, Objective
from jssl.objectives.byol import BYOL
from jssl.objectives.cissl import CISSL
from jssl.objectives.dcl import DCL
from jssl.objectives.dino import DINO
from jssl.objectives.dissl import DISSL
from jssl.objectives.lejepa import LeJEPA
from jssl.objectives.moco_v3 import MoCoV3
from jssl.objectives.nnclr import NNCLR
from jssl.objectives.simclr import SimCLR
from jssl.objectives.simsiam import SimSiam
from jssl.objectives.spectral import Spectral
from jssl.objectives.supcon import SupCon
from jssl.objectives.swav import SwAV
from jssl.objectives.vicreg import VICReg
from jssl.objectives.w_mse import WMSE
from jssl.optim import Optim, make_optimizer
from jssl.optim.bilevel import HeadUpdate
from jssl.runtime.workdir import load_config
from jssl.typing import Variables

T = TypeVar("T")

_MODELS = {"vit": ViT, "resnet": ResNet}
_OBJECTIVES: dict[str, type[Objective]] = {
  "barlow_twins": BarlowTwins,
  "byol": BYOL,
  "cissl": CISSL,
  "dcl": DCL,
  "dino": DINO,
  "dissl": DISSL,
  "lejepa": LeJEPA,
  "moco_v3": MoCoV3,
  "nnclr": NNCLR,
  "simclr": SimCLR,
  "simsiam": SimSiam,
  "spectral": Spectral,
  "supcon": SupCon,
  "swav": SwAV,
  "vicreg": VICReg,
  "w_mse": WMSE,
}
_SECTIONS = {
  "data": schema.Data,
  "augment": Augment,
  "head": HeadUpdate,
  "optim": Optim,
  "order": Order,
  "train": schema.Train,
  "checkpoint": schema.Checkpoint,
  "log": schema.Log,
  "mesh": schema.Mesh,
  "init_from": schema.InitFrom,
  "probe": schema.Probe,
}


class Run(NamedTuple):
  """A config, as objects."""

  seed: int
  data: schema.Data
  source: Source
  image_shape: tuple[int, int, int]
  augment: Augment
  backbone: Backbone
  objective: Objective
  head: HeadUpdate
  optim: Optim
  optimizer: optax.GradientTransformation
  order: Order
  mesh: Mesh
  train: schema.Train
  log: schema.Log
  checkpoint: schema.Checkpoint
  init_from: schema.InitFrom


def section(config: ConfigDict, name: str, cls: type[T]) -> T:
  """Returns a section of the config as its dataclass.

  Raises:
    ValueError: a key is unknown or missing, or a value out of range.
    TypeError: a value is of another type.
  """
  given = config.get(name, {})
  if isinstance(given, ConfigDict):
    given = given.to_dict()
  return parse.filled(name, given, cls)


def _chosen(config: ConfigDict, name: str, classes: Mapping[str, type]) -> Any:
  """Returns the section as the class that its `name` says."""
  choice = config.get(name, {}).get("name")
  if choice not in classes:
    raise ValueError(
      f"{name}.name={choice!r}: {parse.suggest(str(choice), classes)}"
    )
  return section(config, name, classes[choice])


def with_defaults(config: dict[str, Any]) -> ConfigDict:
  """Returns a config with every key that its sections have.

  Only keys that are there can be set on the command line.

  Args:
    config: sections by name; those that have a choice of classes have a name.
  """
  classes = {
    **_SECTIONS,
    "model": _MODELS.get(config["model"]["name"]),
    "objective": _OBJECTIVES.get(config["objective"]["name"]),
  }
  complete = ConfigDict({"seed": 0, **config})
  for name, cls in classes.items():
    complete[name] = ConfigDict(parse.completed(cls, config.get(name, {})))
  return complete


def backbone(config: ConfigDict) -> Backbone:
  """Returns the encoder of a config."""
  return _chosen(config, "model", _MODELS).backbone()


def objective(config: ConfigDict, total_steps: int) -> Objective:
  """Returns the method of a config.

  Args:
    config: see configs/.
    total_steps: of the run, for methods whose schedules end with it.
  """
  method = _chosen(config, "objective", _OBJECTIVES)
  if getattr(method, "total_steps", None) == 0:
    return dataclasses.replace(method, total_steps=total_steps)
  return method


def optimizer(
  optim: Optim,
  encoder: Backbone,
  method: Objective,
  head: HeadUpdate,
  image_shape: tuple[int, int, int],
  total_steps: int,
) -> optax.GradientTransformation:
  """Returns the optimizer of backbone and head, or of the backbone alone.

  Of `{"backbone": ..., "head": ...}`; the head is {} where it has an optimizer
  of its own (`head.update`).

  Raises:
    ValueError: the method schedules what it doesn't have, the warm-up is too
      long, or LARS or LAMB have nothing to adapt.
  """

  def parameters() -> Any:
    head_params, _ = method.init(jax.random.key(0), encoder.feature_dim)
    variables = init_variables(0, encoder, image_shape)
    joint = head.update == "joint"
    return {
      "backbone": variables["params"],
      "head": head_params if joint else {},
    }

  shapes = jax.eval_shape(parameters)
  groups = {
    "backbone": jax.tree.map(lambda _: "backbone", shapes["backbone"]),
    "head": method.groups(shapes["head"]),
  }
  made = make_optimizer(
    optim,
    groups,
    method.schedules(),
    total_steps=total_steps,
    constant=method.constant_rates(),
  )
  jax.eval_shape(made.init, shapes)
  return made


def mesh(
  config: ConfigDict, devices: Sequence[jax.Device] | None = None
) -> Mesh:
  """Returns the mesh of a config, over all devices unless they are given."""
  shape = section(config, "mesh", schema.Mesh)
  return mesh_lib.make_mesh(shape.data, shape.fsdp, devices)


def source(config: ConfigDict, split: str) -> Source:
  """Opens one split of a config's data set.

  Raises:
    FileNotFoundError: it isn't prepared; the message has the command.
  """
  data = section(config, "data", schema.Data)
  return open_source(
    data.name,
    data_dir=data.data_dir,
    split=split,
    image_size_px=data.image_size_px,
    in_memory=data.in_memory,
    # A neighbour in the place of a test image would be tested twice.
    skip_damaged=data.skip_damaged and split == data.split,
  )


def _check_parts(
  data: schema.Data, train: schema.Train, head: HeadUpdate, on: Mesh
) -> None:
  """Raises ValueError where a batch can't be cut as two sections want."""
  for parts, key in (
    (train.chunks, f"train.chunks={train.chunks}"),
    (2 if head.batch == "fresh" else 1, 'head.batch="fresh"'),
  ):
    if data.batch_size % (parts * on.size):
      raise ValueError(
        f"data.batch_size={data.batch_size} does not divide into {parts} parts "
        f"({key}) over {on.size} devices; use a multiple of {parts * on.size}"
      )


def _check_objective(
  method: Objective, augment: Augment, head: HeadUpdate, images: Source
) -> None:
  """Raises ValueError where a method doesn't go with other sections."""
  if method.uses_labels and not images.num_classes:
    raise ValueError(
      f"data.name={images.name!r} has no labels, and {type(method).__name__} "
      "(objective.name) learns from them"
    )
  if augment.num_small and not method.multi_crop:
    takers = [name for name, cls in _OBJECTIVES.items() if cls.multi_crop]
    raise ValueError(
      f"augment.num_small={augment.num_small}: {type(method).__name__} takes "
      f"{method.num_views} views of one size; set it to 0 or objective.name to "
      f"one of {', '.join(takers)}"
    )
  special = {*method.schedules(), *method.constant_rates()}
  if head.update != "joint" and special:
    raise ValueError(
      f'head.update="{head.update}" has an optimizer of its own, but '
      f"{type(method).__name__} has learning rates for {sorted(special)}: use "
      '"joint", or set objective.prototypes.freeze_steps=0 (SimSiam: '
      "objective.constant_predictor_rate=False)"
    )


def _check_shapes(
  encoder: Backbone,
  method: Objective,
  augment: Augment,
  batch_size: int,
  train: schema.Train,
  head: HeadUpdate,
  image_shape: tuple[int, int, int],
) -> None:
  """Traces views, model and loss: what doesn't fit raises, unallocated.

  Views against probabilities, crops against patches, channels against mean and
  std, groups of batch statistics against a chunk, a queue against the batch.
  """
  chunk = batch_size // train.chunks
  rows = batch_size // 2 if head.batch == "fresh" else batch_size

  def traced() -> Any:
    key = jax.random.key(0)
    variables = init_variables(0, encoder, image_shape)
    pixels = jnp.zeros((chunk, *image_shape), jnp.uint8)
    keys = jax.random.split(key, chunk)
    student = []
    for images in views(augment, keys, pixels, method.num_views):
      v = len(images)
      h, _ = encoder.apply(
        variables, images.reshape(chunk * v, *images.shape[2:]), train=True
      )
      student.append(jnp.zeros((v, rows, h.shape[-1])))
    has_teacher = method.teacher_momentum(0) is not None
    head_params, state = method.init(key, encoder.feature_dim)
    return method.loss(
      head_params,
      state,
      Features(
        tuple(student),
        (student[0],) if has_teacher else (),
        jnp.zeros(rows, jnp.int32),
      ),
      key=key,
      step=0,
    )

  jax.eval_shape(traced)


def run(
  config: ConfigDict,
  *,
  train_source: Source | None = None,
  devices: Sequence[jax.Device] | None = None,
) -> Run:
  """Returns everything that a training needs.

  Args:
    config: see configs/.
    train_source: instead of opening the config's data set.
    devices: instead of those of this process group, as of a topology that is
      compiled for and not there.

  Raises:
    ValueError: parts don't fit, with the keys to change.
    TypeError: a value is of the wrong type.
    FileNotFoundError: the data set isn't prepared.
  """
  known = {"seed", "model", "objective", *_SECTIONS}
  for name in config:
    if name not in known:
      raise ValueError(f"{name} is not a section; {parse.suggest(name, known)}")
  data = section(config, "data", schema.Data)
  augment = section(config, "augment", Augment)
  device_mesh = mesh(config, devices)
  mesh_lib.check_batch_size(device_mesh, data.batch_size)
  train = section(config, "train", schema.Train)
  head = section(config, "head", HeadUpdate)
  order = section(config, "order", Order)
  _check_parts(data, train, head, device_mesh)
  optim = section(config, "optim", Optim)
  encoder = backbone(config)
  train_source = train_source or source(config, data.split)
  if data.batch_size > len(train_source):
    raise ValueError(
      f"data.batch_size={data.batch_size} is larger than {data.name} "
      f"({data.split}), which has {len(train_source)} images"
    )
  order.check(
    images=len(train_source), batch_size=data.batch_size, steps=train.steps
  )
  method = objective(config, train.steps)
  _check_objective(method, augment, head, train_source)
  channels = train_source.image_shape[-1]
  image_shape = (augment.crop_size_px, augment.crop_size_px, channels)
  chain = optimizer(optim, encoder, method, head, image_shape, train.steps)
  _check_shapes(
    encoder, method, augment, data.batch_size, train, head, image_shape
  )
  return Run(
    seed=parse.coerced("seed", config.get("seed", 0), int),
    data=data,
    source=train_source,
    image_shape=image_shape,
    augment=augment,
    backbone=encoder,
    objective=method,
    head=head,
    optim=optim,
    optimizer=chain,
    order=order,
    mesh=device_mesh,
    train=train,
    log=section(config, "log", schema.Log),
    checkpoint=section(config, "checkpoint", schema.Checkpoint),
    init_from=section(config, "init_from", schema.InitFrom),
  )


def load_backbone(
  workdir: str | os.PathLike, step: int | None = None
) -> tuple[Callable[..., Any], Variables]:
  """Returns a trained encoder as `(apply, variables)`.

  Example:
    >>> apply, variables = jssl.load_backbone("runs/quickstart")
    >>> h = apply(variables, images)  # [n, h, w, c] in [0, 1] to [n, d]

  Args:
    workdir: of the run.
    step: of the checkpoint; None takes the one that the probe found best, or
      the last where nothing was probed.

  Raises:
    FileNotFoundError: there is no run, or it has no such checkpoint.
    CheckpointError: the checkpoint is damaged.
  """
  encoder = backbone(load_config(workdir))
  steps = checkpoint.steps(workdir)
  if not steps:
    raise FileNotFoundError(f"{workdir} has no finished checkpoint")
  if step is None:
    best = checkpoint.best_step(workdir)
    step = best if best in steps else steps[-1]
  if step not in steps:
    raise FileNotFoundError(
      f"{workdir} has no checkpoint of step {step}; it has {steps}"
    )

  def apply(variables: Variables, images: jax.Array) -> jax.Array:
    features, _ = encoder.apply(variables, images, train=False)
    return features

  return apply, checkpoint.restore_backbone(workdir, step)
