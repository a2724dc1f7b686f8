"""HBM accesses and aliasing of instructions, and traffic of programs.

An instruction reads its operands and writes its results once. Exceptions:
slicing reads only the slice, an in-place update writes only the update,
forwarded operands are not accessed, and kernels of attention read an operand
once that is listed for queries, keys and values. For a fusion, accesses follow
from the instructions in its body. In contrast to the compiler's "bytes
accessed", on-chip memory is left out and loop bodies count by trip.
"""

import re
from collections.abc import Iterable, Mapping
from typing import NamedTuple

from jssl.preflight.hlo import trip_counts
from jssl.preflight.hlo.text import Array, Instruction, Location, Module

# No traffic, or traffic that is counted in the called computations.
_NO_TRAFFIC = frozenset(
  (
    *("parameter", "constant", "tuple", "get-tuple-element", "bitcast"),
    *("while", "conditional", "call", "optimization-barrier", "iota"),
    *("after-all", "add-dependency", "partition-id", "replica-id"),
  )
)
# Custom calls that allocate uninitialised memory, and the two ends of an
# asynchronous collective.
_ALLOCATES = '"AllocateBuffer"'
_ENDS = ('"AsyncCollectiveStart"', '"AsyncCollectiveDone"')
# Results that are views of the first operand's buffers.
_VIEWS = frozenset(
  ("bitcast", "while", "optimization-barrier", "add-dependency")
)
_RESULTS_FIRST = ("copy-start", "recv")
# Kernels that read parts of an operand, which is listed once for each part.
_READS_PARTS = "/attention_"
_SLICES = frozenset(("dynamic-slice", "gather", "slice"))
_ALIASES = re.compile(r"output_to_operand_aliasing=\{((?:[^{}]|\{[^{}]*\})*)\}")
_ALIAS = re.compile(r"\{(\d*)\}: \((\d+), \{\}")


_Alias = tuple[int, int]


class Access(NamedTuple):
  """HBM accesses of one execution of an instruction.

  Attributes:
    aliases: buffer that an array of the result reuses, as the index of an
      operand and of an array of that operand; None for a new buffer.
    read: bytes read of each operand.
    written: bytes written of each array of the result.
  """

  aliases: tuple[_Alias | None, ...]
  read: tuple[int, ...]
  written: tuple[int, ...]

  @property
  def total(self) -> int:
    """Bytes read and written."""
    return sum(self.read) + sum(self.written)


def hbm_size(arrays: Iterable[Array]) -> int:
  """Returns the bytes of the arrays in HBM."""
  return sum(array.bytes for array in arrays if array.space == 0)


def _operand_arrays(
  module: Module, instruction: Instruction
) -> list[tuple[Array, ...]]:
  known = module.by_name
  return [known[o].arrays if o in known else () for o in instruction.operands]


def _aliases(module: Module, instruction: Instruction) -> dict[int, _Alias]:
  """Returns aliases by index in the result, except those inside of fusions."""
  opcode, count = instruction.opcode, len(instruction.arrays)
  operands = _operand_arrays(module, instruction)
  if opcode == "dynamic-update-slice":
    return {0: (0, 0)}
  if opcode == "tuple":
    arrays = [
      (at, i) for at, own in enumerate(operands) for i in range(len(own))
    ]
    return dict(enumerate(arrays))
  if opcode == "get-tuple-element":
    return {0: (0, instruction.tuple_index)}
  if opcode in _VIEWS:
    return {index: (0, index) for index in range(count)}
  if opcode == "copy-start":
    # (destination, source, context)
    return {1: (0, 0), 2: (0, 0)}
  if opcode.endswith("-start") and count > 1:
    # (operands, results, contexts)
    return {at: (at, 0) for at in range(len(operands))}
  if opcode.endswith("-done") and operands:
    # The results of the start follow its operands.
    start = module.by_name[instruction.operands[0]]
    skipped = len(operands[0]) > count and start.opcode not in _RESULTS_FIRST
    offset = len(start.operands) if skipped else 0
    return {index: (0, offset + index) for index in range(count)}
  annotated = _ALIASES.search(instruction.rest)
  found = _ALIAS.findall(annotated.group(1)) if annotated else ()
  return {int(result or 0): (int(operand), 0) for result, operand in found}


class _FusedComputation:
  """The body of a fusion."""

  def __init__(self, module: Module, name: str, accesses: Mapping[str, Access]):
    own = module.computations[name]
    self._accesses = accesses
    self._known = {i.name: i for i in own}
    self.root = self._known[module.roots[name]]
    self._users: dict[str, list[tuple[Instruction, int]]] = {}
    for instruction in own:
      for index, operand in enumerate(instruction.operands):
        self._users.setdefault(operand, []).append((instruction, index))
    self.parameters = {
      int(i.rest.split(",")[0]): i.name for i in own if i.opcode == "parameter"
    }

  def source(self, index: int) -> str:
    """Returns the instruction that computes array `index` of the result."""
    alias = self._accesses[self.root.name].aliases[index]
    is_tuple = self.root.opcode == "tuple"
    return (
      self.root.operands[alias[0]] if alias and is_tuple else self.root.name
    )

  def update(self, name: str, index: int = 0) -> tuple[int, int] | None:
    """Traces in-place updates of a parameter.

    Returns the parameter whose memory holds array `index` of a result, and the
    bytes written to it; None for an array in memory of its own.
    """
    value = self._known.get(name)
    if value is None:
      return None
    if value.opcode == "parameter":
      return int(value.rest.split(",")[0]), 0
    access = self._accesses[value.name]
    alias = access.aliases[index] if index < len(access.aliases) else None
    before = alias and self.update(value.operands[alias[0]], alias[1])
    return before and (before[0], before[1] + access.written[index])

  def read(self, name: str) -> int:
    """Returns the bytes that all users of a value read of it."""
    total = 0
    for user, index in self._users.get(name, ()):
      if user.opcode == "tuple":
        continue
      access = self._accesses[user.name]
      total += access.read[index]
      if any(alias and alias[0] == index for alias in access.aliases):
        total += self.read(user.name)
    return total


