"""Counts of a program's products and collectives, by trip of its loops."""

import jax
import jax.numpy as jnp
from jax.sharding import AxisType, NamedSharding
from jax.sharding import PartitionSpec as P

from jssl.preflight import cost
from jssl.runtime.flops import product_flops


def flops(function, *args):
  return product_flops(jax.jit(function).trace(*args).jaxpr.jaxpr)


def collectives(function, *args):
  compiled = jax.jit(function).lower(*args).compile()
  return cost.collectives(compiled.as_text(), 8)


def test_products_in_loops_count_by_trip():
  def function(x, w):
    x = x @ w
    return jax.lax.fori_loop(0, 5, lambda _, x: x @ w, x)

  x, w = jnp.zeros((4, 8)), jnp.zeros((8, 8))
  assert flops(function, x, w) == 6 * 2 * 4 * 8 * 8
  assert collectives(function, x, w) == {}


def test_collectives_in_loops_count_by_trip():
  mesh = jax.make_mesh((8,), ("a",), axis_types=(AxisType.Auto,))
  to_next = [(i, (i + 1) % 8) for i in range(8)]

  def local(x):
    x = jax.lax.fori_loop(
      0, 3, lambda _, x: jax.lax.ppermute(x, "a", to_next), x
    )
    return jax.lax.all_gather(x, "a", tiled=True)

  function = jax.shard_map(
    local, mesh=mesh, in_specs=P("a"), out_specs=P(), check_vma=False
  )
  x = jax.ShapeDtypeStruct(
    (16, 4), jnp.float32, sharding=NamedSharding(mesh, P("a"))
  )
  assert collectives(function, x) == {
    "collective-permute": 3 * 2 * 4 * 4,
    "all-gather": 16 * 4 * 4,
  }


def test_convolutions_and_their_gradients_count():
  """Forward, by input and by weights: each the products of the forward."""

  def function(x, w):
    y = jax.lax.conv_general_dilated(
      x, w, (2, 2), "SAME", dimension_numbers=("NHWC", "HWIO", "NHWC")
    )
    return jnp.sum(y**2)

  x, w = jnp.zeros((4, 8, 8, 3)), jnp.zeros((3, 3, 3, 5))
  forward = 2 * 4 * 4 * 4 * 5 * 3 * 3 * 3
  assert flops(function, x, w) == forward
  gradients = jax.value_and_grad(function, argnums=(0, 1))
  # Those at the edges meet padding, and how much of it differs by a little.
  assert 2.5 * forward < flops(gradients, x, w) < 4 * forward


def test_grouped_convolutions_count_each_group():
  """Of 32 groups, 2 channels in and 2 out each."""

  def function(x, w):
    return jax.lax.conv_general_dilated(
      x, w, (1, 1), "SAME", dimension_numbers=("NHWC", "HWIO", "NHWC"),
      feature_group_count=32,
    )  # fmt: skip

  x, w = jnp.zeros((4, 8, 8, 64)), jnp.zeros((3, 3, 2, 64))
  forward = 2 * (4 * 8 * 8 * 64) * (3 * 3 * 2)

  assert flops(function, x, w) == forward
  # By input and by weights: the same products, from either side.
  y, pullback = jax.vjp(function, x, w)
  assert flops(pullback, y) == 2 * forward


def test_of_branches_the_cheapest_counts():
  def function(x, w):
    return jax.lax.cond(jnp.sum(x) > 0, lambda x: x @ w @ w, lambda x: x, x @ w)

  x = jnp.zeros((8, 8))
  assert flops(function, x, x) == 2 * 8**3


def test_a_loop_of_unknown_length_counts_once():
  def function(x, w):
    return jax.lax.while_loop(lambda x: jnp.sum(x) < 1, lambda x: x @ w, x)

  x = jnp.zeros((8, 8))
  assert flops(function, x, x) == 2 * 8**3
