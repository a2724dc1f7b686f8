import jax
import numpy as np
import pytest
from kernel_regime import oracle

from jssl.kernel_regime.dense import (
  MLPNTK,
  RBF,
  ArcCosine,
  kappa_0,
  kappa_1,
  median_bandwidth,
)


def evaluated(kernel, x, y):
  """In float64, compiled as one."""
  with jax.enable_x64(True):
    return np.asarray(jax.jit(kernel)(x, y))


def points(n=5, d=4, seed=0):
  x = np.random.default_rng(seed).normal(size=(n, d))
  # A row of zeros, one that repeats, one that is opposite.
  x[1], x[2], x[3] = 0, x[0], -2 * x[0]
  return x


def test_kappas_at_known_angles():
  c = np.array([1.0, 0.5, 0.0, -0.5, -1.0, 1 + 1e-15, -1 - 1e-15])
  third = np.sqrt(3) / (2 * np.pi)
  with jax.enable_x64(True):
    zero, one = jax.jit(lambda c: (kappa_0(c), kappa_1(c)))(c)
  np.testing.assert_allclose(
    zero, [1, 2 / 3, 1 / 2, 1 / 3, 0, 1, 0], atol=1e-15
  )
  np.testing.assert_allclose(
    one,
    [1, 1 / 3 + third, 1 / np.pi, -1 / 6 + third, 0, 1, 0],
    atol=1e-15,
  )


def test_rbf_equals_a_loop():
  x, y = points(), points(7, seed=1)
  expected = [
    [np.exp(-np.sum((a - b) ** 2) / (2 * 1.3**2)) for b in y] for a in x
  ]
  np.testing.assert_allclose(evaluated(RBF(1.3), x, y), expected, rtol=1e-12)
  # An image is a row of all its pixels.
  images = evaluated(RBF(1.3), x.reshape(5, 2, 2, 1), y.reshape(7, 2, 2, 1))
  np.testing.assert_array_equal(images, evaluated(RBF(1.3), x, y))


def test_median_bandwidth():
  x = points(40)
  distances = [np.linalg.norm(x[i] - x[j]) for i in range(40) for j in range(i)]
  np.testing.assert_allclose(median_bandwidth(x), np.median(distances))
  subset = x[[0, 9, 19, 29, 39]]
  np.testing.assert_allclose(
    median_bandwidth(x, rows=5), median_bandwidth(subset)
  )


@pytest.mark.parametrize("depth", [1, 3])
def test_recursions_equal_loops_with_quadrature(depth):
  x, y = points(), points(4, seed=1)
  expected = np.array([[oracle.mlp(a, b, depth) for b in y] for a in x])
  np.testing.assert_allclose(
    evaluated(ArcCosine(1, depth), x, y), expected[..., 0], atol=1e-12
  )
  np.testing.assert_allclose(
    evaluated(MLPNTK(depth), x, y), expected[..., 1], atol=1e-12
  )
  # With itself: rows that are equal, opposite, zero. The angle of equal rows
  # is known to 1e-8.
  expected = np.array([[oracle.mlp(a, b, depth) for b in x] for a in x])
  np.testing.assert_allclose(
    evaluated(ArcCosine(1, depth), x, x), expected[..., 0], atol=1e-12
  )
  np.testing.assert_allclose(
    evaluated(MLPNTK(depth), x, x), expected[..., 1], atol=1e-6
  )


def test_degree_0_iterates_angles():
  x = points()
  x = np.delete(x, 1, 0)
  unit = x / np.linalg.norm(x, axis=1, keepdims=True)
  expected = 1 - np.arccos(np.clip(unit @ unit.T, -1, 1)) / np.pi
  np.testing.assert_allclose(
    evaluated(ArcCosine(0, 1), x, x), expected, atol=1e-7
  )
  twice = 1 - np.arccos(np.clip(expected, -1, 1)) / np.pi
  # Square roots of roundings of roundings.
  np.testing.assert_allclose(evaluated(ArcCosine(0, 2), x, x), twice, atol=1e-3)


@pytest.mark.parametrize(
  "kernel", [ArcCosine(0, 2), ArcCosine(1, 2), MLPNTK(2)]
)
def test_zero_rows_are_similar_to_nothing(kernel):
  values = evaluated(kernel, points(), points())
  assert np.all(np.isfinite(values))
  np.testing.assert_array_equal(values[1], 0)
  np.testing.assert_array_equal(values[:, 1], 0)


def test_diagonals_are_as_stated():
  x = points(d=6)
  norms = np.sum(x**2, 1) / 6
  for depth in (1, 4):
    gp, ntk = (
      evaluated(ArcCosine(1, depth), x, x),
      evaluated(MLPNTK(depth), x, x),
    )
    np.testing.assert_allclose(np.diag(gp), norms, rtol=1e-12)
    np.testing.assert_allclose(np.diag(ntk), (depth + 1) * norms, rtol=1e-6)


def test_wide_random_networks_agree():
  rng = np.random.default_rng(0)
  x, depth, m, nets = rng.normal(size=(4, 3)), 2, 500, 40
  gp, ntk = np.zeros((4, 4)), np.zeros((4, 4))
  for _ in range(nets):
    inputs = [x / np.sqrt(3)]
    weights = [rng.normal(size=(3, m)), rng.normal(size=(m, m))]
    active = []
    for w in weights:
      h = inputs[-1] @ w
      active.append(h > 0)
      inputs.append(np.sqrt(2 / m) * np.maximum(h, 0))
    gp += inputs[-1] @ inputs[-1].T / nets
    # f = inputs[-1] @ a; backwards, layer by layer.
    ntk += inputs[-1] @ inputs[-1].T / nets
    back = np.tile(rng.normal(size=m), (4, 1))
    for layer in range(depth)[::-1]:
      back = back * np.sqrt(2 / m) * active[layer]
      ntk += (back @ back.T) * (inputs[layer] @ inputs[layer].T) / nets
      back = back @ weights[layer].T
  scale = np.max(ntk)
  np.testing.assert_allclose(
    evaluated(ArcCosine(1, depth), x, x), gp, atol=0.05 * np.max(gp)
  )
  np.testing.assert_allclose(
    evaluated(MLPNTK(depth), x, x), ntk, atol=0.05 * scale
  )


def test_float32_in_float32_out():
  x = points().astype(np.float32)
  for kernel in (RBF(1.0), ArcCosine(), MLPNTK()):
    assert jax.eval_shape(kernel, x, x).dtype == np.float32


@pytest.mark.parametrize(
  ("make", "key"),
  [
    (lambda: RBF(0.0), "kernel.bandwidth=0.0"),
    (lambda: RBF(float("nan")), "kernel.bandwidth=nan"),
    (lambda: ArcCosine(2, 1), "kernel.degree=2"),
    (lambda: ArcCosine(1, 0), "kernel.depth=0"),
    (lambda: MLPNTK(0), "kernel.depth=0"),
    (lambda: median_bandwidth(np.ones((5, 2))), "kernel.bandwidth"),
    (lambda: median_bandwidth(np.ones((1, 2))), "kernel.bandwidth"),
  ],
)
def test_bad_values_are_told_with_the_key(make, key):
  with pytest.raises(ValueError, match=key):
    make()
