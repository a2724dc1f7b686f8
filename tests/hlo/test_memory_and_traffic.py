"""What fills the memory, and what is moved, of programs that are known."""

import jax
import jax.numpy as jnp

from jssl.hlo import memory, text, traffic

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
  buffers = memory.fullest(text.parse(PROGRAM), "/a")
  assert [(b.op_name, b.array.bytes) for b in buffers] == [
    ("a", 4000),
    ("b", 2000),
    ("c", 800),
  ]
  ours, other = memory.by_line(buffers)
  assert (ours.place, ours.bytes, len(ours.buffers)) == (
    text.Place("/a/one.py", 5), 6000, 2,
  )  # fmt: skip
  assert (other.place, other.bytes) == (None, 800)


def test_donated_results_are_in_their_argument():
  kept = PROGRAM.replace("{0}: (0, {}, may-alias)", "")
  for program, has_e in ((PROGRAM, False), (kept, True)):
    program = program.replace("f32[300]", "f32[3000]")
    module = text.parse(program.replace("f32[200]", "f32[50]"))
    shapes = [b.array.shape for b in memory.fullest(module)]
    assert shapes == [(3000,), (100,) if has_e else (50,)]


def test_a_copy_is_named_by_what_it_copies():
  program = PROGRAM.replace(
    "  %v = f32[1000]{0} bitcast(%a)",
    "  %s = (f32[1000]{0}, f32[1000]{0}, u32[]) copy-start(%a)\n"
    "  %v = f32[1000]{0} copy-done(%s)",
  )
  (ours,) = memory.by_line(memory.fullest(text.parse(program), "/a"))
  assert [b.op_name for b in ours.buffers] == ["a", "a", "b"]


def test_a_loops_inside_counts_at_its_fullest():
  def function(x):
    def body(_, x):
      wide = jnp.sort(jnp.outer(x, x), axis=0)
      return jnp.sum(jnp.sort(wide, axis=1), axis=0)

    return jax.lax.fori_loop(0, 4, body, x)

  n = 256
  compiled = jax.jit(function).lower(jnp.zeros(n)).compile()
  buffers = memory.fullest(text.parse(compiled.as_text()))
  total = sum(b.array.bytes for b in buffers)
  stats = compiled.memory_analysis()
  assert 4 * n * n <= total
  assert total <= 3 * stats.temp_size_in_bytes


def test_what_operations_move():
  moved = traffic.moved_bytes(text.parse(PROGRAM))
  # By slices what comes out, twice.
  a, b, c, d, e = 400 + 4000, 2 * 2000, 4000 + 2000 + 800, 2 * 800 + 1200, 800
  chip = 2000
  assert moved == a + b + chip + c + d + e


def test_a_loop_over_stacked_weights_reads_each_once():
  def function(x, w):
    return jax.lax.scan(lambda x, w: (jnp.tanh(x @ w), None), x, w)[0]

  layers, n, d = 16, 8, 128
  x = jnp.zeros((n, d))
  w = jnp.zeros((layers, d, d))
  compiled = jax.jit(function).lower(x, w).compile()
  moved = traffic.moved_bytes(text.parse(compiled.as_text()))
  once = 4 * layers * d * d
  # Cut out of the stack, written, read again.
  assert once <= moved < 4.5 * once
