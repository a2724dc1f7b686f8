"""Trip counts of loops and execution counts of instructions.

Counts are lower bounds: a loop of unknown length counts once, and of the
branches of a conditional the cheapest counts. A step that logs costs more.
"""

import re
from collections.abc import Callable, Sequence

from jssl.preflight.hlo.text import Instruction, Module

CONTROL_FLOW = frozenset(("while", "conditional", "call"))
# Instructions whose called computation is a scalar function.
_SCALAR_CALLS = frozenset(
  (
    *("reduce", "reduce-window", "sort", "scatter", "select-and-scatter"),
    *("map", "all-reduce", "all-reduce-start", "reduce-scatter"),
  )
)
_SUMS = frozenset(("add", "copy", "copy-start", "copy-done", "bitcast"))
# Longer loops count as loops of unknown length.
_MAX_TRIPS = 2**14
_TRIPS = re.compile(r'known_trip_count"?:\s*\{"?n"?:\s*"?(\d+)')
_INTEGER = re.compile(r"(-?\d+)(?:,|$)")


def _operands(module: Module, name: str) -> tuple[str, ...]:
  """Returns the elements of a tuple, () for other instructions."""
  found = module.by_name.get(name)
  return found.operands if found and found.opcode == "tuple" else ()


def _integer(
  module: Module, name: str, state: Sequence[int | None]
) -> int | None:
  """Evaluates an integer scalar, None for other values.

  `state` holds the integers of the enclosing computation's parameter.
  """
  found = module.by_name.get(name)
  if found is None or not found.arrays or found.arrays[0].shape:
    return None
  if found.opcode == "constant":
    integer = _INTEGER.match(found.rest)
    return int(integer.group(1)) if integer else None
  if found.opcode == "get-tuple-element":
    source, index = module.by_name.get(found.operands[0]), found.tuple_index
    is_state = source is not None and source.opcode == "parameter"
    return state[index] if is_state and index < len(state) else None
  if found.opcode in _SUMS:
    terms = [_integer(module, operand, state) for operand in found.operands]
    known = [term for term in terms if term is not None]
    return sum(known) if len(known) == len(terms) else None
  return None


def trip_count(module: Module, loop: Instruction) -> int | None:
  """Returns the trip count of a `while` loop; None if it is unknown."""
  if annotated := _TRIPS.search(loop.rest):
    return int(annotated.group(1))
  # XLA:TPU does not annotate trip counts. Follows the integers of the loop's
  # state until a counter is no longer less than its limit.
  condition = module.roots.get(loop.attribute("condition"), "")
  compare = module.by_name.get(condition)
  if compare is None or "direction=LT" not in compare.rest:
    return None
  after = _operands(module, module.roots.get(loop.attribute("body"), ""))
  initial = _operands(module, loop.operands[0])
  state = [_integer(module, name, ()) for name in initial]
  for trips in range(_MAX_TRIPS):
    counter, limit = (_integer(module, o, state) for o in compare.operands)
    if counter is None or limit is None:
      return None
    if counter >= limit:
      return trips
    state = [_integer(module, name, state) for name in after]
  return None


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
