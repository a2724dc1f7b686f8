"""Programs of a run, with abstract arguments on the target's devices."""

import math
from collections.abc import Sequence
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from jssl import mesh
from jssl.config.build import build, open_split
from jssl.config.schema import Config, Data
from jssl.data.source import InMemory
from jssl.probe.encoders import center_features
from jssl.train.init import Program, checkpoint_items
from jssl.typing import PyTree

# Names of the programs.
STEP, FEATURES = "train step", "probe features"


def _stand_in(data: Data, channels: int) -> InMemory:
  """Returns images of the config's size for a set that is not prepared."""
  # Classes and size of ImageNet; the compiled programs depend on neither.
  images, classes = max(1_281_167, data.batch_size), map(str, range(1000))
  shape = (images, data.image_size_px, data.image_size_px, channels)
  return InMemory(
    data.name,
    tuple(classes),
    np.broadcast_to(np.uint8(0), shape),
    np.zeros(images, np.int32),
  )


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


class Plan(NamedTuple):
  """Devices and state of a run.

  Attributes:
    mesh: axis sizes by name.
    hosts: number of processes.
    prepared: True if the data set is prepared on this machine; otherwise the
      config's image size is assumed.
    image_bytes: size of an image on the device.
    checkpoint_bytes: size of a checkpoint on disk.
  """

  mesh: dict[str, int]
  hosts: int
  prepared: bool
  image_bytes: int
  sizes: Sizes
  checkpoint_bytes: int


def total_bytes(tree: PyTree, *, per_device: bool) -> int:
  """Returns the size of abstract arrays, or of their shards on one device."""
  total = 0
  for leaf in jax.tree.leaves(tree):
    shape = leaf.sharding.shard_shape(leaf.shape) if per_device else leaf.shape
    total += math.prod(shape) * leaf.dtype.itemsize
  return total


def programs(
  config: Config, devices: Sequence[jax.Device]
) -> tuple[Plan, tuple[Compilable, Compilable]]:
  """Returns a run's plan, train step and probe features, without allocating.

  Raises:
    ValueError, TypeError: if the config is invalid on these devices.
  """
  try:
    source, prepared = open_split(config.data, config.data.split), True
  except FileNotFoundError:
    source = _stand_in(config.data, len(config.model.mean))
    prepared = False
  run = build(config, source=source, devices=devices)
  program = Program(run)
  by_batch = mesh.batch_sharding(run.mesh)

  def images(number: int) -> jax.ShapeDtypeStruct:
    shape = (number, *source.image_shape)
    return jax.ShapeDtypeStruct(shape, source.image_dtype, sharding=by_batch)

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
    teacher=size((state.teacher, state.anchor)),
    head=size(state.head_params, state.objective),
    optimizer=size(state.opt_state, state.head_opt_state),
    batch=size(batch),
    prefetched=run.config.data.prefetch_batches * size(batch),
  )
  plan = Plan(
    dict(run.mesh.shape),
    len({device.process_index for device in run.mesh.devices.flat}),
    prepared,
    math.prod(source.image_shape) * source.image_dtype.itemsize,
    sizes,
    total_bytes(checkpoint_items(state), per_device=False),
  )
  inputs = variables, images(probe_b)
  return plan, (
    Compilable(STEP, program.step, (state, batch), b, sizes.prefetched),
    # The probe does not prefetch to the device.
    Compilable(FEATURES, features, inputs, probe_b, prefetched=0),
  )
