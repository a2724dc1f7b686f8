"""The head's best response, held against solutions and their derivatives."""

import dataclasses
import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jssl import losses
from jssl.optim.bilevel import HeadStrategy, solve_inner

random = np.random.default_rng(0)
# Inner and outer batch, inputs [n, 4] and targets [n, 3]; theta [4, 5].
X_IN, X_OUT = random.normal(size=(2, 24, 4))
Y_IN, Y_OUT = random.normal(size=(2, 24, 3))
THETA = random.normal(size=(4, 5)) / 2
PHI = np.zeros((5, 3))
RIDGE = HeadStrategy(
  "implicit",
  steps=800,
  learning_rate=0.3,
  momentum=0.9,
  l2=0.1,
  solver_iterations=30,
)


def squares(phi, theta):
  return 0.5 * jnp.mean(jnp.sum((X_IN @ theta @ phi - Y_IN) ** 2, axis=1))


def fourth_powers(phi, theta):
  """Another loss, on another batch."""
  return jnp.mean((X_OUT @ theta @ phi - Y_OUT) ** 4)


def ridge(theta):
  """The closed form of the inner problem."""
  h = X_IN @ theta
  gram = h.T @ h / len(h) + RIDGE.l2 * jnp.eye(h.shape[1])
  return jnp.linalg.solve(gram, h.T @ Y_IN / len(h))


def answer(inner, phi, theta, how):
  state = how.inner_optimizer().init(phi)
  return solve_inner(inner, phi, state, theta, how)


def hypergradient(strategy, steps=RIDGE.steps):
  how = dataclasses.replace(RIDGE, strategy=strategy, steps=steps)

  @jax.jit
  @jax.grad
  def gradient(theta):
    phi, _, _ = answer(squares, jnp.asarray(PHI), theta, how)
    return fourth_powers(phi, theta)

  return gradient(jnp.asarray(THETA))


@pytest.fixture
def analytic(x64):
  return jax.grad(lambda theta: fourth_powers(ridge(theta), theta))(
    jnp.asarray(THETA)
  )


def test_the_inner_solution_is_the_closed_form(x64):
  phi, _, rest = answer(squares, jnp.asarray(PHI), jnp.asarray(THETA), RIDGE)
  np.testing.assert_allclose(phi, ridge(THETA), atol=1e-10)
  assert rest < 1e-9


@pytest.mark.parametrize("strategy", ["implicit", "unrolled"])
def test_the_gradient_is_the_analytic_hypergradient(analytic, strategy):
  np.testing.assert_allclose(hypergradient(strategy), analytic, atol=1e-6)


def test_alternating_leaves_the_response_out(analytic):
  got = hypergradient("alternating")
  partial = jax.grad(lambda theta: fourth_powers(ridge(THETA), theta))(THETA)
  np.testing.assert_allclose(got, partial, atol=1e-8)
  assert np.abs(got - analytic).max() > 0.05


def test_alternating_is_exact_where_both_losses_are_one(x64):
  """The envelope theorem, with the decay in both."""

  def decayed(phi, theta):
    return squares(phi, theta) + 0.5 * RIDGE.l2 * jnp.sum(phi**2)

  def total(theta, how):
    phi, _, _ = answer(squares, jnp.asarray(PHI), theta, how)
    return decayed(phi, theta)

  expected = jax.grad(lambda theta: decayed(ridge(theta), theta))(THETA)
  how = dataclasses.replace(RIDGE, strategy="alternating")
  got = jax.grad(total)(jnp.asarray(THETA), how)
  np.testing.assert_allclose(got, expected, atol=1e-8)


def test_a_truncated_loop_is_unrolled_as_it_ran(x64):
  """Two plain steps, written out."""
  how = HeadStrategy(
    "unrolled", steps=2, learning_rate=0.2, momentum=0.0, l2=0.1
  )

  def by_hand(theta):
    phi = jnp.asarray(PHI)
    for _ in range(2):
      phi = phi - 0.2 * (jax.grad(squares)(phi, theta) + 0.1 * phi)
    return fourth_powers(phi, theta)

  def unrolled(theta):
    return fourth_powers(
      answer(squares, jnp.asarray(PHI), theta, how)[0], theta
    )

  np.testing.assert_allclose(
    jax.grad(unrolled)(jnp.asarray(THETA)),
    jax.grad(by_hand)(jnp.asarray(THETA)),
    rtol=1e-12,
  )


