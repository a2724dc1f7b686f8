"""How the rows of a batch lie on devices, found out where they are used.

An operation is called in one of three ways. Outside of any mesh one device
holds all rows. Under `jit` on a mesh arrays are global, and `shard_map` splits
them here. Inside of somebody's `shard_map`, `axis_name` says so, and arrays are
this device's rows.
"""

import dataclasses
import functools
import math
from collections.abc import Callable
from typing import ParamSpec, TypeVar

import jax
import jax.numpy as jnp
from jax.sharding import AbstractMesh, AxisType
from jax.sharding import PartitionSpec as P
from jaxtyping import Array, Float, Int

from jssl.typing import PyTree

AxisNames = str | tuple[str, ...]

Args = ParamSpec("Args")
Out = TypeVar("Out")


@dataclasses.dataclass(frozen=True)
class Layout:
  """Which mesh axes split the rows, and who does the splitting.

  Attributes:
    mesh: that `shard_map` is to split over; None where arrays are those of
      one device, be it the only one or the one of a caller's `shard_map`.
    axes: of the mesh, outermost first; () where nothing is split.
  """

  mesh: AbstractMesh | None
  axes: tuple[str, ...]

  @property
  def size(self) -> int:
    """Devices that the rows are split over."""
    if self.mesh is not None:
      return math.prod(self.mesh.shape[axis] for axis in self.axes)
    return jax.lax.axis_size(self.axes) if self.axes else 1

  @property
  def shards(self) -> int:
    """Parts that an array is to be split into: 1 where that has been done."""
    return self.size if self.mesh is not None else 1

  @property
  def manual(self) -> bool:
    """Whether a caller's `shard_map` has split the rows."""
    return self.mesh is None and bool(self.axes)

  @property
  def platform(self) -> str:
    """Of the devices: "cpu", "gpu" or "tpu"."""
    mesh = self.mesh or jax.sharding.get_abstract_mesh()
    if mesh.empty or mesh.abstract_device is None:
      return jax.default_backend()
    return mesh.abstract_device.platform

  def split(
    self,
    function: Callable[Args, Out],
    in_specs: PyTree,
    out_specs: PyTree,
  ) -> Callable[Args, Out]:
    """Returns a function of global arrays from one of a device's rows.

    Its derivative is never taken through this: an operation brings its own.

    Args:
      function: of a device's part of the arrays.
      in_specs: a prefix of its arguments; True where rows are split.
      out_specs: the same of what it returns.
    """
    if self.mesh is None or not self.axes:
      return function
    by_row = {True: P(self.axes), False: P()}
    return jax.shard_map(
      function,
      mesh=self.mesh,
      in_specs=jax.tree.map(by_row.get, in_specs),
      out_specs=jax.tree.map(by_row.get, out_specs),
      check_vma=False,
    )

  def sum(self, x: Array) -> Array:
    """Adds over the devices what each of them has of a global sum."""
    if self.manual:
      return jax.lax.psum(x, self.axes)
    return x

  def of_sum(self, g: Array) -> Array:
    """Returns what is due to each summand, from what is due to a `sum`.

    For an operation that sums over devices inside of its own derivative. It is
    what JAX does for `sum`: without `check_vma` every device has a value of its
    own, and all of those depend on each summand.
    """
    if self.manual and not _checks_vma(self.axes):
      return jax.lax.psum(g, self.axes)
    return g

  def rows(self, local: int) -> int:
    """Returns the rows of all devices, from the length of what is here."""
    return local * self.size if self.manual else local

  def positions(self, local: int) -> Int[Array, "n"]:
    """Returns where the rows that are here stand among all of them."""
    first = self.index() * local if self.manual else 0
    return first + jnp.arange(local, dtype=jnp.int32)

  def mean(self, x: Float[Array, "n *more"]) -> Float[Array, "*more"]:
    """Returns the mean over the rows of all devices."""
    return self.sum(jnp.sum(x, axis=0)) / self.rows(len(x))

  def log_sum_exp(self, x: Float[Array, "n *more"]) -> Float[Array, "*more"]:
    """Returns the log-sum-exp over the rows of all devices."""
    maximum = jax.lax.stop_gradient(x.max(axis=0))
    if self.manual:
      maximum = jax.lax.pmax(maximum, self.axes)
    return maximum + jnp.log(self.sum(jnp.exp(x - maximum[None]).sum(axis=0)))

  def gather(self, x: Array) -> Array:
    """Returns the rows of all devices, in order."""
    if self.manual:
      return jax.lax.all_gather(x, self.axes, tiled=True)
    return x

  def index(self) -> Int[Array, ""] | int:
    """Returns the number of this device, inside of `split` or a caller's."""
    return jax.lax.axis_index(self.axes) if self.axes else 0

  def per_device(self, x: PyTree) -> PyTree:
    """Marks what is the same everywhere as a device's own copy.

    With `check_vma` the transpose of this adds the devices' gradients, which
    is what a replicated parameter needs; without, it does nothing.
    """
    if self.manual and _checks_vma(self.axes):
      return jax.tree.map(functools.partial(_varying, axes=self.axes), x)
    return x


