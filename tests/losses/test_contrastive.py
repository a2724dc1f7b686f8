import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax.sharding import AxisType, NamedSharding
from jax.sharding import PartitionSpec as P
from oracles import losses as oracles

from jssl import losses


def projections(b=6, d=5, dtype=np.float64, seed=0):
  z = np.random.default_rng(seed).normal(size=(2, b, d))
  return z.astype(dtype)


def loss(z1, z2, temperature=0.1):
  return losses.nt_xent(z1, z2, temperature=temperature)


@pytest.mark.parametrize("temperature", [0.01, 0.1, 1.0])
@pytest.mark.parametrize("b", [2, 7])
def test_equals_the_papers_sum(x64, temperature, b):
  z1, z2 = projections(b)
  expected = oracles.nt_xent(z1, z2, temperature)
  assert loss(z1, z2, temperature).dtype == jnp.float64
  np.testing.assert_allclose(loss(z1, z2, temperature), expected, rtol=1e-12)


def test_float32_is_close_to_the_oracle():
  z1, z2 = projections(64, 32)
  expected = oracles.nt_xent(z1, z2, 0.1)
  got = loss(z1.astype(np.float32), z2.astype(np.float32))
  assert got.dtype == jnp.float32
  assert abs(got - expected) <= 1e-6 * max(1, abs(expected), 1 / 0.1)


def test_bfloat16_inputs_are_computed_in_float32():
  z1, z2 = (jnp.asarray(z, jnp.bfloat16) for z in projections(64, 32))
  expected = oracles.nt_xent(
    np.asarray(z1, np.float64), np.asarray(z2, np.float64), 0.1
  )
  got = loss(z1, z2)
  assert got.dtype == jnp.float32
  np.testing.assert_allclose(got, expected, rtol=1e-4)


def test_gradient_equals_finite_differences(x64):
  z = jnp.asarray(projections(3, 4))
  gradient = jax.grad(lambda z: loss(z[0], z[1], 0.3))(z)
  eps = 1e-6
  for index in np.ndindex(*z.shape):
    up = loss(*z.at[index].add(eps), 0.3)
    down = loss(*z.at[index].add(-eps), 0.3)
    np.testing.assert_allclose(
      gradient[index], (up - down) / (2 * eps), rtol=1e-6, atol=1e-9
    )


@pytest.mark.parametrize("dtype", [jnp.float32, jnp.bfloat16])
@pytest.mark.parametrize("fill", [0.0, 1.0])
def test_collapse_has_its_value_and_a_finite_gradient(dtype, fill):
  z = jnp.full((2, 8, 4), fill, dtype)
  value, gradient = jax.value_and_grad(lambda z: loss(z[0], z[1], 0.01))(z)
  np.testing.assert_allclose(value, np.log(15), rtol=1e-4)
  assert jnp.all(jnp.isfinite(gradient))


def test_optimum_with_orthogonal_negatives():
  z = jnp.eye(4)
  np.testing.assert_allclose(
    loss(z, z, 0.5), np.log(1 + 6 * np.exp(-2)), rtol=1e-6
  )


def test_ignores_scale_view_order_and_row_order():
  z1, z2 = projections(dtype=np.float32)
  scale = np.linspace(0.1, 9, 6, dtype=np.float32)[:, None]
  order = np.random.default_rng(1).permutation(6)
  value = loss(z1, z2)
  np.testing.assert_allclose(loss(z1 * scale, z2), value, rtol=1e-6)
  np.testing.assert_allclose(loss(z2, z1), value, rtol=1e-6)
  np.testing.assert_allclose(loss(z1[order], z2[order]), value, rtol=1e-6)


@pytest.mark.parametrize("axis_type", [AxisType.Auto])
@pytest.mark.parametrize("spec", [P("a"), P("b"), P(("a", "b"))])
def test_sharded_equals_one_device(x64, spec, axis_type):
  mesh = jax.make_mesh((2, 4), ("a", "b"), axis_types=(axis_type,) * 2)
  z = projections(16, 8)
  both = jax.jit(jax.value_and_grad(lambda z1, z2: loss(z1, z2), (0, 1)))
  expected = both(*z)
  got = both(*jax.device_put(tuple(z), NamedSharding(mesh, spec)))
  for x, y in zip(jax.tree.leaves(expected), jax.tree.leaves(got), strict=True):
    np.testing.assert_allclose(y, x, rtol=1e-12, atol=1e-14)


@pytest.mark.parametrize(
  ("z1", "z2", "temperature", "error", "match"),
  [
    ((4, 3), (5, 3), 0.1, ValueError, "one shape"),
    ((4, 3), (4, 3, 1), 0.1, ValueError, r"z2 must be of shape \[b, d\]"),
    ((1, 3), (1, 3), 0.1, ValueError, "b >= 2"),
    ((4, 3), (4, 3), 0.0, ValueError, "temperature must be positive, got 0"),
  ],
)
def test_bad_input_is_named(z1, z2, temperature, error, match):
  with pytest.raises(error, match=match):
    loss(jnp.zeros(z1), jnp.zeros(z2), temperature)


def test_integers_are_refused():
  with pytest.raises(TypeError, match="z1 must be of a floating dtype"):
    loss(jnp.zeros((4, 3), int), jnp.zeros((4, 3)))
