"""What fills the memory, and what is moved, of programs that are known."""

import jax
import jax.numpy as jnp

from jssl.preflight.hlo import buffers, memory, text

# Two temporaries that live together, then one alone.
PROGRAM = """HloModule m, input_output_alias={ {0}: (0, {}, may-alias) }

FileNames
1 "/a/one.py"

FileLocations
1 {file_name_id=1 function_name_id=1 line=5 end_line=5}

StackFrames
1 {file_location_id=1 parent_frame_id=1}

ENTRY %main (x: f32[100]) -> (f32[100]) {
  %x = f32[100]{0} parameter(0)
  %a = f32[1000]{0} broadcast(%x), metadata={op_name="a" stack_frame_id=1}
  %b = f32[500]{0} slice(%a), metadata={op_name="b" stack_frame_id=1}
  %v = f32[1000]{0} bitcast(%a)
  %chip = f32[9999]{0:T(8)S(1)} broadcast(%b)
  %c = f32[200]{0} add(%v, %b), metadata={op_name="c"}
  %d = f32[300]{0} add(%c, %c)
  %e = f32[100]{0} slice(%d)
  ROOT %out = (f32[100]{0}) tuple(%e)
}
"""


def test_the_fullest_moment_of_a_schedule():
  live = memory.live_at_peak(text.parse(PROGRAM), "/a")
  assert [(b.op_name, b.array.bytes) for b in live] == [
    ("a", 4000),
    ("b", 2000),
    ("c", 800),
  ]
  ours, other = memory.by_line(live)
  assert (ours.location, ours.bytes, len(ours.buffers)) == (
    text.Location("/a/one.py", 5), 6000, 2,
  )  # fmt: skip
  assert (other.location, other.bytes) == (None, 800)


def test_donated_results_are_in_their_argument():
  kept = PROGRAM.replace("{0}: (0, {}, may-alias)", "")
  for program, has_e in ((PROGRAM, False), (kept, True)):
    program = program.replace("f32[300]", "f32[3000]")
    module = text.parse(program.replace("f32[200]", "f32[50]"))
    shapes = [b.array.shape for b in memory.live_at_peak(module)]
    assert shapes == [(3000,), (100,) if has_e else (50,)]


def test_a_copy_is_named_by_what_it_copies():
  program = PROGRAM.replace(
    "  %v = f32[1000]{0} bitcast(%a)",
    "  %s = (f32[1000]{0}, f32[1000]{0}, u32[]) copy-start(%a)\n"
    "  %v = f32[1000]{0} copy-done(%s)",
  )
  (ours,) = memory.by_line(memory.live_at_peak(text.parse(program), "/a"))
  assert [b.op_name for b in ours.buffers] == ["a", "a", "b"]


def test_a_loops_inside_counts_at_its_fullest():
  def function(x):
    def body(_, x):
      wide = jnp.sort(jnp.outer(x, x), axis=0)
      return jnp.sum(jnp.sort(wide, axis=1), axis=0)

    return jax.lax.fori_loop(0, 4, body, x)

  n = 256
  compiled = jax.jit(function).lower(jnp.zeros(n)).compile()
  live = memory.live_at_peak(text.parse(compiled.as_text()))
  total = sum(b.array.bytes for b in live)
  stats = compiled.memory_analysis()
  assert 4 * n * n <= total
  assert total <= 3 * stats.temp_size_in_bytes


def test_what_operations_move():
  moved = buffers.hbm_bytes(text.parse(PROGRAM))
  # By slices what comes out, twice.
  a, b, c, d, e = 400 + 4000, 2 * 2000, 4000 + 2000 + 800, 2 * 800 + 1200, 800
  chip = 2000
  assert moved == a + b + chip + c + d + e


