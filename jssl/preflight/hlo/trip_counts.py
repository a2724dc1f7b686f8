"""Trip counts of loops and execution counts of instructions.

Counts are lower bounds: a loop of unknown length counts once, and of the
branches of a conditional the cheapest counts. A step that logs costs more.
"""

import re
from collections.abc import Callable

from jssl.preflight.hlo.text import Instruction, Module

CONTROL_FLOW = frozenset(("while", "conditional", "call"))
# Instructions whose called computation is a scalar function.
_SCALAR_CALLS = frozenset(
  (
    *("reduce", "reduce-window", "sort", "scatter", "select-and-scatter"),
    *("map", "all-reduce", "all-reduce-start", "reduce-scatter"),
  )
)
_COPIES = frozenset(("copy", "copy-start", "copy-done", "bitcast"))
_TRIPS = re.compile(r'known_trip_count"?:\s*\{"?n"?:\s*"?(\d+)')
_INTEGER = re.compile(r"(-?\d+)(?:,|$)")


class _Loop:
  """Integers in the state of a `while` loop."""

  def __init__(self, module: Module, loop: Instruction):
    self._known = module.by_name
    initial = self._operands(loop.operands[0])
    root = module.roots.get(loop.attribute("body"), "")
    # Initial value and value after a trip, by index in the state.
    self._state = [*zip(initial, self._operands(root), strict=False)]

  def _operands(self, name: str) -> tuple[str, ...]:
    found = self._known.get(name)
    return found.operands if found and found.opcode == "tuple" else ()

  def _uncopied(self, name: str) -> Instruction | None:
    found = self._known.get(name)
    while found is not None and found.opcode in _COPIES and found.operands:
      found = self._known.get(found.operands[0])
    return found

  def state_index(self, name: str) -> int | None:
    """Returns the index of a value in the state at the start of a trip."""
    found = self._uncopied(name)
    if found is None or found.opcode != "get-tuple-element":
      return None
    source = self._known.get(found.operands[0])
    is_state = source is not None and source.opcode == "parameter"
    return found.tuple_index if is_state else None

  def constant(self, name: str) -> int | None:
    """Returns the value of a loop-invariant integer."""
    found = self._uncopied(name)
    index = self.state_index(name)
    if index is not None and index < len(self._state):
      initial, after = self._state[index]
      if self.state_index(after) != index:
        return None
      found = self._uncopied(initial)
    if found is None or found.opcode != "constant":
      return None
    integer = _INTEGER.match(found.rest)
    return int(integer.group(1)) if integer else None

  def start_and_step(self, index: int) -> tuple[int | None, int | None]:
    """Returns initial value and increment of a counter in the state."""
    if index >= len(self._state):
      return None, None
    initial, after = self._state[index]
    change = self._uncopied(after)
    if change is None or change.opcode != "add":
      return None, None
    is_counter = [self.state_index(o) == index for o in change.operands]
    if sorted(is_counter) != [False, True]:
      return None, None
    step = change.operands[is_counter.index(False)]
    return self.constant(initial), self.constant(step)


def trip_count(module: Module, loop: Instruction) -> int | None:
  """Returns the trip count of a `while` loop; None if it is unknown."""
  if annotated := _TRIPS.search(loop.rest):
    return int(annotated.group(1))
  # XLA:TPU does not annotate trip counts. Recognises a counter that is
  # incremented by a constant up to a constant.
  condition = module.roots.get(loop.attribute("condition"), "")
  compare = module.by_name.get(condition)
  if compare is None or compare.opcode != "compare":
    return None
  integers = _Loop(module, loop)
  counter = integers.state_index(compare.operands[0])
  if "direction=LT" not in compare.rest or counter is None:
    return None
  limit = integers.constant(compare.operands[1])
  start, step = integers.start_and_step(counter)
  if limit is None or start is None or step is None or step < 1:
    return None
  return max(-(-(limit - start) // step), 0)


def unknown_loops(module: Module) -> list[Instruction]:
  """Returns loops of unknown trip count; their bodies are counted once."""
  loops = [i for i in module.by_name.values() if i.opcode == "while"]
  return [loop for loop in loops if trip_count(module, loop) is None]


def async_continuations(module: Module) -> frozenset[str]:
  """Returns names of collectives that continue an asynchronous collective.

  XLA:TPU splits a collective over several fusions. The collective appears again
  in each fusion that overlaps with it and in the fusion that waits for it.
  """
  return frozenset(
    i.name
    for own in module.computations.values()
    if not any('"AsyncCollectiveStart"' in i.rest for i in own)
    for i in own
    if "chain_id=" in i.rest
  )


def executed(
  module: Module, weight: Callable[[Instruction], float]
) -> list[tuple[Instruction, int]]:
  """Returns each executed instruction with its execution count.

  Includes instructions inside fusions, but not the scalar functions of
  reductions. Of branches, the one of least total `weight` counts.
  """

  def run(name: str, times: int) -> list[tuple[Instruction, int]]:
    found = []
    for instruction in module.computations.get(name, ()):
      found.append((instruction, times))
      inside = times
      if instruction.opcode == "while":
        trips = trip_count(module, instruction)
        inside *= 1 if trips is None else trips
      # The start of an asynchronous pair accounts for both.
      is_end = instruction.opcode.endswith(("-done", "-update"))
      if is_end or instruction.opcode in _SCALAR_CALLS:
        continue
      bodies = [run(called, inside) for called in instruction.called]
      if instruction.opcode == "conditional" and bodies:
        bodies = [
          min(bodies, key=lambda body: sum(n * weight(i) for i, n in body))
        ]
      for body in bodies:
        found += body
    return found

  return run(module.entry, 1)
