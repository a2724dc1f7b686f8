"""Bytes that a compiled program reads and writes in its large memory.

Each operation reads its operands and writes its results once, and what a fusion
keeps to itself is not moved. Compilers estimate the same, but count the body of
a loop once.
"""

from collections.abc import Iterator

from jssl.hlo.text import Instruction, Module

# Nothing is moved, or only what is counted elsewhere.
_STILL = frozenset(
  (
    *("parameter", "constant", "tuple", "get-tuple-element", "bitcast"),
    *("while", "conditional", "call", "optimization-barrier", "iota"),
    *("after-all", "add-dependency", "partition-id", "replica-id"),
  )
)
_SLICES = frozenset(("dynamic-slice", "gather", "slice"))


def _size(instruction: Instruction) -> int:
  return sum(array.bytes for array in instruction.arrays if array.space == 0)


def _read_by_fusion(
  module: Module, fusion: Instruction, known: dict[str, Instruction]
) -> int:
  """Returns what a fusion reads: of operands that it cuts, the pieces."""
  inside = module.computations.get((*fusion.called, "")[0], ())
  users: dict[str, list[Instruction]] = {}
  for instruction in inside:
    for operand in instruction.operands:
      users.setdefault(operand, []).append(instruction)
  parameters = {
    int(i.rest.split(",")[0]): i.name for i in inside if i.opcode == "parameter"
  }
  total = 0
  for index, operand in enumerate(fusion.operands):
    whole = _size(known[operand]) if operand in known else 0
    own = users.get(parameters.get(index, ""), [])
    if own and all(user.opcode in _SLICES for user in own):
      whole = min(whole, sum(a.bytes for user in own for a in user.arrays))
    elif own and all(
      user.opcode == "dynamic-update-slice"
      and user.operands[0] == parameters[index]
      for user in own
    ):
      whole = 0
    total += whole
  return total


def _written_by_fusion(module: Module, fusion: Instruction) -> int:
  """Returns what a fusion writes: of what it only changes, the change."""
  computation = (*fusion.called, "")[0]
  inside = {i.name: i for i in module.computations.get(computation, ())}
  root = inside.get(module.roots.get(computation, ""))
  while root is not None and root.opcode == "bitcast":
    root = inside.get(root.operands[0])
  if root is not None and root.opcode == "dynamic-update-slice":
    return sum(array.bytes for array in inside[root.operands[1]].arrays)
  return _size(fusion)


def _moved_by_start(instruction: Instruction) -> int:
  own = len(instruction.operands)
  if len(instruction.arrays) < 2 * own or own == 0:
    return 2 * _size(instruction)
  # (operands, results, contexts); of an operand no more is read than comes out.
  ends = zip(
    instruction.arrays[:own], instruction.arrays[own : 2 * own], strict=True
  )
  return sum(
    (min(source.bytes, result.bytes) if source.space == 0 else 0)
    + (result.bytes if result.space == 0 else 0)
    for source, result in ends
  )


def _moved(module: Module, name: str) -> Iterator[tuple[Instruction, int]]:
  """Yields what each instruction of a computation moves."""
  known = {i.name: i for i in module.computations.get(name, ())}
  for instruction in known.values():
    # Of pairs the start counts.
    if instruction.opcode in _STILL or instruction.opcode.endswith("-done"):
      yield instruction, 0
    elif instruction.opcode == "fusion":
      read = _read_by_fusion(module, instruction, known)
      yield instruction, read + _written_by_fusion(module, instruction)
    elif instruction.opcode in _SLICES:
      yield instruction, 2 * _size(instruction)
    elif instruction.opcode == "dynamic-update-slice":
      yield instruction, 2 * _size(known[instruction.operands[1]])
    elif instruction.opcode == "copy-start":
      # (destination, source, context)
      ends = instruction.arrays[:2]
      yield instruction, sum(a.bytes for a in ends if a.space == 0)
    elif instruction.opcode.endswith("-start"):
      yield instruction, _moved_by_start(instruction)
    else:
      read = sum(_size(known[o]) for o in instruction.operands if o in known)
      yield instruction, read + _size(instruction)


def moved_bytes(module: Module) -> int:
  """Returns the bytes that a device reads and writes, loops counted by trip.

  Of branches the one that moves most is taken; a loop that doesn't say how long
  it is counts once.
  """

  def of(name: str) -> int:
    total = 0
    for instruction, own in _moved(module, name):
      inside = [of(called) for called in _runs(instruction)]
      if instruction.opcode == "conditional":
        total += max(inside, default=0)
      else:
        trips = (
          module.trips(instruction) or 1 if instruction.opcode == "while" else 1
        )
        total += trips * sum(inside)
      total += own
    return total

  return of(module.entry)


def _runs(instruction: Instruction) -> tuple[str, ...]:
  if instruction.opcode in ("while", "conditional", "call"):
    return instruction.called
  return ()
