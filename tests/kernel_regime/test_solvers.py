import doctest

import numpy as np
import pytest
from kernel_regime import oracle
from oracles.fista import ridge_fista
from scipy import optimize

from jssl import kernel_regime
from jssl.kernel_regime.losses import Contrastive, NonContrastive
from jssl.kernel_regime.memory import memory_limit
from jssl.kernel_regime.solvers import (
  alpha_max,
  closed_form,
  ridge_closed_form,
  ridge_loss,
  solve,
)
from jssl.kernel_regime.targets import top_eigenpairs

LOSSES = [Contrastive(), NonContrastive(0.3)]
NAMES = ["contrastive", "non-contrastive"]


def value_and_gradient(m, k, ids, loss, alpha, shape):
  """The loss of Z = K M^T as it is written, and alpha Tr(M K M^T)."""
  m = m.reshape(shape)
  z = k @ m.T
  n, d = z.shape
  if isinstance(loss, Contrastive):
    value = oracle.contrastive(z, ids)
    dz = 4 * (z @ z.T - np.eye(n) - oracle.adjacency(ids)) @ z
  else:
    value = oracle.non_contrastive(z, ids, loss.beta)
    c, lap = np.eye(n) - np.ones((n, n)) / n, oracle.laplacian(ids)
    dz = 4 * c @ z @ (z.T @ c @ z - np.eye(d)) + 2 * loss.beta * lap @ z
  gradient = dz.T @ k + 2 * alpha * m @ k
  return value + alpha * np.trace(m @ k @ m.T), gradient.ravel()


def minimised(k, ids, loss, d_out, alpha=0.0):
  """The least of two descents from random starts."""
  rng = np.random.default_rng(0)
  shape = (d_out, len(k))
  found = [
    optimize.minimize(
      value_and_gradient,
      0.3 * rng.normal(size=shape).ravel(),
      args=(k, ids, loss, alpha, shape),
      jac=True,
      method="L-BFGS-B",
      options={
        "maxiter": 20000,
        "maxfun": 40000,
        "ftol": 0,
        "gtol": 1e-9,
        "maxcor": 40,
      },
    ).fun
    for _ in range(2)
  ]
  return min(found)


@pytest.mark.parametrize("loss", LOSSES, ids=NAMES)
@pytest.mark.parametrize("d_out", [2, 3, 5])
def test_closed_form_equals_direct_optimisation(
  loss, d_out, gram_matrix, image_ids
):
  m = closed_form(gram_matrix, loss.top_eigenpairs(image_ids, d_out))
  assert m.shape == (d_out, 12)
  value = loss.value(gram_matrix @ m.T, image_ids)
  direct = minimised(gram_matrix, image_ids, loss, d_out)
  # With a dimension for each image the contrastive minimum is 0.
  np.testing.assert_allclose(value, direct, rtol=1e-8, atol=1e-11)
  np.testing.assert_allclose(
    value, loss.minimum(image_ids, d_out), rtol=1e-12, atol=1e-11
  )


def test_closed_form_of_any_target(gram_matrix):
  rng = np.random.default_rng(3)
  target = rng.normal(size=(12, 12))
  target = target + target.T
  m = closed_form(gram_matrix, top_eigenpairs(target, 4))
  values, vectors = np.linalg.eigh(target)
  best = (vectors[:, -4:] * np.maximum(values[-4:], 0)) @ vectors[:, -4:].T
  np.testing.assert_allclose(
    gram_matrix @ m.T @ m @ gram_matrix, best, atol=1e-11
  )


def test_more_dimensions_than_the_target_has_are_zero(gram_matrix, image_ids):
  m = closed_form(gram_matrix, Contrastive().top_eigenpairs(image_ids, 8))
  assert m.shape == (8, 12)
  np.testing.assert_array_equal(m[5:], 0)
  g = (gram_matrix @ m.T) @ (gram_matrix @ m.T).T
  np.testing.assert_allclose(g, Contrastive().target(image_ids), atol=1e-12)


