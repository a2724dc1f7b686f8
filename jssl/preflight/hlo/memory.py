"""What lies in a program's memory at its fullest moment, by its schedule.

The compiler says how much memory a program takes, and not of what: TPU and GPU
programs come without their buffers' assignment. Here the schedule is gone
through, each result alive from where it is made to its last use, and of
branches the one that takes most. What an operation changes in place or passes
on is there once (`hlo.buffers`). What shares memory by an operation's grace
(an addition that overwrites its operand) is counted apart, so sums can be above
the compiler's: they say what is large, and the compiler how much it is
together.
"""

from collections.abc import Iterable, Mapping, Sequence
from typing import NamedTuple

from jssl.preflight.hlo import buffers, trip_counts
from jssl.preflight.hlo.text import Array, Instruction, Module, Place

# What gives names to memory that is there.
_VIEWS = frozenset(
  (
    "bitcast",
    "get-tuple-element",
    "tuple",
    "while",
    "optimization-barrier",
    "add-dependency",
  )
)
_FREE = frozenset(("parameter", "constant", "partition-id", "replica-id"))


class Buffer(NamedTuple):
  """An array in memory.

  Attributes:
    array: what it is.
    op_name: of the instruction that makes it.
    place: the line that it is of; None if the program doesn't say.
  """

  array: Array
  op_name: str
  place: Place | None


class Line(NamedTuple):
  """Arrays at the fullest moment that one line of source is to blame for.

  Attributes:
    place: the line; None for what the program doesn't say.
    bytes: of all of them.
    buffers: each of them, the largest first.
  """

  place: Place | None
  bytes: int
  buffers: tuple[Buffer, ...]


class _Moment(NamedTuple):
  bytes: int
  buffers: tuple[Buffer, ...]


_NOTHING = _Moment(0, ())
# A buffer by its instruction and its place in the result.
_Key = tuple[str, int]


class _Walk:
  """Goes through one computation."""

  def __init__(self, module: Module, root: str):
    self._module = module
    self._root = root
    self._accesses = buffers.accesses(module)
    self._done: dict[str, _Moment] = {}

  def _inside(self, instruction: Instruction) -> _Moment:
    """Returns the fullest moment of what an instruction runs."""
    if instruction.opcode not in trip_counts.PROGRAMS:
      return _NOTHING
    moments = [self.fullest(name) for name in instruction.called]
    return max(moments, key=lambda moment: moment.bytes, default=_NOTHING)

  def _buffer(
    self,
    array: Array,
    instruction: Instruction,
    filled_by: Instruction,
    known: Mapping[str, Instruction],
  ) -> Buffer:
    # Memory that is given without a line is that of what fills it.
    if not (instruction.operands or self._module.places(instruction)):
      instruction = filled_by
    # A copy from one memory to another is named by what it copies.
    while not instruction.op_name and instruction.operands:
      if instruction.operands[0] not in known:
        break
      instruction = known[instruction.operands[0]]
    place = self._module.place(instruction, self._root)
    return Buffer(array, instruction.op_name, place)

  def fullest(self, name: str) -> _Moment:
    """Returns the fullest moment of a computation, without its parameters."""
    if name not in self._done:
      # For the case that a computation calls itself, which none does.
      self._done[name] = _NOTHING
      self._done[name] = self._go(self._module.computations.get(name, ()), name)
    return self._done[name]

  def _go(self, instructions: Sequence[Instruction], name: str) -> _Moment:
    known = {instruction.name: instruction for instruction in instructions}
    keys: dict[str, tuple[frozenset[_Key], ...]] = {}
    last: dict[_Key, int] = {}
    fills: dict[_Key, Instruction] = {}
    for at, instruction in enumerate(instructions):
      keys[instruction.name] = _result(
        instruction, keys, self._accesses[instruction.name].sources
      )
      for used in (*instruction.operands, instruction.name):
        for key in frozenset().union(*keys.get(used, ())):
          last[key] = at
      if self._module.places(instruction):
        for key in frozenset().union(*keys[instruction.name]):
          fills.setdefault(key, instruction)
    results = keys.get(self._module.roots.get(name, ""), ())
    for key in frozenset().union(*results):
      last[key] = len(instructions)
    if name == self._module.entry:
      # They are in the memory of arguments.
      for index in self._module.donated & frozenset(range(len(results))):
        for key in results[index]:
          last.pop(key, None)
    by_end: dict[int, list[_Key]] = {}
    for key, at in last.items():
      by_end.setdefault(at, []).append(key)

    alive: dict[_Key, Buffer] = {}
    size, fullest, at_fullest = 0, -1, _NOTHING
    for at, instruction in enumerate(instructions):
      for index, array in enumerate(instruction.arrays):
        key = instruction.name, index
        if key in last and array.space == 0:
          fill = fills.get(key, instruction)
          alive[key] = self._buffer(array, instruction, fill, known)
          size += array.bytes
      inside = self._inside(instruction)
      if size + inside.bytes > fullest:
        fullest = size + inside.bytes
        at_fullest = _Moment(fullest, (*alive.values(), *inside.buffers))
      for key in by_end.get(at, ()):
        if key in alive:
          size -= alive.pop(key).array.bytes
    return at_fullest


