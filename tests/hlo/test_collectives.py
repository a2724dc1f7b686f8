"""What is sent, and along which axes of the mesh."""

import jax
import jax.numpy as jnp
import pytest
from jax.sharding import AxisType, NamedSharding
from jax.sharding import PartitionSpec as P

from jssl.hlo import text
from jssl.hlo.collectives import Collective, _axes, _groups, collectives

MESH = {"data": 4, "fsdp": 2}


SPLIT = P("data", "fsdp")


def sent(local, out_spec=SPLIT):
  """Returns the collectives of a function of a device's part of [16, 8]."""
  mesh = jax.make_mesh((4, 2), tuple(MESH), axis_types=(AxisType.Auto,) * 2)
  function = jax.shard_map(
    local, mesh=mesh, in_specs=SPLIT, out_specs=out_spec, check_vma=False
  )
  x = jax.ShapeDtypeStruct(
    (16, 8), jnp.float32, sharding=NamedSharding(mesh, SPLIT)
  )
  compiled = jax.jit(function).lower(x).compile()
  found = collectives(text.parse(compiled.as_text()), MESH)
  assert all(one.place is None or one.place.line for one in found)
  return [one._replace(place=None) for one in found]


@pytest.mark.parametrize(
  ("axes", "members"),
  [(("data",), 4), (("fsdp",), 2), (("data", "fsdp"), 8)],
)
def test_all_reduce(axes, members):
  size = 4 * 4 * 4
  assert sent(lambda x: jax.lax.psum(x, axes)) == [
    Collective(
      "all-reduce", axes, 1, size, round(2 * size * (members - 1) / members),
      None,
    )
  ]  # fmt: skip


def test_all_gather_and_reduce_scatter():
  (gathered,) = sent(
    lambda x: jax.lax.all_gather(x, "fsdp", axis=1, tiled=True),
    out_spec=P("data"),
  )
  assert gathered == Collective("all-gather", ("fsdp",), 1, 128, 64, None)
  (scattered,) = sent(
    lambda x: jax.lax.psum_scatter(x, "data", tiled=True),
    out_spec=P(("data", "fsdp")),
  )
  assert (scattered.kind, scattered.axes) == ("reduce-scatter", ("data",))
  assert scattered.sent_bytes == 3 * scattered.result_bytes == 3 * 16


def test_loops_count_by_trip():
  to_next = [(i, (i + 1) % 4) for i in range(4)]

  def local(x):
    return jax.lax.fori_loop(
      0, 3, lambda _, x: jax.lax.ppermute(x, "data", to_next), x
    )

  (found,) = sent(local)
  assert found == Collective("collective-permute", ("data",), 3, 64, 64, None)


def test_a_loop_of_unknown_length_is_told():
  def local(x):
    return jax.lax.while_loop(
      lambda x: jnp.max(x) < 100, lambda x: jax.lax.psum(x, "data"), x
    )

  with pytest.raises(ValueError, match="doesn't say how often"):
    sent(local)


@pytest.mark.parametrize(
  ("groups", "axes"),
  [
    ("replica_groups={{0,2,4,6},{1,3,5,7}}", ("data",)),
    ("replica_groups=[4,2]<=[8]", ("fsdp",)),
    ("replica_groups=[2,4]<=[4,2]T(1,0)", ("data",)),
    ("replica_groups={}", ("data", "fsdp")),
    ("source_target_pairs={{0,1},{1,0}}", ("fsdp",)),
  ],
)
def test_forms_of_groups(groups, axes):
  instruction = text.Instruction(
    "x", "all-reduce", (), (), f", {groups}, z={{}}"
  )
  assert _axes(_groups(instruction, 8), MESH) == axes


# As TPU's compiler writes the sum of a gradient that is split over one axis and
# summed over slices: within a slice first, then from slice to slice.
SLICES = """HloModule m

%all-reduce-scatter (g: f32[64]) -> f32[32] {
  %g = f32[64]{0} parameter(0)
  %zero = s32[] constant(0)
  %sum = f32[64]{0} all-reduce(%g), replica_groups={{0,1},{2,3}}, to_apply=%add
  ROOT %part = f32[32]{0} dynamic-slice(%sum, %zero), dynamic_slice_sizes={32}
}

ENTRY %main (x: f32[64]) -> f32[16] {
  %x = f32[64]{0} parameter(0)
  %f = f32[32]{0} fusion(%x), kind=kCustom, calls=%all-reduce-scatter
  %r = f32[16]{0} reduce-scatter(%f), replica_groups={{0,2},{1,3}}
  %token = token[] after-all()
  %send = (f32[16]{0}, u32[], token[]) send(%r, %token), \
frontend_attributes={_xla_host_transfer_handler_name="xla_megascale_runtime"}
  %recv = (f32[16]{0}, u32[], token[]) recv(%token), \
frontend_attributes={_xla_host_transfer_handler_name="xla_megascale_runtime"}
  %done = (f32[16]{0}, token[]) recv-done(%recv)
  ROOT %out = f32[16]{0} get-tuple-element(%done), index=0
}
"""


def test_between_slices_and_a_sum_of_which_a_part_is_kept():
  found = collectives(text.parse(SLICES), {"data": 2, "fsdp": 2})
  assert [one[:5] for one in found] == [
    ("reduce-scatter", ("fsdp",), 1, 128, 128),
    ("reduce-scatter", ("data",), 1, 64, 64),
    ("send", (), 1, 64, 64),
  ]


def test_the_start_of_a_pair_counts_its_results():
  program = """HloModule m

ENTRY %main (x: f32[4]) -> f32[8] {
  %x = f32[4]{0} parameter(0)
  %s = (f32[4]{0}, f32[8]{0}) all-gather-start(%x), replica_groups=[4,2]<=[8]
  ROOT %d = f32[8]{0} all-gather-done(%s)
}
"""
  assert collectives(text.parse(program), MESH) == [
    Collective("all-gather", ("fsdp",), 1, 32, 16, None)
  ]
