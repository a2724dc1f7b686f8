"""Which devices a collective is among, from the forms that compilers write."""

import re
from collections.abc import Mapping, Sequence

import numpy as np
from jaxtyping import Int

from jssl.preflight.hlo.text import Instruction

_PAIRS = re.compile(r"source_target_pairs=\{(.*?\})\}")
_EXPLICIT = re.compile(r"replica_groups=\{(\{.*?\})\}")
_ALL = re.compile(r"replica_groups=\{\}")
# [groups, members]<=[shape]T(order): devices in a grid, transposed, cut anew.
_GRID = r"\[([\d,]+)\](?:T\(([\d,]+)\))?"
_IOTA = re.compile(rf"replica_groups=\[([\d,]+)\]<={_GRID}")
# mesh['a'=2,'b'=4], device_ids=([4,2]T(1,0)) {'b'}: devices in a mesh, and the
# axes that a group goes along; 'a':(2)3 is the part of size 3 of an axis, after
# one of size 2.
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
  """Returns groups of a mesh that is written out, [groups, members]."""
  sizes = {name: int(size) for name, size in _AXIS.findall(axes)}
  devices = np.arange(np.prod([*sizes.values()], dtype=int))
  if ids:
    grid = re.fullmatch(_GRID, ids)
    devices = _grid(*grid.groups()) if grid else np.array(_integers(ids))
  # Each axis in three: what is before the part that is gone along, that, and
  # what is after it.
  parts = {name: (size, 1, 1) for name, size in sizes.items()}
  for name, before, own in _ALONG.findall(along):
    first, size = int(before or 1), int(own or sizes[name])
    parts[name] = (first, size, sizes[name] // (first * size))
  whole = devices.reshape([size for part in parts.values() for size in part])
  inner = [3 * i + 1 for i in range(len(parts))]
  members = int(np.prod([whole.shape[i] for i in inner]))
  return np.moveaxis(whole, inner, range(-len(inner), 0)).reshape(-1, members)


def groups(instruction: Instruction, devices: int) -> Sequence[Sequence[int]]:
  """Returns devices that send to each other, by their place in the mesh.

  Args:
    instruction: that sends.
    devices: that there are.

  Raises:
    ValueError: it says which in a form that isn't known here.
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
      f"{instruction.name} says who sends as {form!r}, which isn't known: "
      "expected {{0,1},..}, [2,2]<=[4], mesh['a'=2,..] {'a'} or pairs"
    )
  # No groups: all of them.
  return [[*range(devices)]]


def axes(
  among: Sequence[Sequence[int]], mesh: Mapping[str, int]
) -> tuple[str, ...]:
  """Returns the axes of a mesh along which members of a group differ."""
  shape = tuple(mesh.values())
  differ = np.zeros(len(shape), bool)
  for group in among:
    at: Int[np.ndarray, "axes members"] = np.array(
      np.unravel_index(group, shape)
    )
    differ |= np.any(at != at[:, :1], axis=1)
  return tuple(axis for axis, own in zip(mesh, differ, strict=True) if own)
