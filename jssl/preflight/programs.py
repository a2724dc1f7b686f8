"""The programs of a config, with the shapes and places of their arguments."""

import math
from collections.abc import Sequence
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
from jaxtyping import Int
from numpy import ndarray

from jssl import mesh
from jssl.config.build import Run, build, open_split
from jssl.config.schema import Config, Data
from jssl.data.source import HostBatch, Source
from jssl.probe.encoders import center_features
from jssl.train.init import Program, checkpoint_items
from jssl.train.state import TrainState
from jssl.typing import PyTree

# Names of the programs.
STEP, FEATURES = "train step", "probe features"


class Unprepared:
  """Stands for a set that this machine doesn't have: shapes alone."""

  def __init__(self, data: Data, channels: int):
    """Takes images for as large as the config makes them."""
    self.name = data.name
    self.image_shape = (data.image_size_px, data.image_size_px, channels)
    # As ImageNet; what is compiled depends on neither.
    self.num_classes = 1000
    self.class_names = tuple(map(str, range(1000)))
    self._images = max(1_281_167, data.batch_size)

  def __len__(self) -> int:
    return self._images

  def fetch(self, rows: Int[ndarray, "n"]) -> HostBatch:
    """Raises: there is nothing to read."""
    raise FileNotFoundError(f"{self.name} isn't prepared on this machine")


def open_or_stand_in(config: Config) -> Source:
  """Returns the data set of a config, or what has its shapes."""
  data = config.data
  try:
    return open_split(data, data.split)
  except FileNotFoundError:
    return Unprepared(data, len(config.model.mean))


class Sizes(NamedTuple):
  """Bytes of what a device holds between two steps.

  Attributes:
    parameters: of the backbone, with batch statistics.
    teacher: the averaged backbone.
    head: parameters and state of the objective.
    optimizer: its moments.
    batch: images and labels.
    prefetched: batches that lie ready for the next steps.
  """

  parameters: int
  teacher: int
  head: int
  optimizer: int
  batch: int
  prefetched: int


class Compilable(NamedTuple):
  """A function that is jitted, and its arguments as shapes.

  Attributes:
    name: what it is.
    function: jitted.
    arguments: arrays' shapes, dtypes and shardings.
    images: that it goes through at once, on all devices.
  """

  name: str
  function: Any
  arguments: tuple[PyTree, ...]
  images: int


class Programs(NamedTuple):
  """What a run compiles for its devices.

  Attributes:
    run: the config, as objects.
    prepared: whether its data set is on this machine.
    compilable: the train step, and the probe's features.
    sizes: of what a device holds.
    checkpoint_bytes: of a checkpoint, on the disk.
  """

  run: Run
  prepared: bool
  compilable: tuple[Compilable, ...]
  sizes: Sizes
  checkpoint_bytes: int


def _bytes_of(leaf: Any, *, on_device: bool) -> int:
  dtype = leaf.dtype
  if jnp.issubdtype(dtype, jax.dtypes.prng_key):
    leaf = jax.eval_shape(jax.random.key_data, leaf)
    return leaf.size * leaf.dtype.itemsize
  shape = leaf.sharding.shard_shape(leaf.shape) if on_device else leaf.shape
  return math.prod(shape) * dtype.itemsize


def total_bytes(tree: PyTree, *, on_device: bool) -> int:
  """Returns the bytes of shaped arrays: of a device's part, or of all."""
  return sum(
    _bytes_of(leaf, on_device=on_device) for leaf in jax.tree.leaves(tree)
  )


def _sizes(state: TrainState, batch: PyTree, ready: int) -> Sizes:
  held = [
    total_bytes(tree, on_device=True)
    for tree in (
      state.backbone,
      state.teacher,
      (state.head_params, state.objective),
      (state.opt_state, state.head_opt_state),
      batch,
    )
  ]
  return Sizes._make([*held, ready * held[-1]])


def programs(config: Config, devices: Sequence[jax.Device]) -> Programs:
  """Returns what a run of a config compiles; nothing is allocated.

  Args:
    config: see configs/.
    devices: that it is for.

  Raises:
    ValueError, TypeError: the config can't be run on so many devices.
  """
  source = open_or_stand_in(config)
  run = build(config, source=source, devices=devices)
  program = Program(run)
  of_batch = mesh.batch_sharding(run.mesh)

  def images(number: int) -> jax.ShapeDtypeStruct:
    shape = (number, *source.image_shape)
    return jax.ShapeDtypeStruct(shape, jnp.uint8, sharding=of_batch)

  b = run.config.data.batch_size
  batch = {
    "image": images(b),
    "label": jax.ShapeDtypeStruct((b,), jnp.int32, sharding=of_batch),
  }
  settings = config.probe
  probed = -(-settings.batch_size // run.mesh.size) * run.mesh.size
  variables = jax.tree.map(
    lambda leaf: jax.ShapeDtypeStruct(
      leaf.shape, leaf.dtype, sharding=mesh.replicated(run.mesh)
    ),
    program.abstract_state.backbone,
  )
  features = jax.jit(
    center_features(run.backbone, crop_size_px=run.config.augment.crop_size_px)
  )
  return Programs(
    run,
    not isinstance(source, Unprepared),
    (
      Compilable(STEP, program.step, (program.abstract_state, batch), b),
      Compilable(FEATURES, features, (variables, images(probed)), probed),
    ),
    _sizes(program.abstract_state, batch, run.config.data.prefetch_batches),
    total_bytes(checkpoint_items(program.abstract_state), on_device=False),
  )
