"""Base of the fused operations.

A fused operation reduces a matrix of pairs of rows without storing the matrix.
The base chooses the implementation and the tile sizes, pads arrays to whole
tiles, and defines the derivatives:

  first order: explicit, as memory-efficient as the forward pass. Forward and
    backward are separate `shard_map`s, so that JAX never differentiates
    through a collective.
  second order: derivatives of the reference, on whole matrices.
"""

import abc
import dataclasses
import functools
import logging
from collections.abc import Mapping
from typing import Any, ClassVar, Literal, NoReturn, Self, TypeVar

import jax
import jax.numpy as jnp
from jax.ad_checkpoint import checkpoint_name
from jax.extend.core import Primitive
from jax.interpreters import ad, batching, mlir
from jaxtyping import Array

from jssl.losses.ops import tiles
from jssl.losses.ops.layout import Implementation, Layout
from jssl.typing import PyTree, Scalar

T = TypeVar("T")

_LOG = logging.getLogger(__name__)


# The kernels of platforms.
_PLATFORM_KERNELS: Mapping[str, Implementation] = {
  "tpu": "pallas_tpu",
  "gpu": "cudnn",
}


def choose_implementation(
  layout: Layout,
  name: str,
  *,
  kernels: Mapping[Implementation, str | None],
  fallback: Implementation = "tiled",
  no_gain: str | None = None,
) -> Implementation:
  """Validates the caller's choice of implementation, or chooses one.

  The default is the platform's kernel where it can run and is faster. The log
  says why a platform with a kernel does not use it.

  Args:
    layout: layout of the rows, with the caller's choice.
    name: name of the operation, for messages.
    kernels: reason why each kernel cannot run; None if it can.
    fallback: implementation without a kernel.
    no_gain: reason why the kernels are not faster; None if they are.

  Raises:
    ValueError: if the name is unknown or the implementation cannot run here.
  """
  implementation = layout.implementation
  if implementation is None:
    kernel = _PLATFORM_KERNELS.get(layout.platform)
    if kernel is None or kernel not in kernels:
      return fallback
    reason = kernels[kernel] or no_gain
    if reason is None:
      return kernel
    _LOG.info("%s: %s instead of %s: %s", name, fallback, kernel, reason)
    return fallback
  known = tuple(dict.fromkeys(("reference", fallback, *kernels)))
  if implementation not in known:
    raise ValueError(
      f"implementation={implementation!r}: expected one of {known} or None"
    )
  if implementation == "reference" and layout.manual:
    raise ValueError(
      "implementation='reference' needs the rows of all devices, which is not "
      "possible inside `shard_map`: use 'tiled'"
    )
  if (reason := kernels.get(implementation)) is not None:
    raise ValueError(
      f"implementation={implementation!r} cannot run {name} here: {reason}"
    )
  return implementation


