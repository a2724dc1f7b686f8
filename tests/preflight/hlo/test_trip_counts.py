"""What runs in a step, and how often."""

import jax
import jax.numpy as jnp
import pytest

from jssl.preflight.hlo import text, trip_counts

# As TPU's compiler writes a loop; it doesn't say how long it is.
LOOP = """HloModule m

%condition (p.1: (s32[], f32[8], s32[])) -> pred[] {
  %limit = s32[]{:T(128)} constant(7), metadata={op_name="while/cond"}
  %p.1 = (s32[]{:T(128)}, f32[8]{0}, s32[]{:T(128)}) parameter(0)
  %i.1 = s32[]{:T(128)} get-tuple-element(%p.1), index=0
  ROOT %lt = pred[]{:T(512)} compare(%i.1, %limit), direction=LT
}

%body (p.2: (s32[], f32[8], s32[])) -> (s32[], f32[8], s32[]) {
  %p.2 = (s32[]{:T(128)}, f32[8]{0}, s32[]{:T(128)}) parameter(0)
  %i.2 = s32[]{:T(128)} get-tuple-element(%p.2), index=0
  %copied = s32[]{:T(128)S(6)} copy(%i.2)
  %step = s32[]{:T(128)} get-tuple-element(%p.2), index=2
  %add = s32[]{:T(128)} add(%copied, %step)
  %x.2 = f32[8]{0} get-tuple-element(%p.2), index=1
  %y = f32[8]{0} negate(%x.2)
  ROOT %next = (s32[]{:T(128)}, f32[8]{0}, s32[]{:T(128)}) tuple(%add, %y, \
%step)
}

ENTRY %main (x: f32[8]) -> f32[8] {
  %x = f32[8]{0} parameter(0)
  %zero = s32[]{:T(128)} constant(0)
  %start = s32[]{:T(128)} copy(%zero)
  %one = s32[]{:T(128)} constant(1)
  %before = (s32[]{:T(128)}, f32[8]{0}, s32[]{:T(128)}) tuple(%start, %x, %one)
  %loop = (s32[]{:T(128)}, f32[8]{0}, s32[]{:T(128)}) while(%before), \
condition=%condition, body=%body
  ROOT %out = f32[8]{0} get-tuple-element(%loop), index=1
}
"""


def trips(program):
  module = text.parse(program)
  return trip_counts.trip_count(module, module.by_name["loop"])


def test_a_loop_counts_from_its_start_by_its_step():
  assert trips(LOOP) == 7
  assert trips(LOOP.replace("constant(0)", "constant(3)")) == 4
  # 0, 2, 4, 6.
  assert trips(LOOP.replace("constant(1)", "constant(2)")) == 4
  assert trips(LOOP.replace("constant(7)", "constant(-1)")) == 0
  # The limit is less than the counter from the start.
  swapped = LOOP.replace("compare(%i.1, %limit)", "compare(%limit, %i.1)")
  assert trips(swapped) == 0
  # A step that grows: 0, 1, 2, 4, 8.
  grows = LOOP.replace("tuple(%add, %y, %step)", "tuple(%add, %y, %add)")
  assert trips(grows) == 4


def test_a_loop_that_says_how_long_it_is():
  said = 'body=%body, backend_config={"known_trip_count":{"n":"3"}}'
  assert trips(LOOP.replace("body=%body", said)) == 3


@pytest.mark.parametrize(
  ("what", "instead"),
  [
    ("direction=LT", "direction=NE"),
    # A threshold that the counter has nothing to do with.
    ("get-tuple-element(%p.1), index=0", "get-tuple-element(%p.1), index=1"),
    ("add(%copied, %step)", "multiply(%copied, %step)"),
    ("add(%copied, %step)", "add(%copied, %copied)"),
    ("tuple(%add, %y, %step)", "tuple(%i.2, %y, %step)"),
    ("constant(1)", "constant(-1)"),
    ("%zero = s32[]{:T(128)} constant(0)", "%zero = s32[] convert(%x)"),
    ("condition=%condition", "condition=%none"),
  ],
)
def test_a_loop_of_unknown_length_counts_once(what, instead):
  program = LOOP.replace(what, instead)
  assert program != LOOP
  assert trips(program) is None
  module = text.parse(program)
  assert [i.name for i in trip_counts.unknown_loops(module)] == ["loop"]
  times = {i.name: n for i, n in trip_counts.executed(module, lambda _: 1)}
  assert times["y"] == times["loop"] == 1


def test_what_runs_and_how_often():
  module = text.parse(LOOP)
  assert trip_counts.unknown_loops(module) == []
  times = {i.name: n for i, n in trip_counts.executed(module, lambda _: 1)}
  assert times["x"] == times["out"] == 1
  assert times["y"] == times["lt"] == 7


def test_of_branches_the_lightest():
  program = """HloModule m

%many (a: f32[8]) -> f32[8] {
  %a = f32[8]{0} parameter(0)
  %b = f32[8]{0} negate(%a)
  ROOT %c = f32[8]{0} negate(%b)
}

%few (d: f32[8]) -> f32[8] {
  %d = f32[8]{0} parameter(0)
  ROOT %e = f32[8]{0} sort(%d)
}

ENTRY %main (p: pred[], x: f32[8]) -> f32[8] {
  %p = pred[] parameter(0)
  %x = f32[8]{0} parameter(1)
  ROOT %y = f32[8]{0} conditional(%p, %x, %x), true_computation=%many, \
false_computation=%few
}
"""
  module = text.parse(program)

  def weighed(**weights):
    steps = trip_counts.executed(module, lambda i: weights.get(i.opcode, 0))
    return [i.name for i, _ in steps][3:]

  assert weighed(negate=1, sort=3) == ["a", "b", "c"]
  assert weighed(negate=2, sort=3) == ["d", "e"]


def test_loops_of_this_machine():
  def function(x, w):
    x, sums = jax.lax.scan(lambda x, w: (jnp.tanh(x @ w), jnp.sum(x)), x, w)
    x = jax.lax.while_loop(lambda x: jnp.max(x) < 9, lambda x: x + 1, x)
    return x, sums

  x, w = jnp.zeros((8, 16)), jnp.zeros((5, 16, 16))
  compiled = jax.jit(function).lower(x, w).compile()
  module = text.parse(compiled.as_text())
  loops = [i for i in module.by_name.values() if i.opcode == "while"]
  lengths = [trip_counts.trip_count(module, loop) for loop in loops]
  assert sorted(lengths, key=str) == [5, None]
  # One of integers, whose end is a constant that nothing counts up to.
  doubled = jax.jit(
    lambda x: jax.lax.while_loop(
      lambda x: jnp.max(x) < 100, lambda x: x * 2 + 1, x
    )
  )
  module = text.parse(doubled.lower(jnp.zeros(4, int)).compile().as_text())
  assert len(trip_counts.unknown_loops(module)) == 1
