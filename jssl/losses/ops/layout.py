"""Infers how batch rows are sharded, and dispatches to `shard_map`.

An operation is called in one of three ways:

  no mesh: one device holds all rows.
  global arrays: under `jit` on a mesh; the operation wraps its own `shard_map`.
  manual: inside a caller's `shard_map` (`axis_name` is given); arrays hold the
    rows of this device.
"""

import dataclasses
import functools
import math
from collections.abc import Callable
from typing import Any, Literal, ParamSpec, TypedDict, TypeVar

import jax
import jax.numpy as jnp
from jax.sharding import AbstractMesh, AxisType
from jax.sharding import PartitionSpec as P
from jaxtyping import Array, Float, Int

from jssl.typing import PyTree

AxisNames = str | tuple[str, ...]
Implementation = Literal["reference", "tiled", "pallas_tpu", "cudnn"]

Args = ParamSpec("Args")
Out = TypeVar("Out")


class Options(TypedDict, total=False):
  """Keywords that most losses take; see `jssl.losses`."""

  axis_name: AxisNames | None
  batch_axes: AxisNames | None
  implementation: Implementation | None


@dataclasses.dataclass(frozen=True)
class Layout:
  """Sharding of the batch rows, and how fused operations are computed.

  Attributes:
    mesh: mesh of global arrays; None if arrays are those of one device, either
      without a mesh or inside a caller's `shard_map`.
    axes: mesh axes that shard the rows, outermost first; () for no sharding.
    implementation: the caller's choice for all operations; None for none.
  """

  mesh: AbstractMesh | None
  axes: tuple[str, ...]
  implementation: Implementation | None = None

  @property
  def size(self) -> int:
    """Number of devices that share the rows."""
    if self.mesh is not None:
      return math.prod(self.mesh.shape[axis] for axis in self.axes)
    return jax.lax.axis_size(self.axes) if self.axes else 1

  @property
  def shards(self) -> int:
    """Number of shards of an array as it is here: 1 in manual mode."""
    return self.size if self.mesh is not None else 1

  @property
  def manual(self) -> bool:
    """True inside a caller's `shard_map` that shards the rows."""
    return self.mesh is None and bool(self.axes)

  @property
  def platform(self) -> str:
    """Platform of the devices: "cpu", "gpu" or "tpu"."""
    mesh = self.mesh or jax.sharding.get_abstract_mesh()
    if mesh.empty or mesh.abstract_device is None:
      return jax.default_backend()
    return mesh.abstract_device.platform

  @property
  def device_kind(self) -> str:
    """Kind of the devices, such as "TPU v5" or "NVIDIA H100 80GB HBM3"."""
    mesh = self.mesh or jax.sharding.get_abstract_mesh()
    if mesh.empty or mesh.abstract_device is None:
      return jax.devices()[0].device_kind
    return mesh.abstract_device.device_kind

  def shard_map(
    self, function: Callable[Args, Out], in_specs: PyTree, out_specs: PyTree
  ) -> Callable[Args, Out]:
    """Maps a function of one device's arrays over the mesh, if there is one.

    Operations bring their own derivative: JAX never differentiates this map.

    Args:
      function: function of a device's shards.
      in_specs: prefix of its arguments; True for arrays sharded by rows, False
        for replicated arrays.
      out_specs: the same for its results.
    """
    if self.mesh is None or not self.axes:
      return function
    spec = {True: P(self.axes), False: P()}
    return jax.shard_map(
      function,
      mesh=self.mesh,
      in_specs=jax.tree.map(spec.get, in_specs),
      out_specs=jax.tree.map(spec.get, out_specs),
      check_vma=False,
    )

  def all_reduce(self, tree: PyTree) -> PyTree:
    """Sums over devices, inside `shard_map` (own or the caller's)."""
    return jax.lax.psum(tree, self.axes) if self.axes else tree

  def all_reduce_gradients(self, tree: PyTree) -> PyTree:
    """Sums the gradients of replicated operands, inside the own `shard_map`.

    In manual mode each device returns the gradient of its own copy.
    """
    return tree if self.manual else self.all_reduce(tree)

  def sum(self, x: Array) -> Array:
    """Sums the devices' parts of a global sum, outside the own `shard_map`."""
    return jax.lax.psum(x, self.axes) if self.manual else x

  def sum_transpose(self, g: Array) -> Array:
    """Returns the cotangent of each summand of a global sum.

    JAX does the same for `psum`: without `check_vma` each device has its own
    copy of the sum, and all copies depend on each summand.
    """
    if self.manual and not _checks_vma(self.axes):
      return jax.lax.psum(g, self.axes)
    return g

  def num_rows(self, local: int) -> int:
    """Returns the global number of rows, from the length of an array here."""
    return local * self.size if self.manual else local

  def positions(self, local: int) -> Int[Array, "n"]:
    """Returns the global positions of the rows of an array here."""
    first = self.device_index() * local if self.manual else 0
    return first + jnp.arange(local, dtype=jnp.int32)

  def mean(
    self, x: Float[Array, "n *more"], weights: Float[Array, "n"] | None = None
  ) -> Float[Array, "*more"]:
    """Returns the mean over the rows of all devices; 0 for zero weights."""
    if weights is None:
      return self.sum(jnp.sum(x, axis=0)) / self.num_rows(len(x))
    total = self.sum(weights.sum())
    weighted = x * weights.reshape(-1, *[1] * (x.ndim - 1))
    return self.sum(jnp.sum(weighted, axis=0)) / jnp.where(total > 0, total, 1)

  def log_sum_exp(self, x: Float[Array, "n *more"]) -> Float[Array, "*more"]:
    """Returns the log-sum-exp over the rows of all devices."""
    maximum = jax.lax.stop_gradient(x.max(axis=0))
    if self.manual:
      maximum = jax.lax.pmax(maximum, self.axes)
    return maximum + jnp.log(self.sum(jnp.exp(x - maximum[None]).sum(axis=0)))

  def all_gather(self, x: Array) -> Array:
    """Returns the rows of all devices, in order."""
    if self.manual:
      return jax.lax.all_gather(x, self.axes, tiled=True)
    return x

  def device_index(self) -> Int[Array, ""] | int:
    """Returns this device's position in the row order, inside `shard_map`."""
    return jax.lax.axis_index(self.axes) if self.axes else 0

  def as_varying(self, x: PyTree) -> PyTree:
    """Marks replicated arrays as device-varying.

    With `check_vma` the transpose sums the gradients of all devices, as a
    replicated parameter needs; without `check_vma` this is the identity.
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
        f"has axes {mesh.axis_names}"
      )
  return names


def _split_axes(rows: Array) -> tuple[str, ...]:
  """Returns the Explicit axes that shard the first dimension."""
  spec = jax.typeof(rows).sharding.spec
  first = spec[0] if len(spec) else None
  if first is None:
    return ()
  return first if isinstance(first, tuple) else (first,)


def with_layout(
  loss: Callable[..., Out],
  sharded: tuple[Array | None, ...],
  replicated: tuple[PyTree, ...],
  *,
  axis_name: AxisNames | None = None,
  batch_axes: AxisNames | None = None,
  implementation: Implementation | None = None,
  rows_out: bool = False,
  **static: Any,
) -> Out:
  """Infers the layout of the rows and calls `loss` with it.

  Args:
    loss: function of a layout, of the arrays (global, or one device's), and of
      the static arguments.
    sharded: arrays whose first dimension is the batch; None for an optional
      array that is not there.
    replicated: all other arrays.
    axis_name: mesh axes of a caller's `shard_map` that shard the batch; () for
      the loss of this device's rows alone.
    batch_axes: mesh axes that shard the batch on an Auto mesh, where shardings
      are unknown while tracing; None for all axes.
    implementation: the caller's choice for all operations.
    rows_out: True if the result is sharded like the rows; else it is
      replicated.
    **static: keyword arguments of `loss`.

  Raises:
    ValueError: if an axis isn't bound or doesn't shard the rows, or if
      `axis_name` is missing inside a `shard_map`.
  """
  arrays = *sharded, *replicated

  def call(layout: Layout, *arrays: PyTree) -> Out:
    return loss(layout, *arrays, **static)

  mesh = jax.typeof(arrays[0]).sharding.mesh
  kinds = dict(zip(mesh.axis_names, mesh.axis_types, strict=True))
  manual = {name for name, kind in kinds.items() if kind == AxisType.Manual}
  if axis_name is not None:
    names = _axes_of(axis_name, mesh, "axis_name")
    _check_manual(names, manual, sharded, batch_axes)
    return call(Layout(None, names, implementation), *arrays)
  if manual:
    bound = tuple(name for name in mesh.axis_names if name in manual)
    raise ValueError(
      f"inside `shard_map` over {bound}: pass axis_name={bound} for the loss "
      "of the global batch, or axis_name=() for the loss of local rows alone"
    )
  if mesh.empty:
    return call(Layout(None, (), implementation), *arrays)
  axes = mesh.axis_names
  if batch_axes is not None:
    axes = _axes_of(batch_axes, mesh, "batch_axes")
  if AxisType.Explicit not in kinds.values():
    return call(Layout(mesh, axes, implementation), *arrays)
  own = _split_axes(arrays[0])
  if batch_axes is not None and axes != own:
    raise ValueError(
      f"batch_axes={batch_axes!r}, but the array is sharded over {own}: remove "
      "batch_axes, an Explicit mesh already defines the sharding"
    )

  def on_auto(*arrays: PyTree) -> Out:
    mesh = jax.sharding.get_abstract_mesh()
    return call(Layout(mesh, own, implementation), *arrays)

  out = P(own) if rows_out else P()
  # Arrays may be on a mesh that the caller has not set.
  with jax.sharding.use_abstract_mesh(mesh):
    return jax.sharding.auto_axes(on_auto, out_sharding=out)(*arrays)


def _check_manual(
  names: tuple[str, ...],
  manual: set[str],
  sharded: tuple[Array | None, ...],
  batch_axes: AxisNames | None,
) -> None:
  if batch_axes is not None:
    raise ValueError(
      f"got both axis_name={names} and batch_axes={batch_axes!r}: pass "
      "axis_name inside `shard_map`, batch_axes everywhere else"
    )
  if not set(names) <= manual:
    raise ValueError(
      f"axis_name={names} is for callers inside `shard_map`, but the arrays "
      "here are global: remove axis_name"
    )
  if not names or not _checks_vma(names):
    return
  for array in jax.tree.leaves(sharded):
    same = set(names) - jax.typeof(array).manual_axis_type.varying
    if same:
      raise ValueError(
        f"axis_name={names}, but the rows {array.shape} are replicated over "
        f"{sorted(same)} and would count several times: shard them (in_specs) "
        "or remove the axis from axis_name"
      )