def _checks_vma(axes: tuple[str, ...]) -> bool:
  index = jax.lax.axis_index(axes)
  return bool(jax.typeof(index).manual_axis_type.varying)


def _varying(x: Array, axes: tuple[str, ...]) -> Array:
  missing = set(axes) - jax.typeof(x).manual_axis_type.varying
  names = tuple(axis for axis in axes if axis in missing)
  return jax.lax.pcast(x, names, to="varying") if names else x


def _axes_of(
  axis_name: AxisNames, mesh: AbstractMesh, argument: str
) -> tuple[str, ...]:
  names = (axis_name,) if isinstance(axis_name, str) else tuple(axis_name)
  for name in names:
    if name not in mesh.axis_names:
      raise ValueError(
        f"{argument}={axis_name!r}: no axis {name!r} is bound here; the mesh "
        f"has {mesh.axis_names}"
      )
  return names


def _split_axes(rows: Array) -> tuple[str, ...]:
  """Returns the Explicit axes that the first dimension is split over."""
  spec = jax.typeof(rows).sharding.spec
  first = spec[0] if len(spec) else None
  if first is None:
    return ()
  return first if isinstance(first, tuple) else (first,)


def run(
  loss: Callable[..., Out],
  rows: Array,
  *arrays: PyTree,
  axis_name: AxisNames | None,
  batch_axes: AxisNames | None = None,
  split: int = 1,
  rows_out: bool = False,
) -> Out:
  """Calls `loss(layout, rows, *arrays)`, wherever those lie.

  Args:
    loss: a function of a layout and of arrays that are global, or a device's.
    rows: its first argument, whose first dimension is the batch.
    *arrays: its others.
    axis_name: mesh axes over which a caller's `shard_map` has split the batch;
      () for a loss of this device's rows alone.
    batch_axes: on an Auto mesh, where the sharding can't be seen while
      tracing, the axes over which the batch is split; None means all of them.
    split: how many of the arrays, `rows` among them, have rows of the batch.
    rows_out: whether the result has the rows of the batch, and lies as they
      do. Scalars are the same everywhere.

  Raises:
    ValueError: an axis isn't bound, or isn't what splits the rows; or this is
      inside of `shard_map`, and `axis_name` doesn't say what to do there.
  """
  mesh = jax.typeof(rows).sharding.mesh
  kinds = dict(zip(mesh.axis_names, mesh.axis_types, strict=True))
  manual = {name for name, kind in kinds.items() if kind == AxisType.Manual}
  if axis_name is not None:
    names = _axes_of(axis_name, mesh, "axis_name")
    _check_manual(names, manual, (rows, *arrays)[:split], batch_axes)
    return loss(Layout(None, names), rows, *arrays)
  if manual:
    bound = tuple(name for name in mesh.axis_names if name in manual)
    raise ValueError(
      f"inside of `shard_map` over {bound}: say axis_name={bound} for the "
      "loss of the global batch, axis_name=() for that of these rows alone"
    )
  if mesh.empty:
    return loss(Layout(None, ()), rows, *arrays)
  axes = mesh.axis_names
  if batch_axes is not None:
    axes = _axes_of(batch_axes, mesh, "batch_axes")
  if AxisType.Explicit not in kinds.values():
    return loss(Layout(mesh, axes), rows, *arrays)
  own = _split_axes(rows)
  if batch_axes is not None and axes != own:
    raise ValueError(
      f"batch_axes={batch_axes!r}, but this array is split over {own}: "
      "leave it out, an Explicit mesh says where rows lie"
    )

  def on_auto(*arrays: PyTree) -> Out:
    mesh = jax.sharding.get_abstract_mesh()
    return loss(Layout(mesh, own), *arrays)

  out = P(own) if rows_out else P()
  # Also for callers who have put arrays on a mesh without setting it.
  with jax.sharding.use_abstract_mesh(mesh):
    return jax.sharding.auto_axes(on_auto, out_sharding=out)(rows, *arrays)


def _check_manual(
  names: tuple[str, ...],
  manual: set[str],
  split: tuple[Array, ...],
  batch_axes: AxisNames | None,
) -> None:
  if batch_axes is not None:
    raise ValueError(
      f"axis_name={names} and batch_axes={batch_axes!r}: the first is for "
      "callers inside of `shard_map`, the second for all others"
    )
  if not set(names) <= manual:
    raise ValueError(
      f"axis_name={names} is for callers inside of `shard_map`; here arrays "
      "are global: leave it out"
    )
  if not names or not _checks_vma(names):
    return
  for array in split:
    same = set(names) - jax.typeof(array).manual_axis_type.varying
    if same:
      raise ValueError(
        f"axis_name={names}: the rows {array.shape} are the same everywhere on "
        f"{sorted(same)}, and would count several times; split them there "
        "(in_specs), or leave it out of axis_name"
      )
