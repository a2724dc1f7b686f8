"""Sections of preflight's reports, and reports as text and JSON."""

import math
import pathlib
import textwrap
from collections.abc import Sequence
from typing import Any, NamedTuple

from tabulate import tabulate

import jssl
from jssl.preflight.check import Result, Trial
from jssl.preflight.hlo.text import Location
from jssl.preflight.requirements import Requirements
from jssl.runtime.files import format_bytes

MAX_LINES, MAX_TRAFFIC_LINES = 8, 10
_PROJECT = pathlib.Path(jssl.__file__).parents[1]

# The first cell of a row is its name.
Rows = list[list[str]]


class Section(NamedTuple):
  """A table of a report; rows without headings are names and values."""

  title: str
  rows: Rows
  headings: Sequence[str] = ()
  note: str = ""


def gib(size: int | None) -> str:
  """Formats bytes in GiB, MiB or KiB."""
  if size is None:
    return "-"
  if abs(size) < 2**27:
    return format_bytes(size) if size else "0"
  return f"{size / 2**30:.2f} GiB"


def moved(size: int) -> str:
  """Formats bytes of traffic in GB, MB or KB."""
  for unit, name in ((1e9, "GB"), (1e6, "MB")):
    if size >= 0.1 * unit:
      return f"{size / unit:.3g} {name}"
  return f"{size / 1e3:.3g} KB"


def location(of: Location | None) -> str:
  """Formats a source line, relative to the project's root."""
  if of is None:
    return "(unknown)"
  path = pathlib.PurePath(of.file)
  if path.is_relative_to(_PROJECT):
    path = path.relative_to(_PROJECT)
  return f"{path}:{of.line}"


def operation(name: str) -> str:
  """Formats the primitive of an operation, and whether it is of a gradient."""
  primitive = name.rpartition("/")[2]
  return f"{primitive} (backward)" if "transpose(" in name else primitive


def title(result: Result) -> str:
  """Formats target, mesh and number of hosts."""
  axes = ", ".join(f"{axis} {size}" for axis, size in result.plan.mesh.items())
  hosts = f"{result.plan.hosts} host" + "s" * (result.plan.hosts > 1)
  return f"{result.target.name}: mesh {axes}; {hosts}"


def verdict(requirements: Requirements) -> str:
  """Formats whether a program fits, and its peak memory."""
  memory = requirements.memory
  if memory.limit is None:
    return f"{gib(memory.peak)} (limit unknown)"
  if memory.peak is None or memory.spare is None:
    return f"does not fit in {gib(memory.limit)}"
  used = gib(memory.peak)
  if memory.prefetched:
    used += f" plus {gib(memory.prefetched)} of prefetched batches"
  if requirements.fits:
    return f"fits: {used}, of {gib(memory.limit)}"
  return f"does not fit: {used}, {gib(-memory.spare)} above {gib(memory.limit)}"


def requirement_rows(requirements: Requirements) -> Rows:
  """Returns requirements of a program per device."""
  memory, bound = requirements.memory, requirements.bound
  flops, hbm = requirements.product_flops, requirements.hbm_bytes
  rows = [
    ["peak memory", verdict(requirements)],
    ["arguments", gib(memory.arguments)],
    *([f"{kind} at peak", gib(size)] for kind, size in memory.kinds.items()),
    ["FLOPs of products", f"{flops / 1e9:,.1f} G"],
  ]
  if hbm is not None:
    intensity = f"{flops / max(hbm, 1):,.1f} FLOP/byte"
    rows.append(["HBM traffic", moved(hbm)])
    rows.append(["arithmetic intensity", intensity])
  if requirements.accessed_bytes is not None:
    accessed = f"{requirements.accessed_bytes / 1e9:.3g} GB"
    rows.append(["bytes accessed (compiler, loops once)", accessed])
  if bound is not None:
    parts = ", ".join(f"{k} {1e3 * v:.3g} ms" for k, v in bound.parts.items())
    time = f"{1e3 * bound.seconds:.3g} ms, bound by {bound.bound_by}"
    rows.append(["roofline, minimum time", f"{time} ({parts})"])
    rate = f"{bound.images_per_second:,.0f} on all devices"
    rows.append(["roofline, maximum images/s", rate])
    rows.append(["bound efficiency", f"{bound.efficiency:.2f}"])
  if requirements.unknown_loops:
    loops = [
      f"{location(loop.location)} {loop.op_name}".strip()
      for loop in requirements.unknown_loops
    ]
    rows.append(["loops of unknown length, counted once", "; ".join(loops)])
  return [*rows, ["compile time", f"{requirements.compile_seconds:.0f} s"]]