def test_traffic_by_source_line():
  ours, other = buffers.traffic_by_line(text.parse(PROGRAM), "/a")
  # `chip` has no name, and counts for `b`, which it reads.
  assert ours == buffers.LineTraffic(
    text.Location("/a/one.py", 5),
    read=400 + 2 * 2000,
    written=4000 + 2000,
    op_name="a",
  )
  assert other.location is None
  assert ours.read + ours.written + other.read + other.written == (
    buffers.hbm_bytes(text.parse(PROGRAM))
  )


def test_parts_of_an_operand_are_read_once():
  program = """HloModule m

ENTRY %main (x: f32[300]) -> f32[100] {
  %x = f32[300]{0} parameter(0)
  ROOT %out = f32[100]{0} custom-call(%x, %x, %x), metadata={op_name="NAME"}
}
"""
  attention = program.replace("NAME", "jit(f)/attention_forward/pallas_call")
  assert buffers.hbm_bytes(text.parse(attention)) == 1200 + 400
  # Other kernels read each operand.
  assert buffers.hbm_bytes(text.parse(program)) == 3 * 1200 + 400


def test_a_loop_over_stacked_weights_reads_each_once():
  def function(x, w):
    return jax.lax.scan(lambda x, w: (jnp.tanh(x @ w), None), x, w)[0]

  layers, n, d = 16, 8, 128
  x = jnp.zeros((n, d))
  w = jnp.zeros((layers, d, d))
  compiled = jax.jit(function).lower(x, w).compile()
  moved = buffers.hbm_bytes(text.parse(compiled.as_text()))
  once = 4 * layers * d * d
  # Cut out of the stack, written, read again.
  assert once <= moved < 4.5 * once


# A loop's body as TPU's compiler fuses it: two stacks that are changed in place
# and one that is passed on, a piece cut out of another behind a bitcast.
FUSED = """HloModule m

%change (a: f32[100,10], b: f32[10,100], c: f32[50], u: f32[1,10], i: s32[]) \
-> (f32[100,10], f32[100,10], f32[50], f32[1,10]) {
  %a = f32[100,10]{1,0} parameter(0)
  %b = f32[10,100]{1,0} parameter(1)
  %c = f32[50]{0} parameter(2)
  %u = f32[1,10]{1,0} parameter(3)
  %i = s32[] parameter(4)
  %z = s32[] constant(0)
  %d = f32[100,10]{1,0} dynamic-update-slice(%a, %u, %i, %z)
  %e = f32[100,10]{1,0} bitcast(%b)
  %f = f32[100,10]{1,0} dynamic-update-slice(%e, %u, %i, %z)
  %g = f32[100,10]{1,0} dynamic-update-slice(%f, %u, %z, %z)
  %n = f32[1,10]{1,0} negate(%u)
  ROOT %t = (f32[100,10]{1,0}, f32[100,10]{1,0}, f32[50]{0}, f32[1,10]{1,0}) \
tuple(%d, %g, %c, %n)
}

%inner (k: f32[100,10], j: s32[]) -> f32[1,10] {
  %k = f32[100,10]{1,0} parameter(0)
  %j = s32[] parameter(1)
  %y = s32[] constant(0)
  %l = f32[100,10]{1,0} bitcast(%k)
  ROOT %m = f32[1,10]{1,0} dynamic-slice(%l, %j, %y), dynamic_slice_sizes={1,10}
}

%cut (o: f32[100,10], q: s32[]) -> f32[1,10] {
  %o = f32[100,10]{1,0} parameter(0)
  %q = s32[] parameter(1)
  %r = f32[1,10]{1,0} fusion(%o, %q), kind=kLoop, calls=%inner
  ROOT %s = f32[1,10]{1,0} negate(%r)
}

%made (v: f32[1,10], w: s32[]) -> f32[100,10] {
  %v = f32[1,10]{1,0} parameter(0)
  %w = s32[] parameter(1)
  %zero = f32[] constant(0)
  %empty = f32[100,10]{1,0} broadcast(%zero)
  ROOT %x = f32[100,10]{1,0} dynamic-update-slice(%empty, %v, %w, %w)
}

ENTRY %main (h: s32[], x.1: f32[1,10]) -> f32[1,10] {
  %h = s32[] parameter(0)
  %x.1 = f32[1,10]{1,0} parameter(1)
  %p.1 = f32[100,10]{1,0} custom-call(), custom_call_target="AllocateBuffer"
  %p.2 = f32[10,100]{1,0} custom-call(), custom_call_target="AllocateBuffer"
  %p.3 = f32[50]{0} broadcast(%h)
  %new = (f32[100,10]{1,0}, f32[100,10]{1,0}, f32[50]{0}, f32[1,10]{1,0}) \
fusion(%p.1, %p.2, %p.3, %x.1, %h), kind=kLoop, calls=%change
  %n.1 = f32[100,10]{1,0} get-tuple-element(%new), index=0
  %n.2 = f32[100,10]{1,0} get-tuple-element(%new), index=1
  %piece.1 = f32[1,10]{1,0} fusion(%n.1, %h), kind=kLoop, calls=%cut
  %piece.2 = f32[1,10]{1,0} fusion(%n.2, %h), kind=kLoop, calls=%cut
  %whole = f32[100,10]{1,0} fusion(%piece.1, %h), kind=kLoop, calls=%made
  ROOT %out = f32[1,10]{1,0} add(%piece.1, %piece.2)
}
"""
STACK, PIECE, INDEX = 4 * 1000, 4 * 10, 4


