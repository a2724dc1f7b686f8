"""Parser for the HLO text of compiled programs.

Reads the output of `jax.stages.Compiled.as_text()` on CPU, GPU and TPU, as far
as memory, collectives and loops depend on it.
"""

import dataclasses
import functools
import math
import re
from collections.abc import Mapping
from typing import NamedTuple

_BITS = {"pred": 8, "token": 0, "opaque": 0, "c64": 64, "c128": 128}
_SHAPE = re.compile(r"\b([a-z]+\d*(?:e\d\w*)?)\[([\d,<=]*)\](?:\{([^}]*)\})?")
_TILE = re.compile(r"T\(([\d,]+)\)")
_SPACE = re.compile(r"S\((\d+)\)")
_NAME = re.compile(r"%([\w.\-]+)")
# Root, name, type, opcode, operands and attributes.
_INSTRUCTION = re.compile(
  r"^\s+(ROOT )?%?([\w.\-]+) = (.*?) ([a-z][\w\-]*)\(([^)]*)\)(.*)$"
)
_HEADER = re.compile(r"^(ENTRY )?%?([\w.\-]+) .*\{$")
_CALLED = re.compile(
  r"\b(?:body|condition|to_apply|calls|true_computation|false_computation"
  r"|called_computations|branch_computations)=(\{[^}]*\}|%?[\w.\-]+)"
)
_FRAME = re.compile(r"\bstack_frame_id=(\d+)")
_OP_NAME = re.compile(r'\bop_name="([^"]*)"')
_SOURCE = re.compile(r'source_file="([^"]*)" source_line=(\d+)')
_INDEX = re.compile(r"\bindex=(\d+)")
_COMMENT = re.compile(r"/\*.*?\*/")


class Array(NamedTuple):
  """An array in the result of an instruction.

  Attributes:
    shape: logical shape, without padding.
    bytes: size, padded to whole tiles.
    space: memory space; 0 is HBM.
  """

  dtype: str
  shape: tuple[int, ...]
  bytes: int
  space: int


class Instruction(NamedTuple):
  """One instruction of a computation.

  Attributes:
    name: unique name in the program.
    arrays: arrays of the result; nested tuples are flattened.
    operands: names of the operand instructions.
    rest: text of the operands, or the value or number of constants and
      parameters, and of the attributes.
  """

  name: str
  opcode: str
  arrays: tuple[Array, ...]
  operands: tuple[str, ...]
  rest: str

  @property
  def called(self) -> tuple[str, ...]:
    """Names of the called computations."""
    return tuple(
      name
      for group in _CALLED.findall(self.rest)
      for name in re.findall(r"[\w.\-]+", group)
    )

  @property
  def op_name(self) -> str:
    """JAX's name stack and primitive."""
    found = _OP_NAME.search(self.rest)
    return found.group(1) if found else ""

  @property
  def tuple_index(self) -> int:
    """Index of a `get-tuple-element`."""
    return int(_INDEX.findall(self.rest)[0])

  def attribute(self, name: str) -> str:
    """Returns the computation called by an attribute such as "body"."""
    found = re.search(rf"\b{name}=%?([\w.\-]+)", self.rest)
    return found.group(1) if found else ""


class Location(NamedTuple):
  """A line of source code."""

  file: str
  line: int


@dataclasses.dataclass(frozen=True)
class Module:
  """A compiled program.

  Attributes:
    computations: scheduled instructions by name of the computation.
    roots: name of the root instruction by computation.
    donated: indices of results that reuse the memory of a donated argument.
    frames: call stack by frame number, innermost location first.
  """

  computations: Mapping[str, tuple[Instruction, ...]]
  entry: str
  roots: Mapping[str, str]
  donated: frozenset[int]
  frames: Mapping[int, tuple[Location, ...]]

  @functools.cached_property
  def by_name(self) -> dict[str, Instruction]:
    """All instructions by name."""
    return {i.name: i for own in self.computations.values() for i in own}

  def stack(self, instruction: Instruction) -> tuple[Location, ...]:
    """Returns the call stack of an instruction, innermost location first."""
    if frame := _FRAME.search(instruction.rest):
      return self.frames.get(int(frame.group(1)), ())
    if source := _SOURCE.search(instruction.rest):
      return (Location(source.group(1), int(source.group(2))),)
    return ()

  def origin(self, instruction: Instruction) -> Instruction:
    """Returns the instruction, or the one that an unnamed copy copies."""
    while not instruction.op_name and instruction.operands:
      if instruction.operands[0] not in self.by_name:
        break
      instruction = self.by_name[instruction.operands[0]]
    return instruction

  def location(self, instruction: Instruction, root: str) -> Location | None:
    """Returns the innermost location of an instruction under a folder."""
    stack = self.stack(instruction)
    return next((own for own in stack if own.file.startswith(root)), None)


