import functools
import re

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax.sharding import AxisType, NamedSharding
from jax.sharding import PartitionSpec as P

from jssl.models.norm import BatchNorm, statistics

EPSILON, MOMENTUM = 1e-5, 0.99


def images(*shape, seed=0):
  return np.random.default_rng(seed).normal(1.0, 2.0, shape)


def variables_for(x, seed=3):
  draw = np.random.default_rng(seed)
  d = x.shape[-1]
  return {
    "params": {"scale": draw.normal(size=d), "bias": draw.normal(size=d)},
    "batch_stats": {"mean": draw.normal(size=d), "var": draw.random(d) + 0.5},
  }


def oracle(x, variables, groups):
  """Normalised groups and updated running averages, by loops."""
  scale, bias = (variables["params"][k] for k in ("scale", "bias"))
  y, means, variances = [], [], []
  for part in np.split(np.asarray(x, np.float64), groups):
    rows = part.reshape(-1, part.shape[-1])
    means.append(sum(rows) / len(rows))
    variances.append(sum((row - means[-1]) ** 2 for row in rows) / len(rows))
    unit = (part - means[-1]) / np.sqrt(variances[-1] + EPSILON)
    y.append(unit * scale + bias)
  old = variables["batch_stats"]
  after = {
    "mean": MOMENTUM * old["mean"] + (1 - MOMENTUM) * np.mean(means, 0),
    "var": MOMENTUM * old["var"] + (1 - MOMENTUM) * np.mean(variances, 0),
  }
  return np.concatenate(y), after


@pytest.mark.usefixtures("x64")
@pytest.mark.parametrize(
  ("shape", "groups"), [((12, 3, 2, 5), 1), ((12, 3, 2, 5), 3), ((12, 5), 4)]
)
def test_groups_are_normalised_separately(shape, groups):
  x = images(*shape)
  variables = variables_for(x)
  norm = BatchNorm(False, groups)
  y, after = jax.jit(lambda x: norm.apply(variables, x, mutable=True))(x)
  expected, averages = oracle(x, variables, groups)
  np.testing.assert_allclose(y, expected, rtol=1e-9, atol=1e-9)
  for name, average in averages.items():
    np.testing.assert_allclose(
      after["batch_stats"][name], average, rtol=1e-9, err_msg=name
    )


@pytest.mark.parametrize(
  ("dtype", "x_dtype"),
  [(None, jnp.float32), (jnp.float32, jnp.bfloat16), (jnp.bfloat16,) * 2],
)
def test_one_group_is_the_norm_of_flax(dtype, x_dtype):
  """Float32 in two passes, 16 bits in one."""
  x = jnp.asarray(images(6, 3, 2, 5), x_dtype)
  weights = jnp.asarray(images(6, 3, 2, 5, seed=1), jnp.float32)
  results, structures = [], []
  one_pass = x_dtype == jnp.bfloat16
  flax = functools.partial(nn.BatchNorm, use_fast_variance=one_pass)
  for module in (BatchNorm, flax):
    norm = module(use_running_average=False, dtype=dtype)
    structures.append(
      jax.eval_shape(lambda norm=norm: norm.init(jax.random.key(0), x))
    )
    variables = jax.tree.map(jnp.float32, variables_for(x))

    def loss(params, x, norm=norm, variables=variables):
      y, after = norm.apply(
        {**variables, "params": params}, x, mutable=["batch_stats"]
      )
      return (weights * jnp.sin(y)).sum(), (y, after)

    results.append(
      jax.jit(jax.value_and_grad(loss, (0, 1), has_aux=True))(
        variables["params"], x
      )
    )
  assert structures[0] == structures[1]
  (ours, gradients), (theirs, expected) = results
  for a, b in zip(*map(jax.tree.leaves, (ours, theirs)), strict=True):
    assert a.dtype == b.dtype
    np.testing.assert_array_equal(a, b)
  # The gradient through the mean of the variance is zero up to rounding.
  tolerance = 1e-2 if x_dtype == jnp.bfloat16 else 1e-5
  for a, b in zip(*map(jax.tree.leaves, (gradients, expected)), strict=True):
    assert a.dtype == b.dtype
    np.testing.assert_allclose(
      np.float64(a), np.float64(b), rtol=tolerance, atol=tolerance
    )


