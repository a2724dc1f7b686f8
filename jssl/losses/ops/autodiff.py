"""What the fused operations share: how one is chosen, how one is derived.

First derivatives are explicit: an operation brings a backward pass that is as
thrifty as its forward pass, each a `shard_map` of its own, so that nothing is
differentiated through a collective. Second derivatives are those of the
reference, on whole matrices.
"""

import dataclasses
import functools
import logging
from collections.abc import Callable
from typing import Literal, get_args

import jax
import jax.numpy as jnp
from jaxtyping import Array

from jssl.losses.ops.layout import Layout
from jssl.typing import PyTree, Scalar

Implementation = Literal["reference", "tiled", "pallas_tpu"]

_LOG = logging.getLogger(__name__)


@dataclasses.dataclass(frozen=True)
class Plan:
  """What is static about a call; operations add to it.

  Attributes:
    layout: of the rows.
    implementation: that runs.
    forced: whether the caller has named it.
  """

  layout: Layout
  implementation: Implementation
  forced: bool


def choose(
  implementation: Implementation | None,
  layout: Layout,
  operation: str,
  *,
  no_kernel: str | None,
  no_gain: str | None = None,
) -> Implementation:
  """Returns the implementation that runs.

  Without a name it is the kernel on a TPU where that can run and gains, and
  "tiled" otherwise. Where a TPU gets no kernel the log says why.

  Args:
    implementation: the caller's choice; None for ours.
    layout: of the rows.
    operation: its name, for messages.
    no_kernel: why the kernel can't run; None if it can.
    no_gain: why it isn't better, though it may be able to; None if it is.

  Raises:
    ValueError: the name is unknown, or what it stands for can't run here.
  """
  if implementation is None:
    if layout.platform != "tpu":
      return "tiled"
    reason = no_kernel or no_gain
    if reason is None:
      return "pallas_tpu"
    _LOG.info("%s: tiled instead of pallas_tpu: %s", operation, reason)
    return "tiled"
  if implementation not in get_args(Implementation):
    raise ValueError(
      f"implementation={implementation!r}: expected one of "
      f"{get_args(Implementation)} or None"
    )
  if implementation == "reference" and layout.manual:
    raise ValueError(
      "implementation='reference' needs all rows; inside of `shard_map` it "
      "sees those of one device: use 'tiled'"
    )
  if implementation == "pallas_tpu" and no_kernel is not None:
    raise ValueError(
      f"implementation='pallas_tpu' can't run {operation} here: {no_kernel}"
    )
  return implementation


def _check_second_order(plan: Plan) -> None:
  if plan.layout.manual:
    raise ValueError(
      "second derivatives inside of `shard_map`: take them of the global "
      "arrays, under `jit` and without axis_name"
    )
  if plan.forced and plan.implementation == "pallas_tpu":
    raise ValueError(
      "implementation='pallas_tpu' has no second derivatives: use None, "
      "'tiled' or 'reference'"
    )


def recomputing(
  reference: Callable[..., PyTree],
  forward: Callable[..., PyTree],
  backward: Callable[..., PyTree],
) -> Callable[..., PyTree]:
  """Returns an operation whose backward pass computes the matrix anew.

  Args:
    reference: `(plan, floats, fixed) -> out` on whole matrices, for second
      derivatives.
    forward: the same.
    backward: `(plan, floats, fixed, out, g) -> gradients by floats`.

  Returns:
    `(plan, floats, fixed) -> out`. Nothing flows back into what is fixed.
  """

  @functools.partial(jax.custom_vjp, nondiff_argnums=(0,))
  def gradients(plan: Plan, *args: PyTree) -> PyTree:
    return backward(plan, *args)

  def gradients_fwd(plan: Plan, *args: PyTree) -> tuple[PyTree, PyTree]:
    return gradients(plan, *args), args

  def gradients_bwd(plan: Plan, args: PyTree, ct: PyTree) -> PyTree:
    _check_second_order(plan)
    floats, fixed, out, g = args

    def whole(floats: PyTree, g: PyTree) -> PyTree:
      return jax.vjp(lambda f: reference(plan, f, fixed), floats)[1](g)[0]

    by_floats, by_g = jax.vjp(whole, floats, g)[1](ct)
    # `out` is a function of the floats, and so is all that is due to it.
    return by_floats, None, jax.tree.map(jnp.zeros_like, out), by_g

  gradients.defvjp(gradients_fwd, gradients_bwd)

  @functools.partial(jax.custom_vjp, nondiff_argnums=(0,))
  def operation(plan: Plan, floats: PyTree, fixed: PyTree) -> PyTree:
    return forward(plan, floats, fixed)

  def operation_fwd(
    plan: Plan, floats: PyTree, fixed: PyTree
  ) -> tuple[PyTree, PyTree]:
    out = operation(plan, floats, fixed)
    return out, (floats, fixed, out)

  def operation_bwd(plan: Plan, kept: PyTree, g: PyTree) -> PyTree:
    return gradients(plan, *kept, g), None

  operation.defvjp(operation_fwd, operation_bwd)
  return operation


def at_once(
  reference: Callable[..., PyTree],
  value: Callable[..., Scalar],
  value_and_gradients: Callable[..., tuple[Scalar, PyTree]],
) -> Callable[..., Scalar]:
  """Returns a sum whose gradients come with its value, from one matrix.

  Args:
    reference: `(plan, floats, fixed) -> sum` on whole matrices, for second
      derivatives.
    value: the same.
    value_and_gradients: the same, and its gradients by floats.

  Returns:
    `(plan, floats, fixed) -> sum over all devices`, as above.
  """

  @functools.partial(jax.custom_vjp, nondiff_argnums=(0,))
  def both(plan: Plan, floats: PyTree, fixed: PyTree) -> tuple[Scalar, PyTree]:
    return value_and_gradients(plan, floats, fixed)

  def both_fwd(
    plan: Plan, floats: PyTree, fixed: PyTree
  ) -> tuple[PyTree, PyTree]:
    return both(plan, floats, fixed), (floats, fixed)

  def both_bwd(plan: Plan, kept: PyTree, ct: PyTree) -> PyTree:
    _check_second_order(plan)
    floats, fixed = kept
    whole = jax.value_and_grad(lambda f: reference(plan, f, fixed))
    return *jax.vjp(whole, floats)[1](ct), None

  both.defvjp(both_fwd, both_bwd)

  @functools.partial(jax.custom_vjp, nondiff_argnums=(0,))
  def operation(plan: Plan, floats: PyTree, fixed: PyTree) -> Scalar:
    return value(plan, floats, fixed)

  def operation_bwd(plan: Plan, gradients: PyTree, g: Array) -> PyTree:
    g = plan.layout.of_sum(g)
    return jax.tree.map(lambda x: (g * x).astype(x.dtype), gradients), None

  # Saving the gradients is what this is for: they are of the inputs' size.
  operation.defvjp(both, operation_bwd)
  return operation