def _tiled(shape: tuple[int, ...], layout: str) -> int:
  """Returns the number of elements, including padding."""
  tile = _TILE.search(layout)
  if not tile:
    return math.prod(shape)
  order = [int(i) for i in re.findall(r"\d+", layout.split(":")[0])]
  # The last tile dimension covers the fastest-varying array dimension.
  sizes = [int(size) for size in tile.group(1).split(",")][::-1]
  padded = [shape[i] for i in order]
  padded += [1] * (len(sizes) - len(padded))
  for axis, size in enumerate(sizes):
    padded[axis] = -(-padded[axis] // size) * size
  return math.prod(padded)


def _array(dtype: str, dims: str, layout: str) -> Array:
  # "<=" marks a dynamic dimension with an upper bound.
  shape = tuple(int(d.strip("<=")) for d in dims.split(",") if d)
  digits = re.search(r"\d+", dtype)
  bits = _BITS.get(dtype, int(digits.group()) if digits else 0)
  size = -(-_tiled(shape, layout) * bits // 8)
  space = _SPACE.search(layout)
  return Array(dtype, shape, size, int(space.group(1)) if space else 0)


def arrays(text: str) -> tuple[Array, ...]:
  """Parses the arrays of a type such as "(f32[8]{0}, s32[])"."""
  return tuple(_array(*found) for found in _SHAPE.findall(text))


def _frames(lines: list[str]) -> dict[int, tuple[Location, ...]]:
  """Parses the tables of files, locations and frames in the header."""
  files: dict[int, str] = {}
  locations: dict[int, Location] = {}
  frames: dict[int, tuple[Location, ...]] = {}
  table = ""
  for line in lines:
    digits, _, row = line.partition(" ")
    if not digits.isdigit():
      table = line
      continue
    number = int(digits)
    values = {key: int(v) for key, v in re.findall(r"(\w+)=(\d+)", row)}
    if table == "FileNames":
      files[number] = row.strip('"')
    elif table == "FileLocations":
      locations[number] = Location(
        files.get(values["file_name_id"], ""), values.get("line", 0)
      )
    elif table == "StackFrames":
      # Frames follow their callers, whose numbers are offset by one.
      caller = frames.get(values.get("parent_frame_id", 0) - 1, ())
      frames[number] = (locations[values["file_location_id"]], *caller)
  return frames


def _donated(header: str) -> frozenset[int]:
  _, _, aliases = header.partition("input_output_alias={")
  aliases = aliases.partition(" }")[0]
  return frozenset(int(i) for i in re.findall(r"\{(\d+)\}: \(", aliases))


def parse(text: str) -> Module:
  """Parses the HLO text of a compiled program.

  Raises:
    ValueError: if the text has no entry computation.
  """
  lines = text.splitlines()
  computations: dict[str, list[Instruction]] = {}
  roots: dict[str, str] = {}
  entry = name = ""
  for line in lines:
    if found := _INSTRUCTION.match(_COMMENT.sub("", line)):
      root, own, kind, opcode, operands, rest = found.groups()
      names = tuple(_NAME.findall(operands))
      computations[name].append(
        Instruction(own, opcode, arrays(kind), names, operands + rest)
      )
      if root:
        roots[name] = own
    elif header := _HEADER.match(line):
      is_entry, name = header.groups()
      computations[name] = []
      entry = name if is_entry else entry
  if not entry:
    raise ValueError("expected HLO text of a compiled program, got no ENTRY")
  return Module(
    {name: tuple(own) for name, own in computations.items()},
    entry,
    roots,
    _donated(lines[0]),
    _frames(lines),
  )