def collective_rows(requirements: Requirements) -> Rows:
  """Returns a row per kind of collective and mesh axes."""
  rows = []
  for one in requirements.collectives:
    name = f"{one.kind} over {', '.join(one.axes)}"
    name = "between slices" if one.crosses_slices else name
    counts = str(one.instructions), str(one.times)
    rows.append([name, *counts, gib(one.received_bytes), gib(one.sent_bytes)])
  return rows


def line_rows(requirements: Requirements) -> Rows:
  """Returns the source lines with the largest live buffers at peak memory."""
  rows = []
  for line in requirements.memory.lines[:MAX_LINES]:
    array = line.buffers[0].array
    largest = f"{array.dtype}[{','.join(map(str, array.shape))}]"
    count = str(len(line.buffers))
    rows.append([location(line.location), gib(line.bytes), count, largest])
  return rows


def traffic_rows(requirements: Requirements) -> Rows:
  """Returns the source lines with the most HBM traffic."""
  total = max(requirements.hbm_bytes or 0, 1)
  return [
    [
      location(line.location),
      moved(line.read),
      moved(line.written),
      f"{(line.read + line.written) / total:.0%}",
      operation(line.op_name),
    ]
    for line in requirements.traffic[:MAX_TRAFFIC_LINES]
  ]


def state_rows(result: Result) -> Rows:
  """Returns sizes of state and batches per device, and of a checkpoint."""
  rows = [
    [name, gib(size)] for name, size in result.plan.sizes._asdict().items()
  ]
  rows.append(["checkpoint on disk", gib(result.plan.checkpoint_bytes)])
  if bound := result.step.bound:
    rate = bound.images_per_second / result.plan.hosts
    pixels = rate * result.plan.image_bytes / 1e6
    input_rate = f"{rate:,.0f} images/s, {pixels:,.0f} MB/s of pixels"
    rows.append(["input per host at the roofline bound", input_rate])
  return rows


def sections(result: Result) -> list[Section]:
  """Returns the report of one config on one target."""
  note = (
    ""
    if result.plan.prepared
    else "The data set is not prepared on this machine: assuming images of "
    f"{result.plan.image_bytes:,} bytes."
  )
  found = [Section("state per device", state_rows(result), note=note)]
  for one in result.requirements:
    rows = requirement_rows(one)
    found.append(Section(f"{one.name}, per device", rows, note=one.reason))
    if one.collectives:
      found.append(
        Section(
          f"{one.name}: collectives per run",
          collective_rows(one),
          ("collective", "instructions", "executions", "received", "sent"),
          "Loop bodies count by trip. Received: size of the results. Sent: by "
          "ring algorithms.",
        )
      )
    if one.traffic:
      found.append(
        Section(
          f"{one.name}: HBM traffic",
          traffic_rows(one),
          ("source line", "read", "written", "share", "operation"),
          "A fusion counts for the line of its last operation. The operation "
          "is the one of the line with the most traffic.",
        )
      )
    if one.memory.lines:
      found.append(
        Section(
          f"{one.name}: live buffers at peak memory, excluding arguments",
          line_rows(one),
          ("source line", "size", "buffers", "largest"),
          "Buffers that share memory are counted separately, so the sum can "
          "exceed the compiler's peak.",
        )
      )
  return found


