"""The device mesh and how arrays lie on it.

Two axes: the batch is split over both, parameters over `fsdp` alone. So
`data=8, fsdp=1` keeps a whole copy of the parameters on every device and
`data=4, fsdp=2` keeps half of them, and both see the same batches. Over several
TPU slices goes `data` alone.
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

# Splitting a leaf smaller than this saves less than its gather costs.
_MIN_SPLIT_SIZE = 2**16


def make_mesh(
  data: int, fsdp: int, devices: Sequence[jax.Device] | None = None
) -> Mesh:
  """Returns a mesh of `data` x `fsdp` devices with Auto axes.

  Args:
    data: devices on axis "data"; -1 takes what `fsdp` leaves.
    fsdp: devices on axis "fsdp".
    devices: that it takes, all of them; None chooses from those of all
      processes, of which one process alone may leave some out.

  Raises:
    ValueError: the two do not multiply to the devices that are there, or `data`
      does not divide over slices.
  """
  some_suffice = devices is None and jax.process_count() == 1
  devices = jax.devices() if devices is None else devices
  there = len(devices)
  if fsdp < 1 or (data < 1 and data != -1):
    raise ValueError(
      f"mesh.data={data}, mesh.fsdp={fsdp}: both must be positive "
      "(mesh.data may be -1: all devices that mesh.fsdp leaves)"
    )
  if data == -1 and there % fsdp:
    ways = [str(n) for n in range(1, there + 1) if there % n == 0]
    raise ValueError(
      f"mesh.data=-1, mesh.fsdp={fsdp}: {there} devices do not divide by "
      f"mesh.fsdp; use mesh.fsdp={' or '.join(ways)}"
    )
  data = there // fsdp if data == -1 else data
  wanted = data * fsdp
  if wanted > there or (wanted < there and not some_suffice):
    raise ValueError(
      f"mesh.data={data} x mesh.fsdp={fsdp} is {wanted} devices, but there are "
      f"{there}; use mesh.data=-1 to take all that mesh.fsdp leaves"
    )
  kinds = (AxisType.Auto, AxisType.Auto)
  if wanted < there:
    # Topologies are laid out as a whole alone.
    some = np.array(devices[:wanted]).reshape(data, fsdp)
    return Mesh(some, AXES, axis_types=kinds)
  slices = len({getattr(device, "slice_index", None) for device in devices})
  if slices == 1:
    # An axis need not be a whole side of a torus: 8 of 4 x 4 x 4 are welcome.
    of_devices = mesh_utils.create_device_mesh(
      (data, fsdp), devices, allow_split_physical_axes=True
    )
    return Mesh(of_devices, AXES, axis_types=kinds)
  if data % slices:
    raise ValueError(
      f"mesh.data={data} must be a multiple of the {slices} slices: mesh.fsdp="
      f"{fsdp} stays within one, since parameters are gathered at each layer"
    )
  # Slices are joined by the data centre's network, over which only axis "data"
  # goes: its gradients are summed once a step.
  of_devices = mesh_utils.create_hybrid_device_mesh(
    (data // slices, fsdp),
    (slices, 1),
    devices,
    allow_split_physical_axes=True,
  )
  return Mesh(of_devices, AXES, axis_types=kinds)


def batch_sharding(mesh: Mesh) -> NamedSharding:
  """Returns the sharding of arrays whose first dimension is the batch."""
  return NamedSharding(mesh, P(AXES))


def rows_on_all(x: Array) -> Array:
  """Returns activations whose rows lie as those of a batch, inside of a jit.

  Parameters that are split over `fsdp` are to be gathered where they are used.
  Left alone, the compiler may split activations by their features instead:
  each device then holds the rows of all devices of its part of `fsdp`.

  Args:
    x: rows of a batch. On no mesh of ours, or where they don't divide over it,
      it is returned as it is.
  """
  mesh = jax.typeof(x).sharding.mesh
  ours = mesh.axis_names == AXES and mesh.shape[AXES[1]] > 1
  # The compiler has a choice on such axes alone.
  auto = all(kind == AxisType.Auto for kind in mesh.axis_types)
  if not (ours and auto) or x.shape[0] % mesh.size:
    return x
  return jax.lax.with_sharding_constraint(x, NamedSharding(mesh, P(AXES)))


def on_every_device(mesh: Mesh, tree: PyTree) -> PyTree:
  """Puts arrays that this process has whole on all devices of a mesh.

  Of several processes each must have the same ones, and calls this.
  """
  whole = replicated(mesh)
  return jax.tree.map(
    lambda leaf: jax.make_array_from_process_local_data(
      whole, np.asarray(leaf)
    ),
    tree,
  )


def replicated(mesh: Mesh) -> NamedSharding:
  """Returns the sharding of what every device holds whole."""
  return NamedSharding(mesh, P())


def _split_largest(shape: tuple[int, ...], ways: int) -> P:
  """Splits the largest dimension that `ways` divides; ties: the last one."""
  fits = [i for i, size in enumerate(shape) if size % ways == 0]
  if ways == 1 or not fits or math.prod(shape) < _MIN_SPLIT_SIZE:
    return P()
  axis = max(fits, key=lambda i: (shape[i], i))
  return P(*(AXES[1] if i == axis else None for i in range(len(shape))))


def state_sharding(mesh: Mesh, state: PyTree) -> PyTree:
  """Returns a sharding for each leaf of a state of shaped arrays.

  Large leaves are split over `fsdp`, the rest is on every device. Optimizer
  moments have the shapes of their parameters and so lie where these do.
  """
  return jax.tree.map(
    lambda leaf: NamedSharding(
      mesh, _split_largest(leaf.shape, mesh.shape[AXES[1]])
    ),
    state,
  )


def check_batch_size(mesh: Mesh, batch_size: int) -> None:
  """Raises ValueError where a batch does not divide over the mesh."""
  devices = mesh.size
  if batch_size < 1 or batch_size % devices:
    below = batch_size // devices * devices
    choices = [str(n) for n in (below, below + devices) if n > 0]
    raise ValueError(
      f"data.batch_size={batch_size} does not divide over {devices} devices "
      f"(mesh {dict(mesh.shape)}); use {' or '.join(choices)}"
    )
