"""Collectives of a compiled program and the mesh axes they communicate over."""

import math
import re
from collections.abc import Iterable, Mapping, Sequence
from typing import NamedTuple

import numpy as np
from jaxtyping import Int

from jssl.preflight.hlo import trip_counts
from jssl.preflight.hlo.text import Instruction, Module

_KINDS = frozenset(
  (
    *("all-reduce", "all-gather", "all-to-all", "reduce-scatter"),
    *("collective-permute", "ragged-all-to-all", "collective-broadcast"),
  )
)
# Transfers between TPU slices, over the data-centre network.
BETWEEN_SLICES = "send"

_EXPLICIT = re.compile(r"(?:replica_groups|source_target_pairs)=\{(\{.*?\})\}")
# Iota format, [groups, members]<=[shape]T(order): arange(N).reshape(shape)
# .transpose(order).reshape(groups, members).
_GRID = r"\[([\d,]+)\](?:T\(([\d,]+)\))?"
_IOTA = re.compile(rf"replica_groups=\[([\d,]+)\]<={_GRID}")
# Mesh format, mesh['a'=2,'b'=4], device_ids=([4,2]T(1,0)) {'b'}: groups along
# the axes in braces; 'a':(2)3 is the sub-axis of size 3 after one of size 2.
_MESH = re.compile(
  r"replica_groups=mesh\[([^\]]*)\](?:, ?device_ids=\(([^{]*?)\))? ?\{([^}]*)\}"
)
_AXIS = re.compile(r"'?([\w.\-]+)'?=(\d+)")
_ALONG = re.compile(r"'?([\w.\-]+)'?(?::\((\d+)\)(\d+))?")


class Collective(NamedTuple):
  """Collectives of one kind over the same mesh axes, per device and run.

  Attributes:
    kind: for example "all-reduce", or `BETWEEN_SLICES`.
    axes: mesh axes that they communicate over; () between slices.
    times: number of executions.
    received_bytes: size of the results.
    sent_bytes: bytes sent by ring algorithms.
    network_bytes: lower bound on the part of `sent_bytes` that goes to other
      nodes of GPUs, when all GPUs of a node share that traffic.
  """

  kind: str
  axes: tuple[str, ...]
  times: int
  received_bytes: int
  sent_bytes: int
  network_bytes: int = 0
  instructions: int = 1

  @property
  def crosses_slices(self) -> bool:
    """True for transfers between TPU slices."""
    return self.kind == BETWEEN_SLICES


def _integers(text: str) -> list[int]:
  return [int(number) for number in re.findall(r"\d+", text)]


def _grid(shape: str, order: str | None) -> Int[np.ndarray, "..."]:
  sizes = _integers(shape)
  ids = np.arange(np.prod(sizes)).reshape(sizes)
  return ids.transpose(_integers(order)) if order else ids