def _fusion_access(
  module: Module,
  fusion: Instruction,
  accesses: Mapping[str, Access],
  async_parts: frozenset[str],
) -> Access:
  body = _FusedComputation(module, fusion.called[0], accesses)
  annotated = _aliases(module, fusion)
  operands = _operand_arrays(module, fusion)
  aliases: list[_Alias | None] = []
  written: list[int] = []
  for at, array in enumerate(fusion.arrays):
    update = body.update(body.root.name, at)
    # An update from one memory space to another is a copy.
    if update and [a.space for a in operands[update[0]]] != [array.space]:
      update = None
    # The transfer of an asynchronous collective is counted at its start.
    is_async = at in annotated and body.source(at) in async_parts
    size = update[1] if update else 0 if is_async else array.bytes
    aliases.append((update[0], 0) if update else annotated.get(at))
    written.append(min(size, array.bytes) if array.space == 0 else 0)
  read = [
    min(hbm_size(arrays), body.read(body.parameters.get(at, "")))
    for at, arrays in enumerate(operands)
  ]
  return Access(tuple(aliases), tuple(read), tuple(written))


def _access(
  module: Module, instruction: Instruction, async_parts: frozenset[str]
) -> Access:
  opcode, arrays = instruction.opcode, instruction.arrays
  known = _aliases(module, instruction)
  aliases = tuple(known.get(at) for at in range(len(arrays)))
  operands = _operand_arrays(module, instruction)
  if (
    opcode in _NO_TRAFFIC
    or opcode.endswith(("-update", "-done"))
    or instruction.name in async_parts
    or _ALLOCATES in instruction.rest
  ):
    return Access(aliases, (0,) * len(operands), (0,) * len(arrays))
  read = [hbm_size(own) for own in operands]
  written = [hbm_size((array,)) for array in arrays]
  if opcode == "dynamic-update-slice":
    update = sum(array.bytes for array in operands[1])
    read[0], written[0] = 0, min(update, written[0])
  elif opcode.endswith("-start"):
    # A start can slice its operand.
    results = [array for at, array in enumerate(arrays) if at not in known]
    largest = max(array.bytes for array in results)
    read = [min(size, largest) for size in read]
    written = [0 if at in known else n for at, n in enumerate(written)]
  elif opcode == "custom-call" and _READS_PARTS in instruction.op_name:
    names = instruction.operands
    read = [0 if names[at] in names[:at] else n for at, n in enumerate(read)]
  elif opcode in _SLICES:
    read[0] = min(read[0], sum(array.bytes for array in arrays))
  return Access(aliases, tuple(read), tuple(written))


def accesses(module: Module) -> dict[str, Access]:
  """Returns the accesses of each instruction by name.

  The start of an asynchronous pair accounts for both.
  """
  found: dict[str, Access] = {}
  async_parts = trip_counts.async_continuations(module) | frozenset(
    name
    for name, i in module.by_name.items()
    if any(end in i.rest for end in _ENDS)
  )
  # Called computations precede their callers.
  for own in module.computations.values():
    for i in own:
      if i.opcode == "fusion":
        found[i.name] = _fusion_access(module, i, found, async_parts)
      else:
        found[i.name] = _access(module, i, async_parts)
  return found


class LineTraffic(NamedTuple):
  """HBM traffic of one source line, in bytes.

  Attributes:
    location: the line; None without one in the project.
    read: bytes read.
    written: bytes written.
    op_name: JAX's name of the operation with the most traffic.
  """

  location: Location | None
  read: int
  written: int
  op_name: str


def _executed(module: Module) -> list[tuple[Instruction, int, Access]]:
  """Returns instructions outside of fusions, with executions and accesses."""
  by_name = accesses(module)
  bodies = [
    called
    for i in module.by_name.values()
    if i.opcode in trip_counts.CONTROL_FLOW
    for called in i.called
  ]
  moved = {
    i.name: by_name[i.name].total
    for body in (module.entry, *bodies)
    for i in module.computations[body]
  }
  steps = trip_counts.executed(module, lambda i: moved.get(i.name, 0))
  return [(i, times, by_name[i.name]) for i, times in steps if i.name in moved]


def hbm_bytes(module: Module) -> int:
  """Returns bytes that a device reads and writes in one run of the program."""
  return sum(times * access.total for _, times, access in _executed(module))


def traffic_by_line(module: Module, root: str = "") -> list[LineTraffic]:
  """Returns the HBM traffic of one run by source line, largest first.

  Args:
    module: compiled program.
    root: folder of the source files that traffic is attributed to.
  """
  lines: dict[Location | None, list[tuple[int, int, str]]] = {}
  for instruction, times, access in _executed(module):
    if access.total:
      origin = module.origin(instruction)
      read, written = times * sum(access.read), times * sum(access.written)
      own = lines.setdefault(module.location(origin, root), [])
      own.append((read, written, origin.op_name))
  found = [
    LineTraffic(
      location,
      read=sum(read for read, _, _ in own),
      written=sum(written for _, written, _ in own),
      op_name=max(own, key=lambda one: one[0] + one[1])[2],
    )
    for location, own in lines.items()
  ]
  return sorted(found, key=lambda line: -(line.read + line.written))
