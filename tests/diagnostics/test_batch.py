"""Batch measures compared with loops over views, images and columns."""

import itertools

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jssl.diagnostics import batch

# Compiled as in a train step, which is also faster.
batch_measures = jax.jit(batch.batch_measures)


def draw(*shape):
  return np.random.default_rng(0).normal(size=shape).astype(np.float32)


def oracle(h):
  views, images, dim = h.shape
  unit = h / np.linalg.norm(h, axis=-1, keepdims=True)
  pairs = [*itertools.combinations(range(views), 2)]
  alignment = np.mean(
    [
      np.sum((unit[a, i] - unit[b, i]) ** 2)
      for a, b in pairs
      for i in range(images)
    ]
  )
  rows = unit.reshape(-1, dim)
  deviation = np.mean([rows[:, k].std() for k in range(dim)]) * np.sqrt(dim)
  rows = h.reshape(-1, dim)
  values = np.linalg.eigvalsh(np.cov(rows.T))
  return alignment, deviation, values.sum() ** 2 / (values**2).sum()


# More rows than columns, and fewer, as the smaller Gram matrix is used.
@pytest.mark.parametrize("shape", [(2, 30, 5), (3, 4, 40)])
@pytest.mark.parametrize("scale", [1.0, 1e12])
def test_equals_the_definitions(shape, scale):
  h = np.random.default_rng(0).normal(size=shape) + 0.5
  got = batch_measures(jnp.asarray(scale * h, jnp.float32))
  assert set(got) == set(batch.NAMES)
  np.testing.assert_allclose(
    [got[name] for name in batch.NAMES], oracle(h), rtol=1e-4
  )


def test_isotropic_features():
  got = batch_measures(draw(2, 4000, 8))
  np.testing.assert_allclose(got["view_alignment"], 2, rtol=0.05)
  np.testing.assert_allclose(got["feature_deviation"], 1, rtol=0.05)
  np.testing.assert_allclose(got["participation_ratio"], 8, rtol=0.05)


@pytest.mark.parametrize("value", [0.0, 3.0])
@pytest.mark.parametrize("rounding", [0, 1e-7])
def test_collapsed_features(value, rounding):
  """Including rows that are equal up to rounding, as from a network."""
  h = value * (1 + rounding * draw(2, 16, 128))
  got = batch_measures(jnp.asarray(h, jnp.float32))
  np.testing.assert_allclose([*got.values()], 0, atol=1e-5)


def test_a_small_variation_is_none_of_rounding():
  h = 1 + 1e-4 * np.random.default_rng(0).normal(size=(2, 2000, 8))
  got = batch_measures(jnp.asarray(h, jnp.float32))
  np.testing.assert_allclose(got["participation_ratio"], 8, rtol=0.05)


def test_one_view_has_no_pairs():
  h = draw(1, 16, 4)
  assert float(batch_measures(h)["view_alignment"]) == 0


def test_low_precision_is_measured_in_float32():
  h = jnp.asarray(draw(2, 16, 8), jnp.bfloat16)
  wide = batch_measures(h.astype(jnp.float32))
  for name, value in batch_measures(h).items():
    assert value.dtype == jnp.float32
    np.testing.assert_allclose(value, wide[name], rtol=1e-6)


def test_no_gradient_passes():
  h = draw(2, 16, 8)
  gradient = jax.grad(lambda h: sum(batch_measures(h).values()))(h)
  np.testing.assert_array_equal(gradient, 0)


def test_a_large_mean_does_not_cancel():
  h = np.random.default_rng(0).normal(10, 0.01, (2, 500, 8)).astype(np.float32)
  got = batch_measures(h)
  expected = oracle(h.astype(np.float64))
  np.testing.assert_allclose([got[n] for n in batch.NAMES], expected, rtol=0.02)