def test_damping_is_added_to_the_second_derivative(x64):
  """By the formula, with the inner Hessian as a matrix."""
  damping = 0.3
  how = dataclasses.replace(RIDGE, damping=damping)
  theta = jnp.asarray(THETA)
  phi = ridge(theta)
  h = X_IN @ theta
  hessian = h.T @ h / len(h) + (RIDGE.l2 + damping) * jnp.eye(5)
  direct, outer = jax.grad(fourth_powers, (1, 0))(phi, theta)
  solved = jnp.linalg.solve(hessian, outer)
  mixed = jax.grad(lambda t: jnp.vdot(jax.grad(squares)(phi, t), solved))
  got = jax.grad(
    lambda t: fourth_powers(answer(squares, jnp.asarray(PHI), t, how)[0], t)
  )(theta)
  np.testing.assert_allclose(got, direct - mixed(theta), atol=1e-8)


def test_momentum_and_moments_are_kept(x64):
  """Twice three steps are six."""
  for optimizer in ("sgd", "adam"):
    how = HeadStrategy("alternating", steps=3, optimizer=optimizer)
    whole = dataclasses.replace(how, steps=6)
    theta, phi = jnp.asarray(THETA), jnp.asarray(PHI)
    expected, _, _ = answer(squares, phi, theta, whole)
    phi, state, _ = answer(squares, phi, theta, how)
    phi, _, _ = solve_inner(squares, phi, state, theta, how)
    np.testing.assert_allclose(phi, expected, rtol=1e-10)


VIEWS_IN, VIEWS_OUT = random.normal(size=(2, 2, 8, 4))
START = random.normal(size=(5, 3))


def info_nce(views, phi, theta):
  """The head is START + phi: the decay of phi alone would go on for ever,
  since the loss doesn't see how long the head is."""
  z1, z2 = views @ theta @ (START + phi)
  return losses.info_nce(z1, z2, temperature=0.5, symmetric=True)


@functools.cache
def info_nce_total(strategy):
  how = HeadStrategy(
    strategy, steps=400, learning_rate=0.3, l2=0.3, solver_iterations=40
  )

  def total(theta):
    phi, _, rest = answer(
      functools.partial(info_nce, VIEWS_IN), jnp.asarray(PHI), theta, how
    )
    return info_nce(VIEWS_OUT, phi, theta), rest

  return jax.jit(jax.value_and_grad(total, has_aux=True))


@pytest.mark.parametrize("strategy", ["implicit", "unrolled"])
def test_info_nce_by_finite_differences(x64, strategy):
  """Of L(theta, phi*(theta)), both on batches of their own."""
  total = info_nce_total(strategy)
  theta = jnp.asarray(THETA)
  (_, rest), gradient = total(theta)
  assert rest < 1e-8
  for direction in random.normal(size=(3, *THETA.shape)):
    step = 1e-5 * direction
    (ahead, _), _ = total(theta + step)
    (behind, _), _ = total(theta - step)
    slope = (ahead - behind) / 2e-5
    np.testing.assert_allclose(
      jnp.vdot(gradient, direction), slope, rtol=1e-5, atol=1e-7
    )


@pytest.mark.parametrize(
  ("values", "message"),
  [
    ({"steps": 0}, "head.steps=0 must be positive"),
    ({"learning_rate": -1.0}, "head.learning_rate=-1.0 must be positive"),
    ({"momentum": 1.5}, "head.momentum=1.5 must be in"),
    ({"l2": -1.0}, "head.l2=-1.0 must be at least 0"),
    ({"batch": "fresh"}, 'head.batch="fresh" needs a head.strategy'),
  ],
)
def test_says_what_is_wrong(values, message):
  with pytest.raises(ValueError, match=message):
    HeadStrategy(**values)
