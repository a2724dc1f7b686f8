"""The device mesh and the shardings of batches and state.

The mesh has two axes. Batches are sharded over both, parameters over `fsdp`
only: `data=8, fsdp=1` replicates parameters on every device, and
`data=4, fsdp=2` stores half of them per device. With several TPU slices, only
`data` spans slices.
"""

import math
from collections.abc import Sequence

import jax
import numpy as np
from jax.experimental import mesh_utils
from jax.sharding import AxisType, Mesh, NamedSharding
from jax.sharding import PartitionSpec as P
from jaxtyping import Array

from jssl.typing import PyTree

AXES = ("data", "fsdp")

# Sharding smaller leaves saves less than their all-gather costs.
_MIN_SPLIT_SIZE = 2**16


def make_mesh(
  data: int, fsdp: int, devices: Sequence[jax.Device] | None = None
) -> Mesh:
  """Returns a mesh of `data` x `fsdp` devices with Auto axes.

  Args:
    data: size of axis "data"; -1 for the number of devices over `fsdp`.
    fsdp: size of axis "fsdp".
    devices: devices of the mesh, all of which are used. None uses the devices
      of all processes; a single process may use a part of its devices.

  Raises:
    ValueError: if `data * fsdp` is not the number of devices, or `data` is not
      a multiple of the number of TPU slices.
  """
  may_use_part = devices is None and jax.process_count() == 1
  devices = jax.devices() if devices is None else devices
  available = len(devices)
  if data == -1 and fsdp > 0 and available % fsdp == 0:
    data = available // fsdp
  used = data * fsdp
  if (
    min(data, fsdp) < 1
    or used > available
    or (used < available and not may_use_part)
  ):
    divisors = [str(n) for n in range(1, available + 1) if available % n == 0]
    raise ValueError(
      f"mesh.data={data}, mesh.fsdp={fsdp} is not a mesh of the {available} "
      f"devices; use mesh.data=-1 and mesh.fsdp={' or '.join(divisors)}"
    )
  kinds = (AxisType.Auto, AxisType.Auto)
  if used < available:
    # `create_device_mesh` accepts only complete topologies.
    part = np.array(devices[:used]).reshape(data, fsdp)
    return Mesh(part, AXES, axis_types=kinds)
  slices = len({getattr(device, "slice_index", None) for device in devices})
  if data % slices:
    raise ValueError(
      f"mesh.data={data} must be a multiple of the {slices} slices, because "
      f"mesh.fsdp={fsdp} cannot span slices"
    )
  # Splitting allows axes that are not sides of the torus: 8 of 4 x 4 x 4.
  if slices == 1:
    device_array = mesh_utils.create_device_mesh(
      (data, fsdp), devices, allow_split_physical_axes=True
    )
  else:
    # Only axis "data" spans slices: it communicates once per step over the slow
    # data-centre network, whereas `fsdp` gathers parameters at each layer.
    device_array = mesh_utils.create_hybrid_device_mesh(
      (data // slices, fsdp),
      (slices, 1),
      devices,
      allow_split_physical_axes=True,
    )
  return Mesh(device_array, AXES, axis_types=kinds)


def batch_sharding(mesh: Mesh) -> NamedSharding:
  """Returns the sharding of arrays whose first axis is the batch."""
  return NamedSharding(mesh, P(AXES))


def rows_on_all(x: Array) -> Array:
  """Constrains activations to the sharding of a batch, inside `jit`.

  Parameters sharded over `fsdp` should be gathered before use. Without this
  constraint the compiler may shard features over `fsdp` instead of batch rows,
  which needs more memory and communication.

  Args:
    x: activations with the batch as first axis. Returned unchanged without a
      mesh of `make_mesh` with `fsdp > 1`, or if the batch size is not a
      multiple of the number of devices.
  """
  mesh = jax.typeof(x).sharding.mesh
  has_fsdp = mesh.axis_names == AXES and mesh.shape[AXES[1]] > 1
  # Sharding constraints apply to Auto axes only.
  auto = all(kind == AxisType.Auto for kind in mesh.axis_types)
  if not (has_fsdp and auto) or x.shape[0] % mesh.size:
    return x
  return jax.lax.with_sharding_constraint(x, NamedSharding(mesh, P(AXES)))


def on_every_device(mesh: Mesh, tree: PyTree) -> PyTree:
  """Replicates host arrays on all devices of a mesh.

  With several processes, each must call this with the same arrays.
  """
  sharding = replicated(mesh)
  return jax.tree.map(
    lambda leaf: jax.make_array_from_process_local_data(
      sharding, np.asarray(leaf)
    ),
    tree,
  )


def replicated(mesh: Mesh) -> NamedSharding:
  """Returns the sharding of replicated arrays."""
  return NamedSharding(mesh, P())


def _split_largest(shape: tuple[int, ...], ways: int) -> P:
  """Shards the largest axis divisible by `ways`, the last one of equal ones."""
  fits = [i for i, size in enumerate(shape) if size % ways == 0]
  if ways == 1 or not fits or math.prod(shape) < _MIN_SPLIT_SIZE:
    return P()
  axis = max(fits, key=lambda i: (shape[i], i))
  return P(*(AXES[1] if i == axis else None for i in range(len(shape))))


def state_sharding(mesh: Mesh, state: PyTree) -> PyTree:
  """Returns a sharding for each leaf of a state.

  Large leaves are sharded over `fsdp`, others are replicated. Optimizer moments
  have the shapes, hence the shardings, of their parameters.
  """
  return jax.tree.map(
    lambda leaf: NamedSharding(
      mesh, _split_largest(leaf.shape, mesh.shape[AXES[1]])
    ),
    state,
  )


def check_batch_size(mesh: Mesh, batch_size: int) -> None:
  """Raises ValueError if a batch does not divide over the mesh."""
  devices = mesh.size
  if batch_size < 1 or batch_size % devices:
    below = batch_size // devices * devices
    choices = [str(n) for n in (below, below + devices) if n > 0]
    raise ValueError(
      f"data.batch_size={batch_size} does not divide over {devices} devices "
      f"(mesh {dict(mesh.shape)}); use {' or '.join(choices)}"
    )
