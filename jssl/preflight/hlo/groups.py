"""Replica groups of collectives and the mesh axes that they span."""

import re
from collections.abc import Mapping, Sequence

import numpy as np
from jaxtyping import Int

from jssl.preflight.hlo.text import Instruction

_PAIRS = re.compile(r"source_target_pairs=\{(.*?\})\}")
_EXPLICIT = re.compile(r"replica_groups=\{(\{.*?\})\}")
_ALL = re.compile(r"replica_groups=\{\}")
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

_Ids = Int[np.ndarray, "..."]


def _integers(text: str | None) -> list[int]:
  return [int(number) for number in re.findall(r"\d+", text or "")]


def _grid(shape: str, order: str | None) -> _Ids:
  sizes = _integers(shape)
  ids = np.arange(np.prod(sizes)).reshape(sizes)
  return ids.transpose(_integers(order)) if order else ids


def _along(axes: str, ids: str | None, along: str) -> _Ids:
  """Returns the groups of the mesh format, [groups, members]."""
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
  return np.moveaxis(whole, inner, range(-len(inner), 0)).reshape(-1, members)


def groups(instruction: Instruction, devices: int) -> Sequence[Sequence[int]]:
  """Returns the groups of a collective as device indices in the mesh.

  Args:
    instruction: a collective.
    devices: number of devices of the program.

  Raises:
    ValueError: if the groups have an unknown format.
  """
  rest = instruction.rest
  if pairs := _PAIRS.search(rest):
    return [_integers(pair) for pair in pairs.group(1).split("},")]
  if iota := _IOTA.search(rest):
    shape, *grid = iota.groups()
    return _grid(*grid).reshape(_integers(shape)).tolist()
  if explicit := _EXPLICIT.search(rest):
    return [_integers(group) for group in explicit.group(1).split("},")]
  if mesh := _MESH.search(rest):
    return _along(*mesh.groups()).tolist()
  if "replica_groups=" in rest and not _ALL.search(rest):
    form = rest[rest.index("replica_groups=") :][:80]
    raise ValueError(
      f"{instruction.name}: unknown format {form!r}; expected {{{{0,1}},..}}, "
      "[2,2]<=[4], mesh['a'=2,..] {'a'} or source_target_pairs"
    )
  # Without groups: all devices.
  return [[*range(devices)]]


def axes(
  members: Sequence[Sequence[int]], mesh: Mapping[str, int]
) -> tuple[str, ...]:
  """Returns the mesh axes along which members of a group differ."""
  shape = tuple(mesh.values())
  differ = np.zeros(len(shape), bool)
  for group in members:
    at: Int[np.ndarray, "axes members"] = np.array(
      np.unravel_index(group, shape)
    )
    differ |= np.any(at != at[:, :1], axis=1)
  return tuple(axis for axis, own in zip(mesh, differ, strict=True) if own)