def test_what_a_fusion_reads_and_writes():
  accesses = buffers.accesses(text.parse(FUSED))
  moved = {name: access.total for name, access in accesses.items()}
  assert moved["p.1"] == moved["p.2"] == 0
  # The update is read by all four and written by three and as its negation;
  # nothing of what is passed on.
  new = buffers.accesses(text.parse(FUSED))["new"]
  assert new.aliases == ((0, 0), (1, 0), (2, 0), None)
  assert new.written == (PIECE, 2 * PIECE, 0, PIECE)
  assert new.read == (0, 0, 0, PIECE, INDEX)
  assert moved["piece.1"] == PIECE + PIECE + INDEX
  # What isn't there before is written whole.
  assert moved["whole"] == PIECE + INDEX + STACK


def test_what_is_changed_in_place_is_there_once():
  sizes = [b.array.bytes for b in memory.live_at_peak(text.parse(FUSED))]
  # The two stacks, what is passed on, the negation; at the end the last stack
  # beside two pieces is less.
  assert sizes == [STACK, STACK, 4 * 50, PIECE]


def test_memory_that_is_given_is_that_of_what_fills_it():
  program = FUSED.replace(
    "%p.1, %p.2, %p.3, %x.1, %h), kind=kLoop, calls=%change",
    "%p.1, %p.2, %p.3, %x.1, %h), kind=kLoop, calls=%change, "
    'metadata={op_name="fill" source_file="/a/one.py" source_line=5}',
  )
  ours, other = memory.by_line(memory.live_at_peak(text.parse(program), "/a"))
  assert ours.location == text.Location("/a/one.py", 5)
  assert ours.bytes == 2 * STACK + PIECE
  assert other.bytes == 4 * 50


def test_of_branches_what_moves_least_and_what_takes_most():
  program = """HloModule m

%much (a: f32[10]) -> f32[10] {
  %a = f32[10]{0} parameter(0)
  %b = f32[1000]{0} broadcast(%a)
  ROOT %c = f32[10]{0} slice(%b), slice={[0:10]}
}

%little (d: f32[10]) -> f32[10] {
  ROOT %d = f32[10]{0} parameter(0)
}

ENTRY %main (p: pred[], x: f32[10]) -> f32[10] {
  %p = pred[] parameter(0)
  %x = f32[10]{0} parameter(1)
  ROOT %y = f32[10]{0} conditional(%p, %x, %x), branch_computations={%much, \
%little}
}
"""
  module = text.parse(program)
  assert buffers.hbm_bytes(module) == 0
  assert max(b.array.bytes for b in memory.live_at_peak(module)) == 4000
