"""What devices send each other in a compiled program, and along which axes."""

import math
from collections.abc import Mapping, Sequence
from typing import NamedTuple

from jssl.preflight.hlo import groups, trip_counts
from jssl.preflight.hlo.text import Instruction, Module, Place

_KINDS = (
  "all-reduce",
  "all-gather",
  "all-to-all",
  "reduce-scatter",
  "collective-permute",
  "ragged-all-to-all",
  "collective-broadcast",
)

# What a TPU's program hands to the runtime of the data centre's network.
BETWEEN_SLICES = "send"


class Collective(NamedTuple):
  """One instruction that sends, for each device.

  Attributes:
    kind: as "all-reduce", or `BETWEEN_SLICES`.
    axes: of the mesh along which it sends, in the mesh's order; () between
      slices.
    times: that it runs in a step.
    result_bytes: that it leaves a device with, each time.
    sent_bytes: that a device sends each time, by the algorithm that sends
      least: a ring.
    place: the line that it is of; None if the program doesn't say.
  """

  kind: str
  axes: tuple[str, ...]
  times: int
  result_bytes: int
  sent_bytes: int
  place: Place | None


def _result_bytes(instruction: Instruction) -> int:
  """Returns the bytes of the results; of a pair's start, without operands."""
  sizes = [array.bytes for array in instruction.arrays]
  if instruction.opcode.endswith("-start"):
    if instruction.opcode.startswith("all-reduce"):
      return sum(sizes)
    # (operands, results, contexts of the transfer)
    own = len(instruction.operands)
    return sum(sizes[own : 2 * own])
  return sum(sizes)


def _sent(kind: str, result: int, members: int) -> int:
  """Returns what a ring sends of a result, from a device."""
  shares = {
    "all-reduce": 2 * (members - 1) / members,
    "all-gather": (members - 1) / members,
    "reduce-scatter": members - 1,
    "all-to-all": (members - 1) / members,
    "ragged-all-to-all": (members - 1) / members,
  }
  return round(result * shares.get(kind, 1))


def _kept(module: Module) -> dict[str, int]:
  """Returns bytes that are kept of all-reduces of which only parts are.

  TPUs run such a fusion as one reduce-scatter.
  """
  kept = {}
  for own in module.computations.values():
    for whole in own:
      if whole.opcode != "all-reduce":
        continue
      parts = _users(own, {whole.name})
      if parts and all(part.opcode == "dynamic-slice" for part in parts):
        kept[whole.name] = sum(a.bytes for part in parts for a in part.arrays)
  return kept


def _users(own: Sequence[Instruction], names: set[str]) -> list[Instruction]:
  """Returns what uses a result, whole or by its elements."""
  found = []
  # What is used stands before its users.
  for instruction in own:
    if names.intersection(instruction.operands):
      if instruction.opcode in ("get-tuple-element", "bitcast"):
        names = names | {instruction.name}
      else:
        found.append(instruction)
  return found


def _collective(
  instruction: Instruction, mesh: Mapping[str, int], kept: Mapping[str, int]
) -> Collective | None:
  """Returns what an instruction sends, if it does, in one run."""
  kind = instruction.opcode.removesuffix("-start")
  if kind == "send" and "xla_megascale_runtime" in instruction.rest:
    size = instruction.arrays[0].bytes
    return Collective(BETWEEN_SLICES, (), 1, size, size, None)
  if kind not in _KINDS:
    return None
  among = groups.groups(instruction, math.prod(mesh.values()))
  if len(among[0]) < 2:
    return None
  result = _result_bytes(instruction)
  if instruction.name in kept:
    kind, result = "reduce-scatter", kept[instruction.name]
  sent = _sent(kind, result, len(among[0]))
  return Collective(kind, groups.axes(among, mesh), 1, result, sent, None)


def collectives(
  module: Module, mesh: Mapping[str, int], root: str = ""
) -> list[Collective]:
  """Returns all instructions of a program that send in a step.

  Loops and branches as in `hlo.trip_counts`: by trip, and the branch that sends
  least. A collective that others carry along counts once.

  Args:
    module: the compiled program.
    mesh: sizes of the axes by name, as `Mesh.shape`; of several TPU slices
      those of one, to which a program's groups belong.
    root: a folder; the place of an instruction is its innermost line there.

  Raises:
    ValueError: one says who sends in a form that isn't known.
  """
  carried, kept = trip_counts.carried(module), _kept(module)
  found = {
    name: one
    for name, instruction in trip_counts.named(module).items()
    if name not in carried and (one := _collective(instruction, mesh, kept))
  }

  def sent(instruction: Instruction) -> int:
    return (
      found[instruction.name].sent_bytes if instruction.name in found else 0
    )

  return [
    found[instruction.name]._replace(
      times=times, place=module.place(instruction, root)
    )
    for instruction, times in trip_counts.walk(module, sent)
    if instruction.name in found
  ]
