"""What an operation reads and writes, and which results are in old memory.

One notion for what is moved and for what fills the memory: an operation reads
its operands and writes its results once, but of what it cuts it reads the
pieces, of what it changes in place it writes the change, and what it only
passes on it leaves alone. What a fusion does follows from what is in it.
"""

import re
from collections.abc import Iterable, Mapping
from typing import NamedTuple

from jssl.preflight.hlo import trip_counts
from jssl.preflight.hlo.text import Array, Instruction, Module

# Nothing is moved, or only what is counted elsewhere.
_STILL = frozenset(
  (
    *("parameter", "constant", "tuple", "get-tuple-element", "bitcast"),
    *("while", "conditional", "call", "optimization-barrier", "iota"),
    *("after-all", "add-dependency", "partition-id", "replica-id"),
  )
)
# A custom call that gives memory, and those at the ends of a collective that
# other fusions carry along.
_ALLOCATES = '"AllocateBuffer"'
_ENDS = ('"AsyncCollectiveStart"', '"AsyncCollectiveDone"')
_CUTS = frozenset(("dynamic-slice", "gather", "slice"))
_ALIASES = re.compile(r"output_to_operand_aliasing=\{((?:[^{}]|\{[^{}]*\})*)\}")
_ALIAS = re.compile(r"\{(\d*)\}: \((\d+), \{\}")


class Access(NamedTuple):
  """What an instruction does to the large memory.

  Attributes:
    sources: for each array of the result, the operand in whose memory it is;
      None for what has its own.
    read: bytes, of each operand.
    written: bytes, of each array of the result.
  """

  sources: tuple[int | None, ...]
  read: tuple[int, ...]
  written: tuple[int, ...]

  @property
  def moved(self) -> int:
    """Bytes that are read and written together."""
    return sum(self.read) + sum(self.written)


def large(arrays: Iterable[Array]) -> int:
  """Returns the bytes of those arrays that are in the large memory."""
  return sum(array.bytes for array in arrays if array.space == 0)


def _said(instruction: Instruction) -> dict[int, int]:
  """Returns operands by the results that the program says are in them."""
  found = _ALIASES.search(instruction.rest)
  return {
    int(result or 0): int(operand)
    for result, operand in _ALIAS.findall(found.group(1) if found else "")
  }


class _Fused:
  """The inside of a fusion."""

  def __init__(self, module: Module, name: str, accesses: Mapping[str, Access]):
    own = module.computations.get(name, ())
    self._accesses = accesses
    self._known = {i.name: i for i in own}
    self._root = module.roots.get(name, "")
    self._users: dict[str, list[tuple[Instruction, int]]] = {}
    for instruction in own:
      for at, operand in enumerate(instruction.operands):
        self._users.setdefault(operand, []).append((instruction, at))
    self.parameters = {
      int(i.rest.split(",")[0]): i.name for i in own if i.opcode == "parameter"
    }

  def results(self, arrays: int) -> list[tuple[str, int]]:
    """Returns what each array of the result is, and which part of that."""
    root = self._known.get(self._root)
    if root is not None and root.opcode == "tuple":
      return [(name, 0) for name in root.operands]
    return [(self._root, index) for index in range(arrays)]

  def source(self, name: str, part: int = 0) -> int | None:
    """Returns the parameter in whose memory a value is, if it is in one's."""
    value = self._known.get(name)
    if value is None:
      return None
    if value.opcode == "parameter":
      return int(value.rest.split(",")[0])
    if value.opcode == "bitcast":
      return self.source(value.operands[0])
    if value.opcode == "get-tuple-element":
      return self.source(value.operands[0], trip_counts.element(value))
    at = self._source(value, part)
    return None if at is None else self.source(value.operands[at])

  def _source(self, value: Instruction, part: int) -> int | None:
    sources = self._accesses[value.name].sources
    return sources[part] if part < len(sources) else None

  def written(self, name: str, part: int = 0) -> int | None:
    """Returns what is written of a value; None for all of it."""
    value = self._known.get(name)
    if value is None:
      return None
    if value.opcode == "parameter":
      return 0
    if value.opcode == "bitcast":
      return self.written(value.operands[0])
    if value.opcode == "get-tuple-element":
      return self.written(value.operands[0], trip_counts.element(value))
    at = self._source(value, part)
    if at is None:
      return None
    before = self.written(value.operands[at])
    own = self._accesses[value.name].written
    return None if before is None else before + own[part]

  def read(self, name: str) -> int:
    """Returns what is read of a value by all that use it."""
    total = 0
    for user, at in self._users.get(name, ()):
      if user.opcode == "tuple":
        continue
      access = self._accesses[user.name]
      total += access.read[at]
      views = user.opcode in ("bitcast", "get-tuple-element")
      if views or at in access.sources:
        total += self.read(user.name)
    return total


