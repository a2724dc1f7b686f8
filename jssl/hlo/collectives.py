"""What devices send each other in a compiled program, and along which axes."""

import re
from collections.abc import Mapping, Sequence
from typing import NamedTuple

import numpy as np
from jaxtyping import Int

from jssl.hlo.text import Instruction, Module, Place, walk

_KINDS = (
  "all-reduce",
  "all-gather",
  "all-to-all",
  "reduce-scatter",
  "collective-permute",
  "ragged-all-to-all",
  "collective-broadcast",
)
_EXPLICIT = re.compile(r"replica_groups=\{(\{.*?\})?\}")
_IOTA = re.compile(
  r"replica_groups=\[([\d,]+)\]<=\[([\d,]+)\](?:T\(([\d,]+)\))?"
)
_PAIRS = re.compile(r"source_target_pairs=\{(.*?\})\}")


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


def _integers(text: str) -> list[int]:
  return [int(number) for number in re.findall(r"\d+", text)]


def _groups(instruction: Instruction, devices: int) -> list[list[int]]:
  """Returns devices that send to each other, by their place in the mesh."""
  pairs = _PAIRS.search(instruction.rest)
  if pairs:
    return [_integers(pair) for pair in pairs.group(1).split("},")]
  iota = _IOTA.search(instruction.rest)
  if iota:
    shape, reshape, transposed = (
      _integers(part or "") for part in iota.groups()
    )
    order = np.arange(devices).reshape(reshape)
    order = order.transpose(transposed) if transposed else order
    return order.reshape(shape).tolist()
  explicit = _EXPLICIT.search(instruction.rest)
  if explicit and explicit.group(1):
    return [_integers(group) for group in explicit.group(1).split("},")]
  # No groups: all of them.
  return [[*range(devices)]]


def _axes(
  groups: Sequence[Sequence[int]], mesh: Mapping[str, int]
) -> tuple[str, ...]:
  """Returns the axes along which members of a group differ."""
  shape = tuple(mesh.values())
  differ = np.zeros(len(shape), bool)
  for group in groups:
    at: Int[np.ndarray, "axes members"] = np.array(
      np.unravel_index(group, shape)
    )
    differ |= np.any(at != at[:, :1], axis=1)
  return tuple(axis for axis, own in zip(mesh, differ, strict=True) if own)


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


def _scattered(module: Module) -> dict[str, int]:
  """Returns bytes that are kept of all-reduces of which only a part is.

  TPUs run such a fusion as one reduce-scatter.
  """
  kept = {}
  for name, instructions in module.computations.items():
    known = {i.name: i for i in instructions}
    root = known.get(module.roots.get(name, ""))
    if root is not None and root.opcode == "dynamic-slice":
      whole = known.get(root.operands[0])
      if whole is not None and whole.opcode == "all-reduce":
        kept[whole.name] = sum(array.bytes for array in root.arrays)
  return kept


def _between_slices(instruction: Instruction) -> bool:
  """Whether an instruction sends to another slice."""
  return (
    instruction.opcode == "send" and "xla_megascale_runtime" in instruction.rest
  )


def collectives(
  module: Module, mesh: Mapping[str, int], root: str = ""
) -> list[Collective]:
  """Returns all instructions of a program that send.

  Args:
    module: the compiled program.
    mesh: sizes of the axes by name, as `Mesh.shape`; of several TPU slices
      those of one, to which a program's groups belong.
    root: a folder; the place of an instruction is its innermost line there.

  Raises:
    ValueError: some are in a loop that doesn't say how long it is.
  """
  devices = int(np.prod(list(mesh.values())))
  kept = _scattered(module)
  found = []
  for instruction, times in walk(module):
    kind = instruction.opcode.removesuffix("-start")
    if _between_slices(instruction):
      kind = BETWEEN_SLICES
    elif kind not in _KINDS:
      continue
    if times is None:
      raise ValueError(
        f"{instruction.name} ({instruction.op_name}) is in a loop that doesn't "
        "say how often it runs"
      )
    places = module.places(instruction)
    own = [place for place in places if place.file.startswith(root)]
    result = _result_bytes(instruction)
    groups = _groups(instruction, devices)
    axes, members = _axes(groups, mesh), len(groups[0])
    if kind == BETWEEN_SLICES:
      axes, result = (), instruction.arrays[0].bytes
    elif members < 2:
      continue
    if instruction.name in kept:
      kind, result = "reduce-scatter", kept[instruction.name]
    found.append(
      Collective(
        kind,
        axes,
        times,
        result,
        _sent(kind, result, members),
        own[0] if own else None,
      )
    )
  return found
