"""Counts of a program's products and collectives, by trip of its loops."""

import jax
import jax.numpy as jnp
import pytest
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


def test_an_unknown_target_is_named():
  with pytest.raises(ValueError, match="target='v99:2x4': expected a TPU"):
    cost.devices("v99:2x4")
