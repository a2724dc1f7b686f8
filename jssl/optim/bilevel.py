"""The head as a parameter of the loss: its best response to the backbone.

    min over theta of L(theta, phi*(theta)),
    phi*(theta) = argmin over phi of L_inner(theta, phi)

The inner problem is solved by some steps of an optimizer. What the gradient of
theta makes of phi* is one of three:

- alternating: nothing, phi* is a constant. Exact where L_inner is L, and solved
  (the envelope theorem);
- unrolled: the gradient of those steps, exact for what they computed;
- implicit: the gradient of the solution, by the implicit function theorem,
  dphi*/dtheta = -[d2 L_inner / dphi2]^-1 d2 L_inner / dphi dtheta. Exact where
  solved, whatever the way there. It is solved for by conjugate gradients, which
  need a positive second derivative: far from a minimum that of a head is not,
  unless `l2` or `damping` makes it so; a few inner steps are better unrolled.

The first idea is that of Gupta et al., "Understanding and Improving the Role of
Projection Head in Self-Supervised Learning", 2022, of which only the abstract
was at hand; the rest is the theory of bilevel optimisation.
"""

import dataclasses
from collections.abc import Callable
from typing import Any, Literal

import jax
import jax.numpy as jnp
import optax

from jssl import tree
from jssl.typing import PyTree, Scalar

InnerLoss = Callable[[PyTree, PyTree], Scalar]
"""`(phi, theta) -> scalar`; nothing that it closes over gets a gradient."""


@dataclasses.dataclass(frozen=True)
class HeadUpdate:
  """The `head` section of a config: how the objective's head is learned.

  Attributes:
    update: "joint": one gradient, one optimizer (`optim`) for backbone and
      head; the others see the head as the answer to the backbone, see above.
    steps: of the inner optimizer, before each step of the backbone.
    optimizer: "sgd" with momentum or "adam"; its memory is kept between steps.
    learning_rate: of the inner optimizer, constant.
    momentum: of "sgd".
    batch: "same": both see the whole batch; "fresh": the head learns from one
      half of it and the backbone from the other. Each loss then has half the
      batch's negatives, and all inner steps see the same half.
    l2: half of it times the squared norm of the head is part of the inner loss.
    damping: added to the inner second derivative ("implicit").
    solver_iterations: of conjugate gradients ("implicit").
  """

  update: Literal["joint", "alternating", "unrolled", "implicit"] = "joint"
  steps: int = 1
  optimizer: Literal["sgd", "adam"] = "sgd"
  learning_rate: float = 0.1
  momentum: float = 0.9
  batch: Literal["same", "fresh"] = "same"
  l2: float = 0.0
  damping: float = 0.0
  solver_iterations: int = 20

  def __post_init__(self) -> None:
    for name in ("steps", "solver_iterations", "learning_rate"):
      if getattr(self, name) <= 0:
        raise ValueError(f"head.{name}={getattr(self, name)} must be positive")
    for name in ("l2", "damping"):
      if getattr(self, name) < 0:
        raise ValueError(f"head.{name}={getattr(self, name)} must not be < 0")
    if not 0 <= self.momentum < 1:
      raise ValueError(f"head.momentum={self.momentum} must be in [0, 1)")
    if self.update == "implicit" and not self.l2 + self.damping:
      raise ValueError(
        'head.update="implicit" with head.l2=0 and head.damping=0: the inner '
        "second derivative must be positive, and a head's alone is not; raise "
        "one of them"
      )
    if self.update == "joint" and self.batch == "fresh":
      raise ValueError(
        'head.batch="fresh" needs a head.update that is not "joint"'
      )

  def inner_optimizer(self) -> optax.GradientTransformation:
    """Returns the optimizer of the inner loop."""
    if self.optimizer == "adam":
      return optax.adam(self.learning_rate)
    return optax.sgd(self.learning_rate, self.momentum or None)


