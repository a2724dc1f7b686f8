"""What of a compiled program runs in a step, and how often.

One convention for all that is counted: a loop by its trips, and once where it
doesn't say how many they are; of branches the cheapest, so that what is counted
bounds from below what a step needs (a step that is logged needs more).
"""

import re
from collections.abc import Callable, Iterator

from jssl.preflight.hlo.text import Instruction, Module

# These run computations as programs, whose results are in memory.
PROGRAMS = frozenset(("while", "conditional", "call"))
# What these call is applied to numbers, and doesn't run as a program.
_APPLIES = frozenset(
  (
    *("reduce", "reduce-window", "sort", "scatter", "select-and-scatter"),
    *("map", "all-reduce", "all-reduce-start", "reduce-scatter"),
  )
)
_COPIES = frozenset(("copy", "copy-start", "copy-done", "bitcast"))
_TRIPS = re.compile(r'known_trip_count"?:\s*\{"?n"?:\s*"?(\d+)')
_INTEGER = re.compile(r"(-?\d+)(?:,|$)")
_INDEX = re.compile(r"\bindex=(\d+)")

_Known = dict[str, Instruction]


def named(module: Module) -> _Known:
  """Returns all instructions by name."""
  return {i.name: i for own in module.computations.values() for i in own}


def _uncopied(name: str, known: _Known) -> Instruction | None:
  found = known.get(name)
  while found is not None and found.opcode in _COPIES and found.operands:
    found = known.get(found.operands[0])
  return found


def element(instruction: Instruction) -> int:
  """Returns which part of a tuple a `get-tuple-element` takes."""
  found = _INDEX.search(instruction.rest)
  if not found:
    raise ValueError(f"{instruction.name} doesn't say which element it takes")
  return int(found.group(1))


def _state(name: str, known: _Known) -> int | None:
  """Returns which part of a loop's state a value is, as it comes in."""
  found = _uncopied(name, known)
  if found is None or found.opcode != "get-tuple-element":
    return None
  whole = known.get(found.operands[0])
  is_state = whole is not None and whole.opcode == "parameter"
  return element(found) if is_state else None


class _Loop:
  """The integers of a `while`."""

  def __init__(self, module: Module, loop: Instruction, known: _Known):
    body = module.roots.get(loop.attribute("body") or "", "")
    self._known = known
    self._before = _operands(known, loop.operands[0])
    self._after = _operands(known, body)

  def constant(self, name: str) -> int | None:
    """Returns a value that is the same in all trips."""
    found = _uncopied(name, self._known)
    part = _state(name, self._known)
    if part is not None and part < min(len(self._before), len(self._after)):
      # What a loop is handed and hands on.
      if _state(self._after[part], self._known) != part:
        return None
      found = _uncopied(self._before[part], self._known)
    if found is None or found.opcode != "constant":
      return None
    integer = _INTEGER.match(found.rest)
    return int(integer.group(1)) if integer else None

  def start_and_step(self, counter: int) -> tuple[int | None, int | None]:
    """Returns what a part of the state begins with, and what is added."""
    if counter >= min(len(self._before), len(self._after)):
      return None, None
    start = _uncopied(self._before[counter], self._known)
    begins = start and self.constant(start.name)
    change = _uncopied(self._after[counter], self._known)
    if change is None or change.opcode != "add":
      return begins, None
    of_state = [_state(o, self._known) == counter for o in change.operands]
    if sorted(of_state) != [False, True]:
      return begins, None
    return begins, self.constant(change.operands[of_state.index(False)])


def _operands(known: _Known, name: str) -> tuple[str, ...]:
  found = known.get(name)
  return found.operands if found and found.opcode == "tuple" else ()


def trips(
  module: Module, loop: Instruction, known: _Known | None = None
) -> int | None:
  """Returns how often a `while` runs its body; None if it doesn't say.

  Args:
    module: the compiled program.
    loop: a `while` of it.
    known: `named(module)`, if it is there already.
  """
  said = _TRIPS.search(loop.rest)
  if said:
    return int(said.group(1))
  # TPU programs don't say: a counter goes up by a constant to a constant.
  known = named(module) if known is None else known
  condition = module.roots.get(loop.attribute("condition") or "", "")
  compare = known.get(condition)
  if compare is None or compare.opcode != "compare":
    return None
  counter = _state(compare.operands[0], known)
  if "direction=LT" not in compare.rest or counter is None:
    return None
  integers = _Loop(module, loop, known)
  limit = integers.constant(compare.operands[1])
  start, step = integers.start_and_step(counter)
  if limit is None or start is None or step is None or step < 1:
    return None
  return max(-(-(limit - start) // step), 0)


def unknown_loops(module: Module) -> list[Instruction]:
  """Returns loops that don't say how long they are, which count once."""
  known = named(module)
  return [
    i
    for i in known.values()
    if i.opcode == "while" and trips(module, i, known) is None
  ]


def carried(module: Module) -> frozenset[str]:
  """Returns collectives that carry on what another one has begun.

  A TPU splits a collective over other operations: each of those that help it
  along has it in its fusion once more, and so has the one that waits for it.
  """
  return frozenset(
    i.name
    for own in module.computations.values()
    if not any('"AsyncCollectiveStart"' in i.rest for i in own)
    for i in own
    if "chain_id=" in i.rest
  )


def walk(
  module: Module, weight: Callable[[Instruction], float]
) -> Iterator[tuple[Instruction, int]]:
  """Yields all that runs in a step, and how often.

  Computations within a fusion are yielded too, once for each time it runs;
  those that a reduction applies to numbers are not.

  Args:
    module: the compiled program.
    weight: of an instruction; the lightest branch is the cheapest.
  """
  known = named(module)

  def of(name: str, times: int) -> list[tuple[Instruction, int]]:
    found = []
    for instruction in module.computations.get(name, ()):
      found.append((instruction, times))
      inside = times
      if instruction.opcode == "while":
        length = trips(module, instruction, known)
        inside *= 1 if length is None else length
      # Of pairs the start runs what both of them name.
      still = instruction.opcode.endswith(("-done", "-update"))
      if still or instruction.opcode in _APPLIES:
        continue
      ways = [of(called, inside) for called in instruction.called]
      if instruction.opcode == "conditional" and ways:
        ways = [min(ways, key=lambda way: sum(n * weight(i) for i, n in way))]
      for way in ways:
        found += way
    return found

  yield from of(module.entry, 1)
