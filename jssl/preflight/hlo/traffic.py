"""HBM traffic of a compiled program.

In contrast to the compiler's "bytes accessed", on-chip memory is left out and
loop bodies count by trip.
"""

from jssl.preflight.hlo import buffers, trip_counts
from jssl.preflight.hlo.text import Instruction, Module


def _start_bytes(instruction: Instruction) -> int:
  """Returns the traffic of the start of an asynchronous pair."""
  if instruction.opcode == "copy-start":
    # (destination, source, context)
    return buffers.hbm_size(instruction.arrays[:2])
  count = len(instruction.operands)
  if len(instruction.arrays) < 2 * count or count == 0:
    return 2 * buffers.hbm_size(instruction.arrays)
  # (operands, results, contexts). At most the size of the result is read.
  total = 0
  for operand, result in zip(
    instruction.arrays[:count],
    instruction.arrays[count : 2 * count],
    strict=True,
  ):
    total += min(operand.bytes, result.bytes) if operand.space == 0 else 0
    total += result.bytes if result.space == 0 else 0
  return total


def hbm_bytes_by_instruction(module: Module) -> dict[str, int]:
  """Returns bytes read and written by one execution of each instruction.

  The start of an asynchronous pair accounts for both. Instructions inside
  fusions are left out.
  """
  accesses = buffers.accesses(module)
  computations = [module.entry]
  found = {}
  for name in computations:
    for i in module.computations.get(name, ()):
      if i.opcode in trip_counts.CONTROL_FLOW:
        computations += [own for own in i.called if own not in computations]
      is_start = i.opcode.endswith("-start")
      found[i.name] = _start_bytes(i) if is_start else accesses[i.name].total
  return found


def hbm_bytes(module: Module) -> int:
  """Returns bytes that a device reads and writes in one run of the program."""
  moved = hbm_bytes_by_instruction(module)
  steps = trip_counts.executed(module, lambda i: moved.get(i.name, 0))
  return sum(times * moved.get(i.name, 0) for i, times in steps)