def _result(
  instruction: Instruction,
  keys: Mapping[str, tuple[frozenset[_Key], ...]],
  sources: Sequence[int | None],
) -> tuple[frozenset[_Key], ...]:
  """Returns, for each array of a result, the buffers that it is in.

  Args:
    instruction: that makes it.
    keys: of what was made before, by name.
    sources: operands that the arrays are in, as `Access.sources`.
  """
  opcode, arrays = instruction.opcode, instruction.arrays
  if opcode in _FREE:
    return tuple(frozenset() for _ in arrays)
  operands = [keys.get(name, ()) for name in instruction.operands]
  if opcode == "tuple":
    flat = [own for operand in operands for own in operand]
    if len(flat) == len(arrays):
      return tuple(flat)
  elif opcode == "get-tuple-element" and operands:
    index = trip_counts.element(instruction)
    if len(operands[0]) > index and len(arrays) == 1:
      return (operands[0][index],)
  elif opcode == "while" and operands and len(operands[0]) == len(arrays):
    return operands[0]
  elif opcode.endswith("-done") and operands:
    # (operands, results, contexts): the results are what was made new.
    made = instruction.operands[0]
    whole = frozenset().union(*operands[0])
    whole = frozenset(key for key in whole if key[0] == made)
    return tuple(whole for _ in arrays)
  elif opcode in _VIEWS and operands:
    return tuple(frozenset().union(*operands[0]) for _ in arrays)
  if opcode == "copy-start":
    # (destination, source, context)
    source = operands[0][0] if operands and operands[0] else frozenset()
    return (frozenset({(instruction.name, 0)}), source, frozenset())
  if opcode.endswith("-start") and len(arrays) > 1:
    own = len(instruction.operands)
    flat = [key for operand in operands for key in operand]
    of_operands = flat[:own] + [frozenset()] * (own - len(flat))
    return (
      *of_operands,
      *(
        frozenset({(instruction.name, index)})
        for index in range(own, len(arrays))
      ),
    )
  return tuple(
    frozenset({(instruction.name, index)})
    if source is None
    else frozenset().union(*operands[source])
    for index, source in enumerate(sources)
  )


def fullest(module: Module, root: str = "") -> list[Buffer]:
  """Returns what is alive at the fullest moment, arguments apart.

  Args:
    module: the compiled program, scheduled.
    root: a folder; the place of an array is the innermost line of it there.
  """
  moment = _Walk(module, root).fullest(module.entry)
  return sorted(moment.buffers, key=lambda b: -b.array.bytes)


def by_line(buffers: Iterable[Buffer]) -> list[Line]:
  """Groups arrays by their line of source, the heaviest line first."""
  lines: dict[Place | None, list[Buffer]] = {}
  for buffer in buffers:
    lines.setdefault(buffer.place, []).append(buffer)
  found = [
    Line(
      place,
      sum(buffer.array.bytes for buffer in own),
      tuple(sorted(own, key=lambda buffer: -buffer.array.bytes)),
    )
    for place, own in lines.items()
  ]
  return sorted(found, key=lambda line: -line.bytes)
