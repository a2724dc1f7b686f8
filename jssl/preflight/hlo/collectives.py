"""Collectives of a compiled program and the mesh axes they communicate over."""

import math
from collections.abc import Mapping, Sequence
from typing import NamedTuple

from jssl.preflight.hlo import groups, trip_counts
from jssl.preflight.hlo.text import Instruction, Location, Module

_KINDS = frozenset(
  (
    *("all-reduce", "all-gather", "all-to-all", "reduce-scatter"),
    *("collective-permute", "ragged-all-to-all", "collective-broadcast"),
  )
)
# Transfers between TPU slices, over the data-centre network.
BETWEEN_SLICES = "send"


class Collective(NamedTuple):
  """A collective instruction; sizes are per device and execution.

  Attributes:
    kind: for example "all-reduce", or `BETWEEN_SLICES`.
    axes: mesh axes that it communicates over; () between slices.
    times: executions in one run of the program.
    result_bytes: size of the result.
    sent_bytes: bytes sent by a ring algorithm.
    location: source line; None if unknown.
  """

  kind: str
  axes: tuple[str, ...]
  times: int
  result_bytes: int
  sent_bytes: int
  location: Location | None


def _result_bytes(instruction: Instruction) -> int:
  """Returns the size of the result, without operands aliased by a start."""
  sizes = [array.bytes for array in instruction.arrays]
  is_start = instruction.opcode.endswith("-start")
  if is_start and instruction.opcode != "all-reduce-start":
    # (operands, results, contexts)
    own = len(instruction.operands)
    return sum(sizes[own : 2 * own])
  return sum(sizes)


def _ring_bytes(kind: str, result: int, members: int) -> int:
  """Returns the bytes that a device sends with a ring algorithm."""
  share = (members - 1) / members
  factors = {
    "all-reduce": 2 * share,
    "all-gather": share,
    "reduce-scatter": members - 1,
    "all-to-all": share,
    "ragged-all-to-all": share,
  }
  return round(result * factors.get(kind, 1))


def _users(own: Sequence[Instruction], name: str) -> list[Instruction]:
  """Returns users of a result, seen through bitcasts and tuple elements."""
  names, users = {name}, []
  for instruction in own:
    if names.intersection(instruction.operands):
      if instruction.opcode in ("get-tuple-element", "bitcast"):
        names.add(instruction.name)
      else:
        users.append(instruction)
  return users


def _scattered_bytes(module: Module) -> dict[str, int]:
  """Returns result sizes of all-reduces of which only slices are used.

  XLA:TPU executes such a fusion as a reduce-scatter.
  """
  sizes = {}
  for own in module.computations.values():
    for instruction in own:
      if instruction.opcode == "all-reduce":
        users = _users(own, instruction.name)
        if users and all(user.opcode == "dynamic-slice" for user in users):
          sizes[instruction.name] = sum(
            array.bytes for user in users for array in user.arrays
          )
  return sizes


def _collective(
  instruction: Instruction,
  mesh: Mapping[str, int],
  scattered: Mapping[str, int],
) -> Collective | None:
  """Returns the collective of an instruction, None for other instructions."""
  kind = instruction.opcode.removesuffix("-start")
  if kind == "send" and "xla_megascale_runtime" in instruction.rest:
    size = instruction.arrays[0].bytes
    return Collective(BETWEEN_SLICES, (), 1, size, size, None)
  if kind not in _KINDS:
    return None
  members = groups.groups(instruction, math.prod(mesh.values()))
  size = len(members[0])
  if size < 2:
    return None
  result = _result_bytes(instruction)
  if instruction.name in scattered:
    kind, result = "reduce-scatter", scattered[instruction.name]
  sent = _ring_bytes(kind, result, size)
  return Collective(kind, groups.axes(members, mesh), 1, result, sent, None)


def collectives(
  module: Module, mesh: Mapping[str, int], root: str = ""
) -> list[Collective]:
  """Returns the executed collectives; see `hlo.trip_counts` for counts.

  Args:
    module: compiled program.
    mesh: axis sizes by name, as `Mesh.shape`; with several TPU slices, the mesh
      of one slice, because replica groups are per slice.
    root: folder of the source files that collectives are attributed to.

  Raises:
    ValueError: if replica groups have an unknown format.
  """
  continuations = trip_counts.async_continuations(module)
  scattered = _scattered_bytes(module)
  found = {
    name: collective
    for name, instruction in trip_counts.by_name(module).items()
    if name not in continuations
    and (collective := _collective(instruction, mesh, scattered))
  }

  def sent(instruction: Instruction) -> int:
    collective = found.get(instruction.name)
    return collective.sent_bytes if collective else 0

  return [
    found[instruction.name]._replace(
      times=times, location=module.location(instruction, root)
    )
    for instruction, times in trip_counts.executed(module, sent)
    if instruction.name in found
  ]
