"""Strategies to train the head of an objective, jointly or as an inner problem.

    min over theta of L(theta, phi*(theta)),
    phi*(theta) = argmin over phi of L_inner(theta, phi)

Here theta are features of the backbone and phi the head. Some steps of an
optimizer solve the inner problem. The strategies differ in the derivative of
phi* that enters the gradient of theta:

- alternating: none, phi* is a constant. Exact if L_inner is L and the inner
  problem is solved (envelope theorem).
- unrolled: the derivative of the optimizer's steps; exact for their result.
- implicit: the derivative of the solution by the implicit function theorem,
  dphi*/dtheta = -[d2 L_inner / dphi2]^-1 d2 L_inner / dphi dtheta. Exact if the
  inner problem is solved. The linear system is solved by conjugate gradients,
  which need a positive definite Hessian: far from a minimum, a head has one
  only with `l2` or `damping`. For few inner steps, prefer "unrolled".

Reference: Gupta et al., "Understanding and Improving the Role of Projection
Head in Self-Supervised Learning", 2022 (alternating; from its abstract). The
rest is standard theory of bilevel optimisation.
"""

import dataclasses
import functools
from collections.abc import Callable
from typing import Any, Literal, NamedTuple

import jax
import jax.numpy as jnp
import optax

from jssl import tree
from jssl.typing import (
  Decay,
  Metrics,
  NonNegative,
  Positive,
  PyTree,
  Scalar,
  check_fields,
)

InnerLoss = Callable[[PyTree, PyTree], Scalar]
"""`(phi, theta) -> scalar`; variables in its closure are constants."""


class HeadUpdate(NamedTuple):
  """The head after one step of a strategy.

  Attributes:
    gradients: gradients for the optimizer of the backbone; {} if the head has
      an optimizer of its own.
    params: parameters after the head's own optimizer; {} without one.
    opt_state: state of the head's own optimizer; () without one.
    aux: auxiliary output of the loss.
    metrics: scalars for the log.
  """

  gradients: PyTree
  params: PyTree
  opt_state: PyTree
  aux: Any
  metrics: Metrics


@dataclasses.dataclass(frozen=True)
class HeadStrategy:
  """The `head` section of a config: how the objective's head is trained.

  Attributes:
    strategy: "joint" (one gradient and one optimizer, `optim`, for backbone and
      head), "alternating", "unrolled" or "implicit" (see the module).
    steps: inner steps before each step of the backbone.
    optimizer: inner optimizer, "sgd" or "adam"; its state is kept between
      steps.
    learning_rate: constant learning rate of the inner optimizer.
    momentum: momentum of "sgd".
    batch: "same" (head and backbone see the whole batch) or "fresh" (the head
      trains on one half and the backbone on the other; each loss has half the
      batch's negatives).
    l2: weight of 0.5 |head|^2 in the inner loss.
    damping: added to the diagonal of the inner Hessian ("implicit").
    solver_iterations: iterations of conjugate gradients ("implicit").
  """

  strategy: Literal["joint", "alternating", "unrolled", "implicit"] = "joint"
  steps: Positive[int] = 1
  optimizer: Literal["sgd", "adam"] = "sgd"
  learning_rate: Positive[float] = 0.1
  momentum: Decay = 0.9
  batch: Literal["same", "fresh"] = "same"
  l2: NonNegative[float] = 0.0
  damping: NonNegative[float] = 0.0
  solver_iterations: Positive[int] = 20

  def __post_init__(self) -> None:
    check_fields(self, "head")
    if self.strategy == "implicit" and not self.l2 + self.damping:
      raise ValueError(
        'head.strategy="implicit" with head.l2=0 and head.damping=0: the inner '
        "Hessian of a head is not positive definite; raise one of them"
      )
    if self.batch == "fresh" and not self.has_own_optimizer:
      raise ValueError(
        'head.batch="fresh" needs a head.strategy other than "joint"'
      )

  def inner_optimizer(self) -> optax.GradientTransformation:
    """Returns the optimizer of the inner problem."""
    if self.optimizer == "adam":
      return optax.adam(self.learning_rate)
    return optax.sgd(self.learning_rate, self.momentum or None)

  @property
  def has_own_optimizer(self) -> bool:
    """True unless the optimizer of the backbone trains the head as well."""
    return self.strategy != "joint"

  def outer_params(self, head_params: PyTree) -> PyTree:
    """Returns the head parameters that the backbone's optimizer trains."""
    return {} if self.has_own_optimizer else head_params

  def init(self, head_params: PyTree) -> PyTree:
    """Returns the state of the head's own optimizer; () without one."""
    if not self.has_own_optimizer:
      return ()
    return self.inner_optimizer().init(head_params)

  def gradients(
    self,
    loss: Callable[..., tuple[Scalar, Any]],
    head_params: PyTree,
    opt_state: PyTree,
    features: PyTree,
  ) -> tuple[Scalar, PyTree, HeadUpdate]:
    """Differentiates the loss and updates a head with its own optimizer.

    Args:
      loss: `(head_params, features, half=None) -> (loss, aux)`; `half`, 0 or 1,
        selects one half of the batch.
      head_params: parameters of the head.
      opt_state: see `init`.
      features: features of the backbone, of the whole batch.

    Returns:
      The loss, its gradient with respect to `features`, and the head.
    """
    if not self.has_own_optimizer:
      (value, aux), (head_grads, feature_grads) = jax.value_and_grad(
        loss, argnums=(0, 1), has_aux=True
      )(head_params, features)
      return value, feature_grads, HeadUpdate(head_grads, {}, (), aux, {})
    inner = outer = loss
    if self.batch == "fresh":
      inner = functools.partial(loss, half=0)
      outer = functools.partial(loss, half=1)

    def total(features: PyTree) -> tuple[Scalar, HeadUpdate]:
      params, inner_state, gradient_norm = solve_inner(
        lambda phi, theta: inner(phi, theta)[0],
        head_params,
        opt_state,
        features,
        self,
      )
      value, aux = outer(params, features)
      metrics = {"head_gradient_norm": gradient_norm}
      return value, HeadUpdate({}, params, inner_state, aux, metrics)

    (value, update), feature_grads = jax.value_and_grad(total, has_aux=True)(
      features
    )
    return value, feature_grads, update