@dataclasses.dataclass(frozen=True)
class FusedOperation(abc.ABC):
  """One call of an operation: its static arguments and implementations.

  A subclass adds its own static arguments as fields. Arrays come in two
  pytrees: `operands`, which are differentiable, and `constants`.

  Attributes:
    layout: layout of the rows.
    implementation: implementation that runs.
    tile: rows and columns of a tile.
    name: name of the operation, for messages.
    max_tile: upper bound of `tile`, approximately.
  """

  layout: Layout
  implementation: Implementation
  tile: tuple[int, int]

  name: ClassVar[str]
  max_tile: ClassVar[tuple[int, int]]

  @classmethod
  def create(
    cls,
    layout: Layout,
    rows: int,
    columns: int | None = None,
    *,
    no_kernel: str | None,
    no_gain: str | None = None,
    replicated_columns: bool = False,
    max_tile: tuple[int, int] | None = None,
    **static: Any,
  ) -> Self:
    """Chooses implementation and tile sizes of a call.

    Args:
      layout: layout of the rows, and of the columns unless replicated.
      rows: number of rows, as `layout` has them.
      columns: number of columns; None if the columns are the rows.
      no_kernel: reason why the TPU kernel cannot run; None if it can.
      no_gain: see `choose_implementation`.
      replicated_columns: True if every device holds all columns.
      max_tile: overrides that of the class.
      **static: fields of the subclass.
    """
    max_rows, max_columns = max_tile or cls.max_tile
    row_tile = tiles.tile_size(-(-rows // layout.shards), max_rows)
    column_tile = row_tile
    if columns is not None:
      shards = 1 if replicated_columns else layout.shards
      column_tile = tiles.tile_size(-(-columns // shards), max_columns)
    chosen = choose_implementation(
      layout, cls.name, kernels={"pallas_tpu": no_kernel}, no_gain=no_gain
    )
    return cls(layout, chosen, (row_tile, column_tile), **static)

  def pad(
    self, tree: T, *, axis: Literal[0, 1] = 0, replicated: bool = False
  ) -> T:
    """Pads arrays of rows to whole tiles on each device.

    Args:
      tree: arrays with the same number of rows.
      axis: 0 for rows of the matrix, 1 for its columns.
      replicated: True if every device holds all of the arrays.
    """
    if self.implementation == "reference":
      return tree
    shards = 1 if replicated else self.layout.shards
    return tiles.pad(tree, multiple=self.tile[axis] * shards)

  def __call__(self, operands: PyTree, constants: PyTree) -> PyTree:
    """Runs the operation on padded arrays."""
    if self.implementation == "reference":
      return self.reference(operands, constants)
    return _call(self, _refuse_forward_mode(operands), constants)

  @abc.abstractmethod
  def reference(self, operands: PyTree, constants: PyTree) -> PyTree:
    """Computes the result on whole matrices."""

  @abc.abstractmethod
  def forward(self, operands: PyTree, constants: PyTree) -> PyTree:
    """Computes the result tile by tile."""

  @abc.abstractmethod
  def backward(
    self, operands: PyTree, constants: PyTree, out: PyTree, g: PyTree
  ) -> PyTree:
    """Computes the gradients by the operands, recomputing each tile."""

  def check_second_order(self) -> None:
    """Raises ValueError unless second derivatives are possible."""
    if self.layout.manual:
      raise ValueError(
        "second derivatives inside `shard_map` are not supported: "
        "differentiate a loss of global arrays, under `jit` and without "
        "axis_name"
      )
    if self.layout.implementation == "pallas_tpu":
      raise ValueError(
        "implementation='pallas_tpu' has no second derivatives: use None, "
        "'tiled' or 'reference'"
      )


class FusedSum(FusedOperation):
  """A sum over pairs, whose value and gradients share one pass.

  The gradient of each pair needs nothing but the pair, so that the forward pass
  accumulates the gradients and saves them: they have the size of the operands.
  """

  @abc.abstractmethod
  def value_and_gradients(
    self, operands: PyTree, constants: PyTree, *, gradients: bool
  ) -> tuple[Scalar, PyTree]:
    """Computes the sum, and its gradients by the operands if asked."""

  def __call__(self, operands: PyTree, constants: PyTree) -> Scalar:
    """Runs the operation on padded arrays."""
    if self.implementation == "reference":
      return self.reference(operands, constants)
    return _call_sum(self, _refuse_forward_mode(operands), constants)

  def forward(self, operands: PyTree, constants: PyTree) -> Scalar:
    """Computes the sum without gradients."""
    return self.value_and_gradients(operands, constants, gradients=False)[0]

  def backward(
    self, operands: PyTree, constants: PyTree, out: PyTree, g: PyTree
  ) -> PyTree:
    """Scales the saved gradients."""
    del operands, constants
    # In a caller's `shard_map` without `check_vma`, g differs between devices.
    g = self.layout.sum_transpose(g)
    return jax.tree.map(lambda x: (g * x).astype(x.dtype), out)


# A tangent passes through this primitive. Reverse mode transposes it away;
# forward mode runs or compiles it, which raises. JAX's own error for
# `custom_vjp` does not say what to do.
_tangent_p = Primitive("fused_operation_tangent")
_tangent_p.def_abstract_eval(lambda tangent: tangent)
ad.deflinear2(_tangent_p, lambda cotangent, _: [cotangent])
batching.primitive_batchers[_tangent_p] = lambda args, axes: (
  _tangent_p.bind(*args),
  axes[0],
)


def _raise_forward_mode(*args: Any, **kwargs: Any) -> NoReturn:
  raise TypeError(
    "forward-mode differentiation (jax.jvp, jax.linearize, jax.jacfwd, "
    'jax.hessian) of this operation needs implementation="reference" (of a '
    'loss) or attention="reference" (of a ViT), which build whole matrices; or '
    "use reverse mode, jax.jacrev(jax.grad(loss)) for a Hessian"
  )


_tangent_p.def_impl(_raise_forward_mode)
mlir.register_lowering(_tangent_p, _raise_forward_mode)


@jax.custom_jvp
def _error_on_forward_mode(x: Array) -> Array:
  return x


@_error_on_forward_mode.defjvp
def _(primals: tuple[Array], tangents: tuple[Array]) -> tuple[Array, Array]:
  return primals[0], _tangent_p.bind(tangents[0])


def _refuse_forward_mode(operands: T) -> T:
  # Leaf by leaf: a tree of tangents of which one is symbolically zero would be
  # made an array, and the primitive would run.
  return jax.tree.map(_error_on_forward_mode, operands)


_custom_vjp = functools.partial(jax.custom_vjp, nondiff_argnums=(0,))


@_custom_vjp
def _call(op: FusedOperation, operands: PyTree, constants: PyTree) -> PyTree:
  return op.forward(operands, constants)


def _call_fwd(
  op: FusedOperation, operands: PyTree, constants: PyTree
) -> tuple[PyTree, PyTree]:
  # A forward-over-reverse Hessian differentiates this rule too.
  out = _call(op, _refuse_forward_mode(operands), constants)
  # Rematerialised layers can save the result under the operation's name.
  out = checkpoint_name(out, op.name)
  return out, (operands, constants, out)


def _call_bwd(op: FusedOperation, saved: PyTree, g: PyTree) -> PyTree:
  return _gradients(op, *saved, g), None


@_custom_vjp
def _gradients(op: FusedOperation, *args: PyTree) -> PyTree:
  return op.backward(*args)


def _gradients_fwd(op: FusedOperation, *args: PyTree) -> tuple[PyTree, PyTree]:
  return _gradients(op, *args), args


def _gradients_bwd(op: FusedOperation, args: PyTree, ct: PyTree) -> PyTree:
  op.check_second_order()
  operands, constants, out, g = args

  def reference_gradients(operands: PyTree, g: PyTree) -> PyTree:
    return jax.vjp(lambda x: op.reference(x, constants), operands)[1](g)[0]

  by_operands, by_g = jax.vjp(reference_gradients, operands, g)[1](ct)
  # The reference recomputes `out` from the operands: no gradient goes to it.
  return by_operands, None, jax.tree.map(jnp.zeros_like, out), by_g


_call.defvjp(_call_fwd, _call_bwd)
_gradients.defvjp(_gradients_fwd, _gradients_bwd)


@_custom_vjp
def _call_sum(op: FusedSum, operands: PyTree, constants: PyTree) -> Scalar:
  return op.forward(operands, constants)


def _call_sum_fwd(
  op: FusedSum, operands: PyTree, constants: PyTree
) -> tuple[Scalar, PyTree]:
  return _value_and_gradients(op, _refuse_forward_mode(operands), constants)


def _call_sum_bwd(op: FusedSum, gradients: PyTree, g: Array) -> PyTree:
  return op.backward((), (), gradients, g), None


@_custom_vjp
def _value_and_gradients(
  op: FusedSum, operands: PyTree, constants: PyTree
) -> tuple[Scalar, PyTree]:
  return op.value_and_gradients(operands, constants, gradients=True)


def _value_and_gradients_fwd(
  op: FusedSum, operands: PyTree, constants: PyTree
) -> tuple[PyTree, PyTree]:
  return _value_and_gradients(op, operands, constants), (operands, constants)


def _value_and_gradients_bwd(op: FusedSum, saved: PyTree, ct: PyTree) -> PyTree:
  op.check_second_order()
  operands, constants = saved
  reference = jax.value_and_grad(lambda x: op.reference(x, constants))
  return *jax.vjp(reference, operands)[1](ct), None


_call_sum.defvjp(_call_sum_fwd, _call_sum_bwd)
_value_and_gradients.defvjp(_value_and_gradients_fwd, _value_and_gradients_bwd)
