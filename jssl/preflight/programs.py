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
from jssl.typing import PyTree

# Names of the programs.
STEP, FEATURES = "train step", "probe features"


class AbstractSource:
  """Shapes of a data set that is not prepared: images of the config's size."""

  def __init__(self, data: Data, channels: int):
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


class Sizes(NamedTuple):
  """Bytes per device between two steps.

  Attributes:
    parameters: backbone, including batch statistics.
    head: parameters and state of the objective.
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
    images: number of images per call, on all devices.
    prefetched: bytes of prefetched batches on a device during a call.
  """

  name: str
  function: Any
  arguments: tuple[PyTree, ...]
  images: int
  prefetched: int


class Programs(NamedTuple):
  """Programs of a run.

  Attributes:
    prepared: True if the data set is prepared on this machine.
    compilable: train step and probe features.
  """

  run: Run
  prepared: bool
  compilable: tuple[Compilable, ...]
  sizes: Sizes
  checkpoint_bytes: int


def total_bytes(tree: PyTree, *, per_device: bool) -> int:
  """Returns the size of abstract arrays, or of their shards on one device."""
  total = 0
  for leaf in jax.tree.leaves(tree):
    shape = leaf.sharding.shard_shape(leaf.shape) if per_device else leaf.shape
    total += math.prod(shape) * leaf.dtype.itemsize
  return total


def programs(config: Config, devices: Sequence[jax.Device]) -> Programs:
  """Returns the programs of a run, without allocating arrays.

  Raises:
    ValueError, TypeError: if the config is invalid on these devices.
  """
  source: Source
  try:
    source = open_split(config.data, config.data.split)
  except FileNotFoundError:
    source = AbstractSource(config.data, len(config.model.mean))
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
  state = program.abstract_state
  replicated = mesh.replicated(run.mesh)
  variables = jax.tree.map(
    lambda leaf: leaf.update(sharding=replicated), state.backbone
  )
  features = jax.jit(
    center_features(run.backbone, crop_size_px=run.config.augment.crop_size_px)
  )

  def size(*trees: PyTree) -> int:
    return total_bytes(trees, per_device=True)

  sizes = Sizes(
    parameters=size(state.backbone),
    teacher=size(state.teacher),
    head=size(state.head_params, state.objective),
    optimizer=size(state.opt_state, state.head_opt_state),
    batch=size(batch),
    prefetched=run.config.data.prefetch_batches * size(batch),
  )
  inputs = variables, images(probe_b)
  return Programs(
    run,
    not isinstance(source, AbstractSource),
    (
      Compilable(STEP, program.step, (state, batch), b, sizes.prefetched),
      # The probe does not prefetch to the device.
      Compilable(FEATURES, features, inputs, probe_b, prefetched=0),
    ),
    sizes,
    total_bytes(checkpoint_items(state), per_device=False),
  )