@pytest.mark.parametrize("devices", [1, 8])
@pytest.mark.parametrize("groups", [1, 8])
def test_a_large_mean_does_not_cancel(groups, devices):
  x = 10 + 0.01 * np.random.default_rng(0).normal(size=(256, 4, 6))
  x = x.astype(np.float32)
  norm = BatchNorm(False, groups, epsilon=1e-12)
  variables = norm.init(jax.random.key(0), x)
  apply = jax.jit(lambda x: norm.apply(variables, x, mutable=True)[0])
  mesh = jax.make_mesh((devices,), ("data",), axis_types=(AxisType.Auto,))
  y = apply(jax.device_put(x, NamedSharding(mesh, P("data"))))
  for part in np.split(np.asarray(y, np.float64), groups):
    np.testing.assert_allclose(part.std((0, 1)), 1, rtol=0.02)
    np.testing.assert_allclose(part.mean((0, 1)), 0, atol=0.02)


def test_a_mean_that_bfloat16_resolves_does_not_cancel():
  """One pass is as exact as the rounding of its input."""
  x = jnp.asarray(
    1 + 0.005 * np.random.default_rng(0).normal(size=(4096, 6)), jnp.bfloat16
  )
  mean, variance = statistics(x, jnp.dtype(jnp.float32))
  exact = np.asarray(x, np.float64)
  np.testing.assert_allclose(mean, exact.mean(0), rtol=1e-6)
  # 2^-24 times the squared ratio of 200, for a few roundings.
  np.testing.assert_allclose(variance, exact.var(0), rtol=4 * 200**2 / 2**24)


@pytest.mark.parametrize(
  ("dtype", "more"), [(np.float32, 1), (jnp.bfloat16, 0)]
)
def test_only_the_second_pass_adds_a_collective(dtype, more):
  mesh = jax.make_mesh((8,), ("data",), axis_types=(AxisType.Auto,))
  rows = NamedSharding(mesh, P("data"))
  x = images(32, 3).astype(dtype)

  def collectives(norm):
    variables = norm.init(jax.random.key(0), x)

    def loss(x):
      y, _ = norm.apply(variables, x, mutable=["batch_stats"])
      return jnp.sum(jnp.sin(y) * x)

    compiled = jax.jit(jax.grad(loss), in_shardings=rows).lower(x).compile()
    return len(re.findall(r" all-reduce(?:-start)?\(", compiled.as_text()))

  fast = collectives(nn.BatchNorm(False))
  assert collectives(BatchNorm(False)) == fast + more


def test_groups_have_no_effect_in_evaluation_and_init():
  x = images(5, 2, 2, 3).astype(np.float32)
  variables = jax.tree.map(jnp.float32, variables_for(x))
  y = BatchNorm(True, groups=4).apply(variables, x)
  expected = nn.BatchNorm(True).apply(variables, x)
  np.testing.assert_array_equal(y, expected)
  started = BatchNorm(False, groups=4).init(jax.random.key(0), x)
  np.testing.assert_array_equal(started["batch_stats"]["mean"], np.zeros(3))


@pytest.mark.parametrize(("groups", "alone"), [(1, False), (16, True)])
def test_groups_within_devices_need_no_collective(groups, alone):
  mesh = jax.make_mesh((8,), ("data",), axis_types=(AxisType.Auto,))
  rows = NamedSharding(mesh, P("data"))
  x = images(32, 2, 2, 3).astype(np.float32)
  variables = jax.tree.map(jnp.float32, variables_for(x))
  norm = BatchNorm(False, groups)

  def gradient(x):
    def loss(x):
      return jnp.sin(norm.apply(variables, x, mutable=["batch_stats"])[0])

    y, pull = jax.vjp(loss, x)
    return y, pull(y)[0]

  sharded = jax.jit(gradient, in_shardings=rows, out_shardings=(rows, rows))
  compiled = sharded.lower(x).compile()
  text = compiled.as_text()
  kinds = ("all-reduce", "all-gather", "all-to-all", "collective-permute")
  assert any(kind in text for kind in kinds) != alone
  # The sharded result equals that of one device.
  for a, b in zip(
    compiled(jax.device_put(x, rows)), jax.jit(gradient)(x), strict=True
  ):
    np.testing.assert_allclose(a, b, rtol=1e-4, atol=1e-4)


def test_rows_that_do_not_divide_are_errors():
  x = images(10, 3).astype(np.float32)
  variables = jax.tree.map(jnp.float32, variables_for(x))
  with pytest.raises(ValueError, match=r"model.norm_groups=4 .* 10 rows"):
    BatchNorm(False, 4).apply(variables, x, mutable=["batch_stats"])


def test_running_averages_keep_their_dtype(x64):
  norm = BatchNorm(False)
  x = jnp.asarray(np.random.default_rng(0).normal(size=(8, 3)))
  variables = norm.init(jax.random.key(0), x)
  y, updated = norm.apply(variables, x, mutable=["batch_stats"])
  assert y.dtype == jnp.float64
  before, after = variables["batch_stats"], updated["batch_stats"]
  assert jax.tree.map(lambda leaf: leaf.dtype, before) == jax.tree.map(
    lambda leaf: leaf.dtype, after
  )