def solve_inner(
  loss: InnerLoss,
  phi: PyTree,
  opt_state: PyTree,
  theta: PyTree,
  how: HeadUpdate,
) -> tuple[PyTree, PyTree, Scalar]:
  """Solves the inner problem from `phi` on.

  Args:
    loss: of the head and of what it answers to.
    phi: where the inner loop starts; no gradient flows into it.
    opt_state: of `how.inner_optimizer()`.
    theta: what the head answers to, such as features; gradients flow into it as
      `how.update` says.
    how: the inner loop.

  Returns:
    `phi*`; the optimizer's state; the norm of the inner gradient at `phi*`,
    a constant.
  """

  def inner(phi: PyTree, theta: PyTree) -> Scalar:
    decay = sum(jnp.sum(leaf**2) for leaf in jax.tree.leaves(phi))
    return loss(phi, theta) + 0.5 * how.l2 * decay

  def solve(phi: PyTree, theta: PyTree) -> tuple[PyTree, PyTree]:
    optimizer = how.inner_optimizer()

    def step(carry: tuple, _: None) -> tuple[tuple, None]:
      phi, opt_state = carry
      grads = jax.grad(inner)(phi, theta)
      updates, opt_state = optimizer.update(grads, opt_state, phi)
      return (optax.apply_updates(phi, updates), opt_state), None

    start = jax.lax.stop_gradient((phi, opt_state))
    return jax.lax.scan(step, start, length=how.steps)[0]

  match how.update:
    case "unrolled":
      solution, opt_state = solve(phi, theta)
    case "implicit":
      solution, opt_state = _implicit(solve, inner, how)(phi, theta)
    case _:
      solution, opt_state = jax.lax.stop_gradient(solve(phi, theta))
  fixed = jax.lax.stop_gradient((solution, theta))
  rest = tree.norm(jax.grad(inner)(*fixed))
  return solution, jax.lax.stop_gradient(opt_state), rest


def _conjugate_gradients(
  product: Callable[[PyTree], PyTree], b: PyTree, iterations: int
) -> PyTree:
  """Solves `product(x) = b`, from 0 on.

  Always in so many iterations, each of which sums over the mesh: devices that
  asked each for itself whether to go on would wait for each other forever where
  rounding lets them differ. Once solved, it stays where it is.
  """

  def dot(x: PyTree, y: PyTree) -> Scalar:
    return sum(jax.tree.leaves(jax.tree.map(jnp.vdot, x, y)), jnp.zeros(()))

  def along(x: PyTree, length: Scalar, direction: PyTree) -> PyTree:
    return jax.tree.map(lambda x, d: x + length * d, x, direction)

  def ratio(above: Scalar, below: Scalar) -> Scalar:
    there = below != 0
    return jnp.where(there, above / jnp.where(there, below, 1), 0)

  def step(carry: tuple, _: None) -> tuple[tuple, None]:
    x, rest, direction = carry
    moved = product(direction)
    before = dot(rest, rest)
    length = ratio(before, dot(direction, moved))
    rest = along(rest, -length, moved)
    direction = along(rest, ratio(dot(rest, rest), before), direction)
    return (along(x, length, carry[2]), rest, direction), None

  start = (jax.tree.map(jnp.zeros_like, b), b, b)
  return jax.lax.scan(step, start, length=iterations)[0][0]


def _implicit(
  solve: Callable[[PyTree, PyTree], tuple[PyTree, PyTree]],
  inner: InnerLoss,
  how: HeadUpdate,
) -> Callable[[PyTree, PyTree], tuple[PyTree, PyTree]]:
  """Gives `solve` the derivative of a solution."""

  @jax.custom_vjp
  def respond(phi: PyTree, theta: PyTree) -> tuple[PyTree, PyTree]:
    return solve(phi, theta)

  def forward(phi: PyTree, theta: PyTree) -> tuple[Any, Any]:
    solution = solve(phi, theta)
    return solution, (solution[0], theta)

  def backward(residuals: Any, cotangents: Any) -> tuple[PyTree, PyTree]:
    phi, theta = residuals
    cotangent, _ = cotangents

    # Reverse over reverse: the fused losses have no forward mode.
    def hessian(v: PyTree) -> PyTree:
      _, pull = jax.vjp(lambda p: jax.grad(inner)(p, theta), phi)
      return jax.tree.map(lambda hv, v: hv + how.damping * v, *pull(v), v)

    solved = _conjugate_gradients(hessian, cotangent, how.solver_iterations)
    _, pull = jax.vjp(lambda t: jax.grad(inner)(phi, t), theta)
    (answer,) = pull(solved)
    return (
      jax.tree.map(jnp.zeros_like, phi),
      jax.tree.map(jnp.negative, answer),
    )

  respond.defvjp(forward, backward)
  return respond