def solve_inner(
  loss: InnerLoss,
  phi: PyTree,
  opt_state: PyTree,
  theta: PyTree,
  head: HeadStrategy,
) -> tuple[PyTree, PyTree, Scalar]:
  """Solves the inner problem, starting at the constant `phi`.

  `loss` has no `l2` term; `theta` is differentiated through according to
  `head.strategy`. Returns the solution, and as constants the state of the
  optimizer and the norm of the inner gradient at the solution.
  """

  def inner(phi: PyTree, theta: PyTree) -> Scalar:
    decay = sum(jnp.sum(leaf**2) for leaf in jax.tree.leaves(phi))
    return loss(phi, theta) + 0.5 * head.l2 * decay

  def solve(phi: PyTree, theta: PyTree) -> tuple[PyTree, PyTree]:
    optimizer = head.inner_optimizer()

    def step(carry: tuple, _: None) -> tuple[tuple, None]:
      phi, opt_state = carry
      grads = jax.grad(inner)(phi, theta)
      updates, opt_state = optimizer.update(grads, opt_state, phi)
      return (optax.apply_updates(phi, updates), opt_state), None

    start = jax.lax.stop_gradient((phi, opt_state))
    return jax.lax.scan(step, start, length=head.steps)[0]

  match head.strategy:
    case "unrolled":
      solution, opt_state = solve(phi, theta)
    case "implicit":
      solution, opt_state = _implicit(solve, inner, head)(phi, theta)
    case _:
      solution, opt_state = jax.lax.stop_gradient(solve(phi, theta))
  constants = jax.lax.stop_gradient((solution, theta))
  gradient_norm = tree.norm(jax.grad(inner)(*constants))
  return solution, jax.lax.stop_gradient(opt_state), gradient_norm


def _conjugate_gradients(
  product: Callable[[PyTree], PyTree], b: PyTree, iterations: int
) -> PyTree:
  """Solves `product(x) = b`, starting at 0.

  The number of iterations is fixed because each one is a collective over the
  mesh: if devices stopped by themselves and rounding let them disagree, some
  would wait for the others forever. Further iterations keep a solution.
  """

  def dot(x: PyTree, y: PyTree) -> Scalar:
    return sum(jax.tree.leaves(jax.tree.map(jnp.vdot, x, y)), jnp.zeros(()))

  def add(x: PyTree, scale: Scalar, direction: PyTree) -> PyTree:
    return jax.tree.map(lambda x, d: x + scale * d, x, direction)

  def divide(numerator: Scalar, denominator: Scalar) -> Scalar:
    nonzero = denominator != 0
    return jnp.where(nonzero, numerator / jnp.where(nonzero, denominator, 1), 0)

  def step(carry: tuple, _: None) -> tuple[tuple, None]:
    x, residual, direction = carry
    image = product(direction)
    before = dot(residual, residual)
    length = divide(before, dot(direction, image))
    residual = add(residual, -length, image)
    next_direction = add(
      residual, divide(dot(residual, residual), before), direction
    )
    return (add(x, length, direction), residual, next_direction), None

  start = (jax.tree.map(jnp.zeros_like, b), b, b)
  return jax.lax.scan(step, start, length=iterations)[0][0]


def _implicit(
  solve: Callable[[PyTree, PyTree], tuple[PyTree, PyTree]],
  inner: InnerLoss,
  head: HeadStrategy,
) -> Callable[[PyTree, PyTree], tuple[PyTree, PyTree]]:
  """Gives `solve` the derivative of the implicit function theorem."""

  def forward(phi: PyTree, theta: PyTree) -> tuple[Any, Any]:
    solution = solve(phi, theta)
    return solution, (solution[0], theta)

  def backward(residuals: Any, cotangents: Any) -> tuple[PyTree, PyTree]:
    phi, theta = residuals
    cotangent, _ = cotangents

    # Reverse over reverse: the fused losses have no forward mode.
    def hessian(v: PyTree) -> PyTree:
      _, pull = jax.vjp(lambda p: jax.grad(inner)(p, theta), phi)
      return jax.tree.map(lambda hv, v: hv + head.damping * v, *pull(v), v)

    solved = _conjugate_gradients(hessian, cotangent, head.solver_iterations)
    _, pull = jax.vjp(lambda t: jax.grad(inner)(phi, t), theta)
    (product,) = pull(solved)
    return (
      jax.tree.map(jnp.zeros_like, phi),
      jax.tree.map(jnp.negative, product),
    )

  implicit = jax.custom_vjp(solve)
  implicit.defvjp(forward, backward)
  return implicit
