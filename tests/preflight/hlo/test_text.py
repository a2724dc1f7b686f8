"""A compiled program's text as data."""

import jax
import jax.numpy as jnp
import pytest

from jssl.preflight.hlo import text

# Written after what the TPU's compiler gives, cut to what is read.
TPU = """HloModule jit_f, is_scheduled=true, input_output_alias={ {0}: (0, {}, \
may-alias), {2}: (3, {}, may-alias) }, entry_computation_layout={()->()}

FileNames
1 "/a/step.py"
2 "/a/loss.py"

FileLocations
1 {file_name_id=1 function_name_id=1 line=72 end_line=72}
2 {file_name_id=2 function_name_id=2 line=9 end_line=9}

StackFrames
1 {file_location_id=1 parent_frame_id=1}
2 {file_location_id=2 parent_frame_id=2}

%condition (p.1: (s32[], f32[8])) -> pred[] {
  %limit = s32[]{:T(128)} constant(7), metadata={op_name="while/cond"}
  %p.1 = (s32[]{:T(128)}, f32[8]{0:T(128)}) parameter(0)
  %i = s32[]{:T(128)} get-tuple-element(%p.1), index=0
  ROOT %lt = pred[]{:T(512)} compare(%i, %limit), direction=LT
}

%body (p.2: (s32[], f32[8])) -> (s32[], f32[8]) {
  ROOT %p.2 = (s32[]{:T(128)}, /*index=1*/f32[8]{0:T(128)}) parameter(0)
}

ENTRY %main (x: f32[8]) -> (f32[3,130]) {
  %x = bf16[3,130]{1,0:T(8,128)(2,1)S(1)} parameter(0)
  %start = (f32[8]{0:T(128)}, f32[8]{0:T(128)S(1)}, u32[]{:S(2)}) \
copy-start(%x), metadata={op_name="jit(f)/mul" stack_frame_id=2}
  %loop = (s32[]{:T(128)}, f32[8]{0:T(128)}) while(%start), \
condition=%condition, body=%body
  ROOT %out = (f32[3,130]{0,1}) tuple(%loop)
}
"""


@pytest.fixture(scope="module")
def module():
  return text.parse(TPU)


def test_instructions_of_each_computation(module):
  assert module.entry == "main"
  assert set(module.computations) == {"main", "body", "condition"}
  assert module.roots == {"main": "out", "body": "p.2", "condition": "lt"}
  assert module.donated == {0, 2}
  assert [(i.name, i.opcode, i.operands) for i in module.computations["main"]] \
    == [
      ("x", "parameter", ()),
      ("start", "copy-start", ("x",)),
      ("loop", "while", ("start",)),
      ("out", "tuple", ("loop",)),
    ]  # fmt: skip


def test_arrays_fill_whole_tiles_of_their_memory(module):
  x, start, loop, out = module.computations["main"]
  # [3, 130] in tiles of [8, 128], two bytes each.
  assert x.arrays == (text.Array("bf16", (3, 130), 8 * 256 * 2, 1),)
  assert [(a.bytes, a.space) for a in start.arrays] == [
    (128 * 4, 0),
    (128 * 4, 1),
    (4, 2),
  ]
  assert [a.dtype for a in loop.arrays] == ["s32", "f32"]
  assert out.arrays == (text.Array("f32", (3, 130), 3 * 130 * 4, 0),)


@pytest.mark.parametrize(
  ("kind", "size"),
  [
    ("pred[5]{0}", 5),
    ("f8e4m3fn[16]{0}", 16),
    ("s4[3]{0}", 2),
    ("c64[2]{0}", 16),
    ("token[]", 0),
    # The tile's last goes over the first of the order: [4, 200] by [2, 128].
    ("f32[200,4]{0,1:T(2,128)}", 4 * 256 * 4),
    ("(f32[2]{0}, (s32[3]{0}, u8[]))", 8),
  ],
)
def test_sizes(kind, size):
  assert text.arrays(kind)[0].bytes == size


def test_places_begin_with_the_innermost(module):
  start = module.computations["main"][1]
  assert start.op_name == "jit(f)/mul"
  assert module.stack(start) == (
    text.Location("/a/loss.py", 9),
    text.Location("/a/step.py", 72),
  )
  assert module.stack(module.computations["main"][0]) == ()


def test_a_text_without_an_entry_is_told():
  with pytest.raises(ValueError, match="no ENTRY"):
    text.parse("HloModule jit_f")


def test_a_program_of_this_machine():
  """What JAX compiles here is read without a line being lost."""

  def function(x, w):
    def body(x, w):
      return jnp.tanh(x @ w), jnp.sum(x)

    x, sums = jax.lax.scan(body, x, w)
    return jnp.sort(x), sums

  x, w = jnp.zeros((8, 16)), jnp.zeros((5, 16, 16))
  compiled = jax.jit(function, donate_argnums=0).lower(x, w).compile()
  module = text.parse(compiled.as_text())
  lines = [
    line
    for line in compiled.as_text().splitlines()
    if line.startswith("  ") and " = " in line
  ]
  assert len(lines) == sum(map(len, module.computations.values()))
  assert module.donated == {0}
  everything = [i for own in module.computations.values() for i in own]
  here = [
    place for instruction in everything for place in module.stack(instruction)
  ]
  assert any(place.file == __file__ for place in here)
