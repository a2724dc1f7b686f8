"""What is sent, and along which axes of the mesh."""

import jax
import jax.numpy as jnp
import pytest
from jax.sharding import AxisType, NamedSharding
from jax.sharding import PartitionSpec as P

from jssl.preflight.hlo import buffers, memory, text
from jssl.preflight.hlo.collectives import (
  Collective,
  by_kind_and_axes,
  collectives,
  mesh_axes,
  network_share,
  replica_groups,
)

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
  return collectives(text.parse(compiled.as_text()), MESH)


@pytest.mark.parametrize(
  ("axes", "members"),
  [(("data",), 4), (("fsdp",), 2), (("data", "fsdp"), 8)],
)
def test_all_reduce(axes, members):
  size = 4 * 4 * 4
  assert sent(lambda x: jax.lax.psum(x, axes)) == [
    Collective(
      "all-reduce", axes, 1, size, round(2 * size * (members - 1) / members)
    )
  ]


def test_all_gather_and_reduce_scatter():
  (gathered,) = sent(
    lambda x: jax.lax.all_gather(x, "fsdp", axis=1, tiled=True),
    out_spec=P("data"),
  )
  assert gathered == Collective("all-gather", ("fsdp",), 1, 128, 64)
  (scattered,) = sent(
    lambda x: jax.lax.psum_scatter(x, "data", tiled=True),
    out_spec=P(("data", "fsdp")),
  )
  assert (scattered.kind, scattered.axes) == ("reduce-scatter", ("data",))
  assert scattered.sent_bytes == 3 * scattered.received_bytes == 3 * 16


def test_loops_count_by_trip():
  to_next = [(i, (i + 1) % 4) for i in range(4)]

  def local(x):
    return jax.lax.fori_loop(
      0, 3, lambda _, x: jax.lax.ppermute(x, "data", to_next), x
    )

  (found,) = sent(local)
  assert found == Collective("collective-permute", ("data",), 3, 3 * 64, 3 * 64)


def test_a_loop_of_unknown_length_counts_once():
  def local(x):
    return jax.lax.while_loop(
      lambda x: jnp.max(x) < 100, lambda x: jax.lax.psum(x, "data"), x
    )

  (found,) = sent(local)
  assert (found.kind, found.axes, found.times) == ("all-reduce", ("data",), 1)


# Of a mesh of 4 x 2, device 2 i + j is at data i, fsdp j.
@pytest.mark.parametrize(
  ("written", "expected", "axes"),
  [
    ("{{0,2,4,6},{1,3,5,7}}", [[0, 2, 4, 6], [1, 3, 5, 7]], ("data",)),
    ("[4,2]<=[8]", [[0, 1], [2, 3], [4, 5], [6, 7]], ("fsdp",)),
    ("[2,4]<=[4,2]T(1,0)", [[0, 2, 4, 6], [1, 3, 5, 7]], ("data",)),
    ("{}", [[*range(8)]], ("data", "fsdp")),
    # Devices as they are in a mesh of other names.
    (
      "mesh['a'=1,'b'=4,'c'=2] {'b'}",
      [[0, 2, 4, 6], [1, 3, 5, 7]],
      ("data",),
    ),
    # Transposed: row b, column c of the mesh is device 2 c + b.
    (
      "mesh['a'=1,'b'=2,'c'=4], device_ids=([4,2]T(1,0)) {'b'}",
      [[0, 1], [2, 3], [4, 5], [6, 7]],
      ("fsdp",),
    ),
    (
      "mesh['a'=1,'b'=2,'c'=4], device_ids=([4,2]T(1,0)) {'a','c'}",
      [[0, 2, 4, 6], [1, 3, 5, 7]],
      ("data",),
    ),
    ("mesh[a=2,b=4], device_ids=(0,2,4,6,1,3,5,7) {a}",
     [[0, 1], [2, 3], [4, 5], [6, 7]], ("fsdp",)),
    # The last two of an axis of 8, after the first four.
    ("mesh['a'=8] {'a':(4)2}", [[0, 1], [2, 3], [4, 5], [6, 7]], ("fsdp",)),
    ("mesh['a'=2,'b'=4] {'a','b'}", [[*range(8)]], ("data", "fsdp")),
  ],
)  # fmt: skip
def test_forms_of_groups(written, expected, axes):
  instruction = text.Instruction(
    "x", "all-reduce", (), (), f", replica_groups={written}, z={{}}"
  )
  found = replica_groups(instruction, 8)
  assert sorted(found) == expected
  assert mesh_axes(found, MESH) == axes