def sweep_section(points: Sequence[Trial]) -> Section:
  """Returns the report of a sweep, with a row per size."""
  headings = (
    *("size", "devices", "batch", "peak memory", "FLOPs", "HBM traffic"),
    *("sent", "max images/s", "bound by", "bound efficiency"),
  )
  rows = []
  for point in points:
    cells = dict.fromkeys(headings, "-")
    cells["size"] = point.name
    if point.result is not None:
      cells["batch"] = f"{point.batch_size:,}"
      step, fits = point.result.step, point.fits
      cells["devices"] = f"{math.prod(point.result.plan.mesh.values()):,}"
      cells["peak memory"] = gib(step.memory.peak) if fits else "does not fit"
      cells["FLOPs"] = f"{step.product_flops / 1e9:,.1f} G"
      if step.hbm_bytes is not None:
        cells["HBM traffic"] = f"{step.hbm_bytes / 1e9:.3g} GB"
        cells["sent"] = gib(step.sent_bytes)
      if bound := step.bound:
        cells["max images/s"] = f"{bound.images_per_second:,.0f}"
        cells["bound by"] = bound.bound_by
        cells["bound efficiency"] = f"{bound.efficiency:.2f}"
    rows.append([*cells.values()])
  errors = [f"{point.name}: {point.error}" for point in points if point.error]
  title = "train step, per device; batch and images/s of all devices"
  return Section(title, rows, headings, "\n".join(errors))


def suggestion(attempts: Sequence[Trial]) -> str:
  """Describes the changes with which the config fits; "" without attempts."""
  if not attempts:
    return ""
  if not attempts[-1].fits:
    flags = "; ".join(attempt.name for attempt in attempts)
    return f"Does not fit with any of these changes (compiled): {flags}."
  found = f"Fits with {attempts[-1].name} (compiled)."
  if "train.chunks" in attempts[-1].changes:
    found += (
      " Chunks preserve the loss and its gradient, except that BatchNorm uses "
      "the statistics of each chunk."
    )
  return found


def text(title: str, sections: Sequence[Section], last: str = "") -> str:
  """Returns a report as text, with a `last` paragraph."""
  blocks = [title]
  for section in sections:
    # The empty first column indents the table.
    table = tabulate(
      [["", *row] for row in section.rows],
      headers=["", *section.headings] if section.headings else (),
      tablefmt="plain",
      disable_numparse=True,
    )
    note = textwrap.indent(section.note, "  ")
    blocks.append("\n".join(filter(None, (section.title, table, note))))
  return "\n\n".join(filter(None, (*blocks, last))) + "\n"


def _json(value: Any) -> Any:
  """Converts named tuples to dictionaries, including their properties."""
  if isinstance(value, Location):
    return location(value)
  if hasattr(value, "_asdict"):
    own = vars(type(value)).items()
    names = [*value._fields, *(k for k, v in own if type(v) is property)]
    found = {name: _json(getattr(value, name)) for name in names}
    # Long lists of one entry per buffer.
    cut = {k: found[k][:MAX_LINES] for k in ("lines", "buffers") if k in found}
    return {**found, **cut}
  return [_json(v) for v in value] if isinstance(value, tuple) else value


def data(result: Result, attempts: Sequence[Trial] = ()) -> dict[str, Any]:
  """Returns a result as JSON types; sizes are bytes."""
  return {
    "target": result.target.name,
    "slices": result.target.slices,
    "fits": result.fits,
    **_json(result.plan),
    "programs": _json(result.requirements),
    "attempts": [
      {
        "changes": attempt.changes,
        "fits": attempt.fits,
        "peak": attempt.result and attempt.result.step.memory.peak,
      }
      for attempt in attempts
    ],
  }


def sweep_data(points: Sequence[Trial]) -> list[dict[str, Any]]:
  """Returns a sweep as JSON types."""
  return [
    {
      "size": point.name,
      "batch_size": point.batch_size,
      "error": point.error,
      "result": point.result and data(point.result),
    }
    for point in points
  ]