def _space(
  user: Instruction, at: int, known: Mapping[str, Instruction]
) -> int | None:
  """Returns the memory that an operand is in, if it is one array."""
  operand = known.get(user.operands[at])
  alone = operand is not None and len(operand.arrays) == 1
  return operand.arrays[0].space if operand and alone else None


def _of_fusion(
  module: Module,
  fusion: Instruction,
  known: Mapping[str, Instruction],
  accesses: Mapping[str, Access],
  waiting: frozenset[str],
) -> Access:
  fused = _Fused(module, (*fusion.called, "")[0], accesses)
  results = fused.results(len(fusion.arrays))
  if len(results) != len(fusion.arrays):
    results = [("", 0)] * len(fusion.arrays)
  said = _said(fusion)
  sources, written = [], []
  for at, (array, (name, part)) in enumerate(
    zip(fusion.arrays, results, strict=True)
  ):
    source, change = fused.source(name, part), fused.written(name, part)
    if source is not None and _space(fusion, source, known) != array.space:
      # From one memory to another: a copy.
      source, change = None, None
    sources.append(said.get(at) if source is None else source)
    if change is None:
      # Of a collective that goes on what it fills is an operand, by name.
      change = 0 if at in said and name in waiting else array.bytes
    new = min(change, array.bytes)
    written.append(new if array.space == 0 else 0)
  read = [
    min(large(known[o].arrays), fused.read(fused.parameters.get(at, "")))
    if o in known
    else 0
    for at, o in enumerate(fusion.operands)
  ]
  return Access(tuple(sources), tuple(read), tuple(written))


def _of(
  instruction: Instruction, known: Mapping[str, Instruction], still: bool
) -> Access:
  """Returns what one instruction does by itself."""
  opcode, arrays = instruction.opcode, instruction.arrays
  said = _said(instruction)
  sources = tuple(said.get(at) for at in range(len(arrays)))
  operands = [
    known[o].arrays if o in known else () for o in instruction.operands
  ]
  read = [large(own) for own in operands]
  written = [large((array,)) for array in arrays]
  if still:
    return Access(sources, (0,) * len(operands), (0,) * len(arrays))
  if opcode == "dynamic-update-slice":
    change = sum(array.bytes for array in operands[1])
    sources, read[0], written[0] = (0,), 0, min(change, written[0])
  elif opcode in _CUTS:
    read[0] = min(read[0], sum(array.bytes for array in arrays))
  return Access(sources, tuple(read), tuple(written))


def accesses(module: Module) -> dict[str, Access]:
  """Returns what each instruction does, by name; of pairs' starts, nothing."""
  found: dict[str, Access] = {}
  waiting = trip_counts.carried(module) | frozenset(
    name
    for name, i in trip_counts.named(module).items()
    if any(end in i.rest for end in _ENDS)
  )
  # Computations stand after those that they call.
  for own in module.computations.values():
    known = {i.name: i for i in own}
    for instruction in own:
      if instruction.opcode == "fusion":
        found[instruction.name] = _of_fusion(
          module, instruction, known, found, waiting
        )
        continue
      still = (
        instruction.opcode in _STILL
        or instruction.opcode.endswith(("-start", "-update", "-done"))
        or instruction.name in waiting
        or _ALLOCATES in instruction.rest
      )
      found[instruction.name] = _of(instruction, known, still)
  return found