@pytest.mark.parametrize("loss", LOSSES, ids=NAMES)
@pytest.mark.parametrize("fraction", [0.5, 0.05])
def test_ridge_equals_direct_optimisation(
  loss, fraction, gram_matrix, image_ids
):
  alpha = fraction * alpha_max(gram_matrix, loss, image_ids)
  direct = minimised(gram_matrix, image_ids, loss, 12, alpha)
  direct -= loss.gram_offset(12)
  exact = ridge_closed_form(gram_matrix, loss, image_ids, alpha=alpha)
  value = ridge_loss(gram_matrix, exact, loss, image_ids, alpha=alpha)
  np.testing.assert_allclose(value, direct, rtol=1e-8)
  z = gram_matrix @ exact.T
  np.testing.assert_allclose(
    loss.value_of_gram(z @ z.T, image_ids)
    + alpha * np.trace(exact @ gram_matrix @ exact.T),
    value,
    rtol=1e-12,
  )
  found = ridge_fista(gram_matrix, loss, image_ids, alpha=alpha, tolerance=1e-8)
  assert found.converged
  np.testing.assert_allclose(found.loss, direct, rtol=1e-6)
  np.testing.assert_allclose(
    ridge_loss(gram_matrix, found.m, loss, image_ids, alpha=alpha),
    found.loss,
    rtol=1e-10,
  )
  # The gap bounds what is left.
  assert -1e-9 <= found.loss - value <= found.gap + 1e-9


def many(n=201, views=3):
  """Well-conditioned, of some hundred points."""
  x = np.random.default_rng(0).normal(size=(n, 8))
  squares = np.sum((x[:, None] - x[None]) ** 2, axis=2)
  return np.exp(-squares / 16) + 0.3 * np.eye(n), np.arange(n) // views


def descended(k, ids, loss, d_out):
  """The least that L-BFGS finds, of matrices instead of the oracle's sums."""
  n = len(k)
  c, lap = np.eye(n) - 1 / n, oracle.laplacian(ids)
  target = np.eye(n) + oracle.adjacency(ids)

  def value_and_gradient(m):
    z = k @ m.reshape(d_out, n).T
    if isinstance(loss, Contrastive):
      off = z @ z.T - target
      value, dz = np.sum(off**2), 4 * off @ z
    else:
      off = z.T @ c @ z - np.eye(d_out)
      value = np.sum(off**2) + loss.beta * np.sum(z * (lap @ z))
      dz = 4 * c @ z @ off + 2 * loss.beta * lap @ z
    return value, (dz.T @ k).ravel()

  start = 0.01 * np.random.default_rng(0).normal(size=d_out * n)
  return optimize.minimize(
    value_and_gradient,
    start,
    jac=True,
    method="L-BFGS-B",
    options={"maxiter": 3000, "maxfun": 5000, "ftol": 0, "gtol": 1e-8},
  ).fun


@pytest.mark.parametrize(
  ("loss", "fraction"),
  [(LOSSES[0], 0.05), pytest.param(LOSSES[1], 0.3, marks=pytest.mark.slow)],
  ids=NAMES,
)
def test_hundreds_of_points(loss, fraction):
  """Closed forms, direct optimisation and FISTA, of 201."""
  k, ids = many()
  m = closed_form(k, loss.top_eigenpairs(ids, 3))
  value = loss.value(k @ m.T, ids)
  # With few dimensions the non-contrastive minimum is 0.
  direct = descended(k, ids, loss, 3)
  np.testing.assert_allclose(value, direct, rtol=1e-8, atol=1e-11)
  alpha = fraction * alpha_max(k, loss, ids)
  exact = ridge_closed_form(k, loss, ids, alpha=alpha)
  least = ridge_loss(k, exact, loss, ids, alpha=alpha)
  assert 1 < len(exact) < 100
  found = ridge_fista(k, loss, ids, alpha=alpha)
  assert found.converged
  np.testing.assert_allclose(found.loss, least, rtol=1e-6)
  assert -1e-9 <= found.loss - least <= found.gap + 1e-9


def test_example_of_the_package():
  finder = doctest.DocTestFinder(recurse=False)
  (test,) = finder.find(kernel_regime, globs={})
  runner = doctest.DocTestRunner(verbose=False)
  runner.run(test)
  assert (runner.failures, runner.tries > 0) == (0, True)


@pytest.mark.parametrize("loss", LOSSES, ids=NAMES)
def test_ridge_of_few_dimensions(loss, gram_matrix, image_ids):
  alpha = 0.1 * alpha_max(gram_matrix, loss, image_ids)
  m = ridge_closed_form(gram_matrix, loss, image_ids, alpha=alpha, d_out=2)
  assert m.shape == (2, 12)
  value = ridge_loss(gram_matrix, m, loss, image_ids, alpha=alpha)
  direct = minimised(gram_matrix, image_ids, loss, 2, alpha)
  np.testing.assert_allclose(value, direct - loss.gram_offset(2), rtol=1e-8)