def test_pairs_send_to_each_other():
  instruction = text.Instruction(
    "x", "collective-permute", (), (), ", source_target_pairs={{0,1},{1,0}}"
  )
  assert mesh_axes(replica_groups(instruction, 8), MESH) == ("fsdp",)


@pytest.mark.parametrize(
  ("kind", "groups", "share"),
  [
    # 16 GPUs, 8 a node: each GPU exchanges its eighth of half of it, where a
    # ring sends 15 sixteenths.
    ("all-gather", [range(16)], 1 / 15),
    ("all-reduce", [range(16)], 1 / 15),
    # 8 of 16 parts go to GPUs of the other node.
    ("all-to-all", [range(16)], 8 / 15),
    # Each with one of the other node.
    ("collective-permute", [[i, i + 8] for i in range(8)], 1),
    ("all-reduce", [[i, i + 8] for i in range(8)], 1),
    ("all-gather", [range(8), range(8, 16)], 0),
  ],
)
def test_what_goes_to_other_nodes(kind, groups, share):
  assert network_share(kind, groups, 8) == pytest.approx(share)
  assert network_share(kind, groups, 16) == 0


def test_collectives_of_a_kind_and_axes_are_added_up():
  one, other = (Collective("all-reduce", ("data",), n, 4, 8, 2) for n in (1, 3))
  apart = Collective("all-reduce", ("fsdp",), 1, 1, 1)
  assert by_kind_and_axes([apart, one, other]) == (
    Collective("all-reduce", ("data",), 4, 8, 16, 4, instructions=2),
    apart,
  )


@pytest.mark.parametrize("form", ["maximal_mesh[device_id=3]", "[8]*[2]"])
def test_an_unknown_form_of_groups_is_told(form):
  instruction = text.Instruction(
    "sum", "all-reduce", (), (), f", replica_groups={form}"
  )
  with pytest.raises(ValueError, match=r"sum: unknown format .*; expected"):
    replica_groups(instruction, 8)


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
    Collective("all-gather", ("fsdp",), 1, 32, 16)
  ]


# As TPU's compiler splits a gather over what is computed meanwhile: it is in
# the fusion that starts it, in the one that it goes on beside, and in the one
# that waits for it.
CHAIN = """HloModule m

%start (s: f32[4]) -> (f32[4], f32[8], u32[]) {
  %s = f32[4]{0} parameter(0)
  %g.1 = f32[8]{0} all-gather(%s), channel_id=1, replica_groups=[4,2]<=[8], \
frontend_attributes={chain_id="0"}
  ROOT %c = (f32[4]{0}, f32[8]{0}, u32[]{:S(2)}) custom-call(%g.1), \
custom_call_target="AsyncCollectiveStart"
}

%beside (p: f32[4], q: f32[8], r: u32[], y: f32[4]) -> (f32[4], f32[4], f32[8],\
 f32[8], u32[]) {
  %y = f32[4]{0} parameter(3)
  %n = f32[4]{0} negate(%y)
  %p = f32[4]{0} parameter(0)
  %q = f32[8]{0} parameter(1)
  %g.2 = f32[8]{0} all-gather(%p), channel_id=1, replica_groups=[4,2]<=[8], \
frontend_attributes={chain_id="0"}
  %r = u32[]{:S(2)} parameter(2)
  ROOT %t = (f32[4]{0}, f32[4]{0}, f32[8]{0}, f32[8]{0}, u32[]{:S(2)}) \
tuple(%n, %p, %q, %g.2, %r)
}

%done (a: f32[4], b: f32[8], d: u32[]) -> f32[8] {
  %a = f32[4]{0} parameter(0)
  %b = f32[8]{0} parameter(1)
  %g.3 = f32[8]{0} all-gather(%a), channel_id=1, replica_groups=[4,2]<=[8], \
frontend_attributes={chain_id="0"}
  %d = u32[]{:S(2)} parameter(2)
  ROOT %e = f32[8]{0} custom-call(%a, %b, %g.3, %d), \
custom_call_target="AsyncCollectiveDone"
}

ENTRY %main (x: f32[4]) -> f32[8] {
  %x = f32[4]{0} parameter(0)
  %f.1 = (f32[4]{0}, f32[8]{0}, u32[]{:S(2)}) fusion(%x), kind=kCustom, \
output_to_operand_aliasing={{0}: (0, {})}, calls=%start
  %i = f32[4]{0} get-tuple-element(%f.1), index=0
  %j = f32[8]{0} get-tuple-element(%f.1), index=1
  %k = u32[]{:S(2)} get-tuple-element(%f.1), index=2
  %f.2 = (f32[4]{0}, f32[4]{0}, f32[8]{0}, f32[8]{0}, u32[]{:S(2)}) \
fusion(%i, %j, %k, %x), kind=kOutput, output_to_operand_aliasing={{1}: (0, {}),\
 {2}: (1, {}), {3}: (1, {}), {4}: (2, {})}, calls=%beside
  %l = f32[4]{0} get-tuple-element(%f.2), index=1
  %o = f32[8]{0} get-tuple-element(%f.2), index=2
  %u = u32[]{:S(2)} get-tuple-element(%f.2), index=4
  %v = f32[8]{0} fusion(%l, %o, %u), kind=kCustom, \
output_to_operand_aliasing={{}: (1, {})}, calls=%done
  %h.1 = f32[8]{0} collective-permute(%v), channel_id=1, \
source_target_pairs={{0,1},{1,0}}
  ROOT %h.2 = f32[8]{0} collective-permute(%h.1), channel_id=1, \
source_target_pairs={{0,1},{1,0}}
}
"""