def _mesh_groups(axes: str, ids: str | None, along: str) -> list[list[int]]:
  sizes = {name: int(size) for name, size in _AXIS.findall(axes)}
  devices = np.arange(np.prod([*sizes.values()], dtype=int))
  if ids:
    grid = re.fullmatch(_GRID, ids)
    devices = _grid(*grid.groups()) if grid else np.array(_integers(ids))
  # Splits each axis into (before, sub-axis of the groups, after).
  parts = {name: (size, 1, 1) for name, size in sizes.items()}
  for name, before, own in _ALONG.findall(along):
    first, size = int(before or 1), int(own or sizes[name])
    parts[name] = (first, size, sizes[name] // (first * size))
  whole = devices.reshape([size for part in parts.values() for size in part])
  inner = [3 * i + 1 for i in range(len(parts))]
  members = int(np.prod([whole.shape[i] for i in inner]))
  by_group = np.moveaxis(whole, inner, range(-len(inner), 0))
  return by_group.reshape(-1, members).tolist()


def replica_groups(instruction: Instruction, devices: int) -> list[list[int]]:
  """Returns the groups of a collective as device indices in the mesh.

  Raises:
    ValueError: if the groups have an unknown format.
  """
  rest = instruction.rest
  if iota := _IOTA.search(rest):
    shape, *grid = iota.groups()
    return _grid(*grid).reshape(_integers(shape)).tolist()
  if explicit := _EXPLICIT.search(rest):
    return [_integers(group) for group in explicit.group(1).split("},")]
  if mesh := _MESH.search(rest):
    return _mesh_groups(*mesh.groups())
  if re.search(r"replica_groups=(?!\{\})", rest):
    form = rest[rest.index("replica_groups=") :][:80]
    raise ValueError(
      f"{instruction.name}: unknown format {form!r}; expected {{{{0,1}},..}}, "
      "[2,2]<=[4], mesh['a'=2,..] {'a'} or source_target_pairs"
    )
  # Without groups: all devices.
  return [[*range(devices)]]


def mesh_axes(
  groups: Sequence[Sequence[int]], mesh: Mapping[str, int]
) -> tuple[str, ...]:
  """Returns the mesh axes along which members of a group differ."""
  differ = np.zeros(len(mesh), bool)
  for group in groups:
    at: Int[np.ndarray, "axes members"] = np.array(
      np.unravel_index(group, tuple(mesh.values()))
    )
    differ |= np.any(at != at[:, :1], axis=1)
  return tuple(axis for axis, own in zip(mesh, differ, strict=True) if own)


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


def network_share(
  kind: str, groups: Sequence[Sequence[int]], devices_per_node: int
) -> float:
  """Returns the least share of a device's sent bytes that leaves its node.

  Assumes that each of the devices of a group in a node exchanges a distinct
  part with the other nodes: of the `members - 1` parts that a ring sends,
  `nodes - 1` leave the node.
  """
  members = len(groups[0])
  nodes = max(len({i // devices_per_node for i in own}) for own in groups)
  share = (nodes - 1) / (members - 1)
  is_all_to_all = kind in ("all-to-all", "ragged-all-to-all")
  return share * members / nodes if is_all_to_all else share


def _collective(
  instruction: Instruction,
  mesh: Mapping[str, int],
  nodes: int,
  scattered: Mapping[str, int],
) -> Collective | None:
  """Returns one execution of a collective, None for other instructions."""
  kind = instruction.opcode.removesuffix("-start")
  if kind == "send" and "xla_megascale_runtime" in instruction.rest:
    size = instruction.arrays[0].bytes
    return Collective(BETWEEN_SLICES, (), 1, size, size)
  if kind not in _KINDS:
    return None
  devices = math.prod(mesh.values())
  groups = replica_groups(instruction, devices)
  members = len(groups[0])
  if members < 2:
    return None
  result = _result_bytes(instruction)
  if instruction.name in scattered:
    kind, result = "reduce-scatter", scattered[instruction.name]
  sent = _ring_bytes(kind, result, members)
  network = round(sent * network_share(kind, groups, devices // nodes))
  return Collective(kind, mesh_axes(groups, mesh), 1, result, sent, network)


def collectives(
  module: Module, mesh: Mapping[str, int], nodes: int = 1
) -> list[Collective]:
  """Returns the collective instructions of a run of the program, in order.

  Args:
    module: compiled program.
    mesh: axis sizes by name, as `Mesh.shape`; with several TPU slices, the mesh
      of one slice, because replica groups are per slice.
    nodes: number of nodes of GPUs.
  """
  continuations = trip_counts.async_continuations(module)
  scattered = _scattered_bytes(module)
  found = {
    name: collective
    for name, instruction in module.by_name.items()
    if name not in continuations
    and (collective := _collective(instruction, mesh, nodes, scattered))
  }

  def sent(instruction: Instruction) -> int:
    collective = found.get(instruction.name)
    return collective.sent_bytes if collective else 0

  return [
    Collective(own.kind, own.axes, *(times * n for n in own[2:-1]))
    for instruction, times in trip_counts.executed(module, sent)
    if (own := found.get(instruction.name))
  ]


def by_kind_and_axes(found: Iterable[Collective]) -> tuple[Collective, ...]:
  """Adds up collectives of the same kind over the same axes."""
  groups: dict[tuple[str, tuple[str, ...]], list[Collective]] = {}
  for one in found:
    groups.setdefault(one[:2], []).append(one)
  return tuple(
    Collective(*key, *np.sum([own[2:] for own in groups[key]], 0).tolist())
    for key in sorted(groups)
  )
