"""Counts of a program's products and collectives, by trip of its loops."""

import jax
import jax.numpy as jnp
from jax.sharding import AxisType, NamedSharding
from jax.sharding import PartitionSpec as P

from jssl import cost


def test_products_in_loops_count_by_trip():
  def function(x, w):
    x = x @ w
    return jax.lax.fori_loop(0, 5, lambda _, x: x @ w, x)

  x, w = jnp.zeros((4, 8)), jnp.zeros((8, 8))
  needs = cost.compile_cost(function, x, w)
  assert needs.product_flops == 6 * 2 * 4 * 8 * 8
  assert needs.collectives == {}
  assert needs.output_bytes == 4 * 8 * 4


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
  assert cost.compile_cost(function, x).collectives == {
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
  needs = cost.compile_cost(function, x, w)
  assert needs.product_flops == forward
  needs = cost.compile_cost(jax.value_and_grad(function, argnums=(0, 1)), x, w)
  # Those at the edges meet padding, and how much of it differs by a little.
  assert 2.5 * forward < needs.product_flops < 4 * forward
