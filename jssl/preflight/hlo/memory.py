"""Live buffers at peak memory, reconstructed from a program's schedule.

Compilers report peak memory but, for TPU and GPU, no buffer assignment. Here
each buffer is live from the instruction that creates it to its last use; of the
branches of a conditional the largest counts. In-place updates reuse buffers
(`hlo.buffers`). Other buffer sharing, such as an addition that overwrites its
operand, is unknown, so sums can exceed the compiler's peak.
"""

from collections.abc import Iterable, Sequence
from typing import NamedTuple

from jssl.preflight.hlo import buffers, trip_counts
from jssl.preflight.hlo.text import Array, Instruction, Location, Module

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
    # Allocations without a location are attributed to their first write.
    if not (instruction.operands or self._module.stack(instruction)):
      instruction = first_write
    instruction = self._module.origin(instruction)
    location = self._module.location(instruction, self._root)
    return Buffer(array, instruction.op_name, location)

  def _lifetimes(
    self, instructions: Sequence[Instruction], name: str
  ) -> tuple[dict[_Key, int], dict[_Key | None, Instruction]]:
    """Returns index of the last use and first located write by buffer."""
    # The buffer that holds an array; None if it has none of its own.
    held: dict[_Key, _Key | None] = {}
    counts = {i.name: len(i.arrays) for i in instructions}
    last_use: dict[_Key | None, int] = {}
    first_write: dict[_Key | None, Instruction] = {}
    for at, i in enumerate(instructions):
      is_located = bool(self._module.stack(i))
      for index, alias in enumerate(self._accesses[i.name].aliases):
        own = i.name, index
        if i.opcode not in _NO_BUFFERS:
          aliased = alias and held.get((i.operands[alias[0]], alias[1]))
          held[own] = aliased if alias else own
        if is_located:
          first_write.setdefault(held.get(own), i)
      for used in (*i.operands, i.name):
        for index in range(counts.get(used, 0)):
          last_use[held.get((used, index))] = at
    root = self._module.roots.get(name, "")
    for index in range(counts.get(root, 0)):
      last_use[held.get((root, index))] = len(instructions)
    if name == self._module.entry:
      # Donated results use the memory of arguments.
      for index in self._module.donated:
        last_use.pop(held.get((root, index)), None)
    return {key: at for key, at in last_use.items() if key}, first_write

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
