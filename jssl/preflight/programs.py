"""Programs of a run, with abstract arguments on the target's devices."""

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


class AbstractSource:
  """Shapes of a data set that is not prepared on this machine."""

  def __init__(self, data: Data, channels: int):
    """Assumes images of the size in the config."""
    self.name = data.name
    self.image_shape = (data.image_size_px, data.image_size_px, channels)
    # Classes and size of ImageNet; the compiled programs depend on neither.
    self.num_classes = 1000
    self.class_names = tuple(map(str, range(1000)))
    self._images = max(1_281_167, data.batch_size)

  def __len__(self) -> int:
    return self._images

  def fetch(self, rows: Int[ndarray, "n"]) -> HostBatch:
    """Raises FileNotFoundError."""
    raise FileNotFoundError(f"{self.name} is not prepared on this machine")


def open_source(config: Config) -> Source:
  """Opens the data set of a config, or an `AbstractSource` if it is missing."""
  try:
    return open_split(config.data, config.data.split)
  except FileNotFoundError:
    return AbstractSource(config.data, len(config.model.mean))


class Sizes(NamedTuple):
  """Bytes per device between two steps.

  Attributes:
    parameters: backbone, including batch statistics.
    teacher: averaged backbone.
    head: parameters and state of the objective.
    optimizer: optimizer state.
    batch: images and labels of a batch.
    prefetched: batches prefetched to the device.
  """

  parameters: int
  teacher: int
  head: int
  optimizer: int
  batch: int
  prefetched: int


class Compilable(NamedTuple):
  """A jitted function with abstract arguments.

  Attributes:
    name: `STEP` or `FEATURES`.
    function: jitted function.
    arguments: shapes, dtypes and shardings.
    images: number of images per call, on all devices.
  """

  name: str
  function: Any
  arguments: tuple[PyTree, ...]
  images: int


class Programs(NamedTuple):
  """Programs of a run.

  Attributes:
    run: objects of the config.
    prepared: True if the data set is prepared on this machine.
    compilable: train step and probe features.
    sizes: state and batches on a device.
    checkpoint_bytes: size of a checkpoint on disk.
  """

  run: Run
  prepared: bool
  compilable: tuple[Compilable, ...]
  sizes: Sizes
  checkpoint_bytes: int


def _leaf_bytes(leaf: Any, *, per_device: bool) -> int:
  if jnp.issubdtype(leaf.dtype, jax.dtypes.prng_key):
    leaf = jax.eval_shape(jax.random.key_data, leaf)
    return leaf.size * leaf.dtype.itemsize
  shape = leaf.sharding.shard_shape(leaf.shape) if per_device else leaf.shape
  return math.prod(shape) * leaf.dtype.itemsize


def total_bytes(tree: PyTree, *, per_device: bool) -> int:
  """Returns the size of a tree of abstract arrays.

  Args:
    tree: tree of `jax.ShapeDtypeStruct`.
    per_device: True for the size of the shards on one device.
  """
  leaves = jax.tree.leaves(tree)
  return sum(_leaf_bytes(leaf, per_device=per_device) for leaf in leaves)


def _sizes(state: TrainState, batch: PyTree, prefetched: int) -> Sizes:
  sizes = [
    total_bytes(tree, per_device=True)
    for tree in (
      state.backbone,
      state.teacher,
      (state.head_params, state.objective),
      (state.opt_state, state.head_opt_state),
      batch,
    )
  ]
  return Sizes._make([*sizes, prefetched * sizes[-1]])


def programs(config: Config, devices: Sequence[jax.Device]) -> Programs:
  """Returns the programs of a run, without allocating arrays.

  Args:
    config: config of the run.
    devices: devices of the run.

  Raises:
    ValueError, TypeError: if the config is invalid on these devices.
  """
  source = open_source(config)
  run = build(config, source=source, devices=devices)
  program = Program(run)
  by_batch = mesh.batch_sharding(run.mesh)

  def images(number: int) -> jax.ShapeDtypeStruct:
    shape = (number, *source.image_shape)
    return jax.ShapeDtypeStruct(shape, jnp.uint8, sharding=by_batch)

  b = run.config.data.batch_size
  batch = {
    "image": images(b),
    "label": jax.ShapeDtypeStruct((b,), jnp.int32, sharding=by_batch),
  }
  probe_b = -(-config.probe.batch_size // run.mesh.size) * run.mesh.size
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
    not isinstance(source, AbstractSource),
    (
      Compilable(STEP, program.step, (program.abstract_state, batch), b),
      Compilable(FEATURES, features, (variables, images(probe_b)), probe_b),
    ),
    _sizes(program.abstract_state, batch, run.config.data.prefetch_batches),
    total_bytes(checkpoint_items(program.abstract_state), per_device=False),
  )