def test_a_collective_that_others_carry_along_counts_once():
  # What shards send in one `shard_map` shares a channel, and is not a chain.
  permute = Collective("collective-permute", ("fsdp",), 1, 32, 32)
  assert collectives(text.parse(CHAIN), MESH) == [
    Collective("all-gather", ("fsdp",), 1, 32, 16),
    permute,
    permute,
  ]


def test_what_is_carried_along_is_moved_once():
  accesses = buffers.accesses(text.parse(CHAIN))
  moved = {name: access.total for name, access in accesses.items()}
  assert moved["f.1"] == 16 + 32
  # The negation beside it alone.
  assert moved["f.2"] == 16 + 16
  assert moved["v"] == 0
  # The gather's result is there once; the other is what is made of it.
  live = memory.live_at_peak(text.parse(CHAIN))
  assert [b.array.bytes for b in live] == [32, 32]


def test_an_all_reduce_of_which_parts_are_kept_is_a_reduce_scatter():
  program = """HloModule m

%parts (g: f32[64], h: f32[8]) -> (f32[32], f32[4]) {
  %g = f32[64]{0} parameter(0)
  %h = f32[8]{0} parameter(1)
  %zero = s32[] constant(0)
  %sum = (f32[64]{0}, f32[8]{0}) all-reduce(%g, %h), replica_groups=[4,2]<=[8]
  %i = f32[64]{0} get-tuple-element(%sum), index=0
  %j = f32[8]{0} get-tuple-element(%sum), index=1
  %a = f32[32]{0} dynamic-slice(%i, %zero), dynamic_slice_sizes={32}
  %b = f32[4]{0} dynamic-slice(%j, %zero), dynamic_slice_sizes={4}
  ROOT %t = (f32[32]{0}, f32[4]{0}) tuple(%a, %b)
}

ENTRY %main (x: f32[64], y: f32[8]) -> (f32[32], f32[4]) {
  %x = f32[64]{0} parameter(0)
  %y = f32[8]{0} parameter(1)
  ROOT %f = (f32[32]{0}, f32[4]{0}) fusion(%x, %y), kind=kCustom, calls=%parts
}
"""
  size = 4 * (32 + 4)
  assert collectives(text.parse(program), MESH) == [
    Collective("reduce-scatter", ("fsdp",), 1, size, size)
  ]


def test_of_branches_the_one_that_sends_least():
  def local(x):
    def much(x):
      return jax.lax.psum(jax.lax.psum(x, "fsdp"), "data")

    def little(x):
      return jax.lax.ppermute(x, "data", [(i, (i + 1) % 4) for i in range(4)])

    return jax.lax.cond(jnp.sum(x) > 0, much, little, x)

  kinds = [one.kind for one in sent(local)]
  # The condition differs by device, so both may run: what one alone sends.
  assert kinds == ["collective-permute"]