@pytest.mark.parametrize("loss", LOSSES, ids=NAMES)
def test_gap_of_an_early_stop_bounds_what_is_left(loss, gram_matrix, image_ids):
  alpha = 0.05 * alpha_max(gram_matrix, loss, image_ids)
  m = ridge_closed_form(gram_matrix, loss, image_ids, alpha=alpha)
  least = ridge_loss(gram_matrix, m, loss, image_ids, alpha=alpha)
  for iterations in (1, 2, 5):
    found = ridge_fista(
      gram_matrix, loss, image_ids, alpha=alpha, max_iterations=iterations
    )
    assert found.iterations == iterations
    assert not found.converged
    assert 0 < found.loss - least <= found.gap


def test_ridge_where_kernel_and_target_commute(image_ids):
  # K = I + (I + A) / 2: one equation for each eigenvalue.
  ids = np.repeat(np.arange(4), 3)
  target = Contrastive().target(ids)
  k = np.eye(12) + target / 2
  alpha = 1.7
  z = k @ ridge_closed_form(k, Contrastive(), ids, alpha=alpha).T
  kappa = 1 + 3 / 2
  np.testing.assert_allclose(
    z @ z.T, (3 - alpha / 2 / kappa) / 3 * target, atol=1e-12
  )


@pytest.mark.parametrize("loss", LOSSES, ids=NAMES)
def test_alpha_from_none_to_all(loss, gram_matrix, image_ids):
  largest = alpha_max(gram_matrix, loss, image_ids)

  def solved(alpha):
    return ridge_closed_form(gram_matrix, loss, image_ids, alpha=alpha)

  assert len(solved(1.001 * largest)) == 0
  assert len(solved(0.999 * largest)) == 1
  nothing = ridge_fista(gram_matrix, loss, image_ids, alpha=1.001 * largest)
  assert nothing.converged
  assert len(nothing.m) == 0
  top = loss.top_eigenpairs(image_ids, 12)
  z = gram_matrix @ solved(1e-9).T
  z -= loss.shift_invariant * z.mean(0)
  np.testing.assert_allclose(z @ z.T, top.matrix(), atol=1e-6)


def test_supervised_form_has_classes_for_images(gram_matrix):
  labels = np.array([0, 1] * 6)
  m = solve(gram_matrix, Contrastive(), labels)
  assert m.shape == (2, 12)
  z = gram_matrix @ m.T
  np.testing.assert_allclose(
    z @ z.T, (labels[:, None] == labels[None]).astype(float), atol=1e-12
  )


def test_supervised_form_with_a_ridge_is_that_of_the_contrastive_loss(
  gram_matrix,
):
  labels = np.array([0, 1, 2] * 4)
  m = solve(gram_matrix, Contrastive(), labels, alpha=0.7)
  expected = ridge_closed_form(
    gram_matrix, Contrastive(), labels, alpha=0.7, d_out=3
  )
  np.testing.assert_array_equal(m, expected)
  assert np.any(m)


@pytest.mark.usefixtures("unchecked")
def test_bad_input_is_refused(gram_matrix, image_ids):
  k, loss = gram_matrix, Contrastive()
  top = loss.top_eigenpairs(image_ids, 2)
  ones = np.ones((12, 12))
  with pytest.raises(ValueError, match=r"jitter=\S+ would suffice"):
    closed_form(ones - 0.1 * np.eye(12), top)
  with pytest.raises(ValueError, match=r"K must be \[12, 12\]"):
    closed_form(k[:5, :5], top)
  with memory_limit(1e-9):
    with pytest.raises(
      ValueError, match="The closed form of N=12 points needs"
    ):
      closed_form(k, top)
    with pytest.raises(ValueError, match="The ridge of N=12 points needs"):
      ridge_closed_form(k, loss, image_ids, alpha=1.0)
  with pytest.raises(ValueError, match=r"alpha=0"):
    ridge_closed_form(k, loss, image_ids, alpha=0.0)
  with pytest.raises(ValueError, match="singular within rounding"):
    ridge_closed_form(ones, loss, image_ids, alpha=1.0)
  with pytest.raises(ValueError, match=r"K must be \[12, 12\]"):
    ridge_closed_form(k[:5, :5], loss, image_ids, alpha=1.0)
  with pytest.raises(ValueError, match=r"d_out=13"):
    ridge_closed_form(k, loss, image_ids, alpha=1.0, d_out=13)
  with pytest.raises(ValueError, match=r"2 of 12 points have no .* label"):
    solve(k, loss, np.array([-1, -1] + [0, 1] * 5))
  with pytest.raises(ValueError, match="to 1 images"):
    solve(k, loss, np.zeros(12, int))
