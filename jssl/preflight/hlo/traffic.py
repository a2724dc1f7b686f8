"""Bytes that a compiled program reads and writes in its large memory.

Compilers estimate the same, but count what stays on the chip too, and the body
of a loop once.
"""

from jssl.preflight.hlo import buffers, trip_counts
from jssl.preflight.hlo.text import Instruction, Module


def _moved_by_start(instruction: Instruction) -> int:
  if instruction.opcode == "copy-start":
    # (destination, source, context)
    return buffers.large(instruction.arrays[:2])
  own = len(instruction.operands)
  if len(instruction.arrays) < 2 * own or own == 0:
    return 2 * buffers.large(instruction.arrays)
  # (operands, results, contexts); of an operand no more is read than comes out.
  ends = zip(
    instruction.arrays[:own], instruction.arrays[own : 2 * own], strict=True
  )
  return sum(
    (min(source.bytes, result.bytes) if source.space == 0 else 0)
    + (result.bytes if result.space == 0 else 0)
    for source, result in ends
  )


def _programs(module: Module) -> list[str]:
  """Returns the computations whose results are in memory."""
  found = [module.entry]
  for name in found:
    for instruction in module.computations.get(name, ()):
      if instruction.opcode in trip_counts.PROGRAMS:
        found += [own for own in instruction.called if own not in found]
  return found


def moved_by(module: Module) -> dict[str, int]:
  """Returns the bytes that each instruction moves in one run of it, by name.

  Of pairs the start counts; what a fusion keeps to itself is left out.
  """
  accesses = buffers.accesses(module)
  return {
    i.name: _moved_by_start(i)
    if i.opcode.endswith("-start")
    else accesses[i.name].moved
    for name in _programs(module)
    for i in module.computations.get(name, ())
  }


def moved_bytes(module: Module) -> int:
  """Returns the bytes that a device reads and writes in a step.

  Loops and branches as in `hlo.trip_counts`: by trip, and the branch that moves
  least.
  """
  moved = moved_by(module)
  steps = trip_counts.walk(module, lambda i: moved.get(i.name, 0))
  return sum(times * moved.get(i.name, 0) for i, times in steps)
