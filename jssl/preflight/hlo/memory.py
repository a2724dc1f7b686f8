"""Live buffers at peak memory, reconstructed from a program's schedule.

Compilers report peak memory but, for TPU and GPU, no buffer assignment. Here
each buffer is live from the instruction that creates it to its last use; of the
branches of a conditional the largest counts. In-place updates reuse buffers
(`hlo.buffers`). Other buffer sharing, such as an addition that overwrites its
operand, is unknown, so sums can exceed the compiler's peak.
"""

import itertools
from collections.abc import Iterable, Mapping, Sequence
from typing import NamedTuple

from jssl.preflight.hlo import buffers, trip_counts
from jssl.preflight.hlo.text import Array, Instruction, Location, Module

# Results that are views of the operands' buffers.
_VIEWS = frozenset(
  (
    *("bitcast", "get-tuple-element", "tuple", "while"),
    *("optimization-barrier", "add-dependency"),
  )
)
_NO_BUFFERS = frozenset(("parameter", "constant", "partition-id", "replica-id"))


class Buffer(NamedTuple):
  """An array in HBM, by JAX's name and source line of its creation."""

  array: Array
  op_name: str
  location: Location | None


class LineBuffers(NamedTuple):
  """Live buffers of one source line, in order of decreasing size."""

  location: Location | None
  bytes: int
  buffers: tuple[Buffer, ...]


class _Peak(NamedTuple):
  bytes: int
  buffers: tuple[Buffer, ...]


# A buffer by the instruction that creates it and the index in its result.
_Key = tuple[str, int]
_Keys = frozenset[_Key]


def _union(keys: Iterable[_Keys]) -> _Keys:
  return frozenset().union(*keys)


class _Liveness:
  """Finds the live buffers at peak memory of computations."""

  def __init__(self, module: Module, root: str):
    self._module = module
    self._root = root
    self._accesses = buffers.accesses(module)
    self._peaks: dict[str, _Peak] = {}

  def peak(self, name: str) -> _Peak:
    """Returns the peak of a computation, excluding its parameters."""
    if name not in self._peaks:
      self._peaks[name] = self._scan(name)
    return self._peaks[name]

  def _buffer(
    self, array: Array, instruction: Instruction, first_write: Instruction
  ) -> Buffer:
    known = self._module.by_name
    # Allocations without a location are attributed to their first write.
    if not (instruction.operands or self._module.stack(instruction)):
      instruction = first_write
    # Unnamed copies are attributed to the instruction that they copy.
    while not instruction.op_name and instruction.operands:
      if instruction.operands[0] not in known:
        break
      instruction = known[instruction.operands[0]]
    location = self._module.location(instruction, self._root)
    return Buffer(array, instruction.op_name, location)

  def _lifetimes(
    self, instructions: Sequence[Instruction], name: str
  ) -> tuple[dict[_Key, int], dict[_Key, Instruction]]:
    """Returns index of the last use and first located write by buffer."""
    keys: dict[str, tuple[_Keys, ...]] = {}
    last_use: dict[_Key, int] = {}
    first_write: dict[_Key, Instruction] = {}
    for at, instruction in enumerate(instructions):
      aliases = self._accesses[instruction.name].aliases
      keys[instruction.name] = _result_keys(instruction, keys, aliases)
      for used in (*instruction.operands, instruction.name):
        last_use |= dict.fromkeys(_union(keys.get(used, ())), at)
      if self._module.stack(instruction):
        for key in _union(keys[instruction.name]):
          first_write.setdefault(key, instruction)
    results = keys.get(self._module.roots.get(name, ""), ())
    last_use |= dict.fromkeys(_union(results), len(instructions))
    if name == self._module.entry:
      # Donated results use the memory of arguments.
      for index in self._module.donated & frozenset(range(len(results))):
        for key in results[index]:
          last_use.pop(key, None)
    return last_use, first_write

  def _scan(self, name: str) -> _Peak:
    instructions = self._module.computations.get(name, ())
    last_use, first_write = self._lifetimes(instructions, name)
    by_end: dict[int, list[_Key]] = {}
    for key, at in last_use.items():
      by_end.setdefault(at, []).append(key)

    live: dict[_Key, Buffer] = {}
    size, peak = 0, _Peak(-1, ())
    for at, instruction in enumerate(instructions):
      for index, array in enumerate(instruction.arrays):
        key = instruction.name, index
        if key in last_use and array.space == 0:
          write = first_write.get(key, instruction)
          live[key] = self._buffer(array, instruction, write)
          size += array.bytes
      inner = _Peak(0, ())
      if instruction.opcode in trip_counts.CONTROL_FLOW:
        peaks = [self.peak(called) for called in instruction.called]
        inner = max(peaks, key=lambda peak: peak.bytes, default=inner)
      if size + inner.bytes > peak.bytes:
        peak = _Peak(size + inner.bytes, (*live.values(), *inner.buffers))
      for key in by_end.get(at, ()):
        if key in live:
          size -= live.pop(key).array.bytes
    return peak if instructions else _Peak(0, ())


def _result_keys(
  instruction: Instruction,
  keys: Mapping[str, tuple[_Keys, ...]],
  aliases: Sequence[int | None],
) -> tuple[_Keys, ...]:
  """Returns the buffers that hold each array of a result.

  `keys` are those of the preceding instructions, `aliases` are
  `Access.aliases`.
  """
  opcode, count = instruction.opcode, len(instruction.arrays)
  if opcode in _NO_BUFFERS:
    return (frozenset(),) * count
  operands = [keys.get(name, ()) for name in instruction.operands]
  first = operands[0] if operands else ()
  new = tuple(frozenset({(instruction.name, index)}) for index in range(count))
  if opcode == "tuple":
    first = tuple(itertools.chain.from_iterable(operands))
  elif opcode == "get-tuple-element" and count == 1:
    index = instruction.tuple_index
    return (first[index],) if index < len(first) else new
  elif opcode == "copy-start":
    # (destination, source, context)
    return (new[0], first[0] if first else frozenset(), frozenset())
  elif opcode.endswith("-start") and count > 1:
    # (operands, results, contexts)
    own = len(operands)
    flat = [*itertools.chain.from_iterable(operands)][:own]
    return (*flat, *[frozenset()] * (own - len(flat)), *new[own:])
  elif opcode.endswith("-done") and operands:
    # The results are the buffers that the start created.
    created = (
      key for key in _union(first) if key[0] == instruction.operands[0]
    )
    return (frozenset(created),) * count
  if opcode in _VIEWS and operands:
    return first if len(first) == count else (_union(first),) * count
  return tuple(
    own if alias is None else _union(operands[alias])
    for own, alias in zip(new, aliases, strict=True)
  )


def live_at_peak(module: Module, root: str = "") -> list[Buffer]:
  """Returns live buffers at peak memory, excluding arguments, largest first.

  Args:
    module: compiled, scheduled program.
    root: folder of the source files that buffers are attributed to.
  """
  peak = _Liveness(module, root).peak(module.entry)
  return sorted(peak.buffers, key=lambda buffer: -buffer.array.bytes)


def by_line(live: Iterable[Buffer]) -> list[LineBuffers]:
  """Groups the result of `live_at_peak` by source line, largest first."""
  lines: dict[Location | None, list[Buffer]] = {}
  for buffer in live:
    lines.setdefault(buffer.location, []).append(buffer)
  grouped = [
    LineBuffers(location, sum(b.array.bytes for b in own), tuple(own))
    for location, own in lines.items()
  ]
  return sorted(grouped, key=lambda line: -line.bytes)
