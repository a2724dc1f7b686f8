"""What preflight found, as text and as plain data."""

import math
import pathlib
from collections.abc import Mapping, Sequence
from typing import Any

import jssl
from jssl.preflight.changes import Tried
from jssl.preflight.check import Result
from jssl.preflight.hlo.memory import Line
from jssl.preflight.hlo.text import Place
from jssl.preflight.requirements import Needs, Traffic
from jssl.preflight.roofline import Roofline, roofline
from jssl.preflight.sweep import Point

_MOST_LINES = 8
_PROJECT = pathlib.Path(jssl.__file__).parents[1]
Table = Mapping[str, Sequence[str]]


def gib(size: int | None) -> str:
  """Returns a size as people read it, in GiB or MiB."""
  if size is None:
    return "-"
  if abs(size) < 2**27:
    return f"{size / 2**20:.1f} MiB"
  return f"{size / 2**30:.2f} GiB"


def milliseconds(seconds: float) -> str:
  """Returns a time as people read it."""
  return f"{1e3 * seconds:.3g} ms"


def place(of: Place | None) -> str:
  """Returns a line of source, its path from the project's root."""
  if of is None:
    return "(not said)"
  path = pathlib.PurePath(of.file)
  if path.is_relative_to(_PROJECT):
    path = path.relative_to(_PROJECT)
  return f"{path}:{of.line}"


def title(result: Result) -> str:
  """Returns the target and its mesh, in a line."""
  axes = ", ".join(f"{axis} {size}" for axis, size in result.mesh.items())
  hosts = f"{result.hosts} host" + "s" * (result.hosts > 1)
  return f"{result.target.name}: mesh {axes}; {hosts}"


def verdict(needs: Needs) -> str:
  """Returns whether it fits, and by how much."""
  memory = needs.memory
  if memory.limit is None:
    return f"{gib(memory.peak)}; what is there isn't known"
  if memory.peak is None or memory.spare is None:
    return f"doesn't fit in {gib(memory.limit)}"
  taken = gib(memory.peak)
  if memory.ready:
    taken += f" and {gib(memory.ready)} of batches that lie ready"
  if needs.fits:
    return f"fits: {taken}, of {gib(memory.limit)}"
  return f"doesn't fit: {taken}, {gib(-memory.spare)} above {gib(memory.limit)}"


def needs_table(needs: Needs, bound: Roofline | None) -> dict[str, str]:
  """Returns what a program needs of a device, by name."""
  table = {
    "memory": verdict(needs),
    "arguments": gib(needs.memory.arguments),
    **{f"{k}, when fullest": gib(v) for k, v in needs.memory.kinds.items()},
    "FLOPs of products": f"{needs.product_flops / 1e9:,.1f} G",
  }
  if needs.moved_bytes is not None:
    table["HBM read and written"] = f"{needs.moved_bytes / 1e9:.3g} GB"
  if needs.accessed_bytes is not None:
    table["accessed, on the chip too, loops once"] = (
      f"{needs.accessed_bytes / 1e9:.3g} GB"
    )
  if bound is not None:
    parts = ", ".join(f"{k} {milliseconds(v)}" for k, v in bound.parts.items())
    table |= {
      "least time": (
        f"{milliseconds(bound.seconds)}, bound by {bound.bound_by} ({parts})"
      ),
      "images/s, at most": f"{bound.images_per_second:,.0f}, all chips",
    }
  if needs.loops:
    table["loops of unknown length, counted once"] = "; ".join(
      f"{place(loop.place)} {loop.op_name}".strip() for loop in needs.loops
    )
  table["compiled in"] = f"{needs.compile_seconds:.0f} s"
  return table


def _sending(one: Traffic) -> str:
  if one.crosses_slices:
    return "to other slices"
  return f"{one.kind} over {', '.join(one.axes)}"


def traffic_table(traffic: Sequence[Traffic]) -> dict[str, list[str]]:
  """Returns a row for each kind of collective and its axes."""
  return {
    _sending(one): [
      str(one.instructions),
      str(one.times),
      gib(one.received_bytes),
      gib(one.sent_bytes),
    ]
    for one in traffic
  }


TRAFFIC_HEADINGS = ("in the program", "run", "received", "sent")


def lines_table(lines: Sequence[Line]) -> dict[str, list[str]]:
  """Returns a row for each line of source that holds most memory."""
  table = {}
  for line in lines[:_MOST_LINES]:
    first = line.buffers[0]
    shape = ",".join(map(str, first.array.shape))
    table[place(line.place)] = [
      gib(line.bytes),
      str(len(line.buffers)),
      f"{first.array.dtype}[{shape}]",
    ]
  return table


LINES_HEADINGS = ("together", "arrays", "the largest")


def held_table(result: Result) -> dict[str, str]:
  """Returns what a device holds between steps, and what a run keeps."""
  sizes = {name: gib(s) for name, s in result.sizes._asdict().items()}
  table = {**sizes, "checkpoint, on disk": gib(result.checkpoint_bytes)}
  bound = result.step_bound
  if bound is not None:
    rate = bound.images_per_second / result.hosts
    table["input that the bound would take"] = (
      f"{rate:,.0f} images/s a host, {rate * result.image_bytes / 1e6:,.0f} "
      "MB/s of pixels"
    )
  return table


def _aligned(rows: Table, headings: Sequence[str] = ()) -> list[str]:
  """Returns rows of cells under each other."""
  cells = [["", *headings]] if headings else []
  cells += [[name, *row] for name, row in rows.items()]
  widths = [max(map(len, column)) for column in zip(*cells, strict=True)]
  return [
    "  "
    + "  ".join(
      cell.ljust(width) for cell, width in zip(row, widths, strict=True)
    ).rstrip()
    for row in cells
  ]


def _pairs(values: Mapping[str, str]) -> list[str]:
  return _aligned({name: [value] for name, value in values.items()})


_IN_CHUNKS = (
  " Chunks leave the loss and its gradient as they are, unless the backbone "
  "has BatchNorm: then its statistics are those of a chunk."
)


def suggestion(tried: Sequence[Tried]) -> str:
  """Returns what to change, or that nothing that was tried suffices."""
  if not tried:
    return ""
  if tried[-1].fits:
    said = f"It fits with {tried[-1].in_words()} (compiled)."
    return said + _IN_CHUNKS * ("train.chunks" in tried[-1].changes)
  flags = "; ".join(one.in_words() for one in tried)
  return f"It doesn't fit with any of these either (compiled): {flags}."


def text(result: Result, tried: Sequence[Tried] = ()) -> str:
  """Returns all that was found, for a terminal."""
  lines = [title(result)]
  if not result.prepared:
    side = f"{result.image_bytes:,} bytes"
    lines.append(f"The data set isn't prepared here: images taken as {side}.")
  lines += ["", "What a device holds", *_pairs(held_table(result))]
  for needs in result.needs:
    bound = roofline(needs, result.target)
    lines += ["", f"{needs.name}, a device", *_pairs(needs_table(needs, bound))]
    if needs.reason:
      lines.append(f"  {needs.reason}")
    if needs.traffic:
      table = traffic_table(needs.traffic)
      lines += ["", *_aligned(table, TRAFFIC_HEADINGS)]
    if needs.memory.lines:
      table = lines_table(needs.memory.lines)
      lines += [
        "",
        "  what lies beside the arguments when memory is fullest",
        *_aligned(table, LINES_HEADINGS),
      ]
  if tried:
    lines += ["", suggestion(tried)]
  return "\n".join(lines) + "\n"


SWEEP_HEADINGS = (
  *("devices", "batch", "peak", "FLOPs", "HBM moved", "sent"),
  "images/s, at most",
)


def sweep_table(points: Sequence[Point]) -> dict[str, list[str]]:
  """Returns a row for each size, of a device but for batch and images/s."""
  table = {}
  for point in points:
    cells = ["-"] * len(SWEEP_HEADINGS)
    result = point.result
    if point.batch_size is not None:
      cells[1] = f"{point.batch_size:,}"
    if result is not None:
      step, bound = result.step, result.step_bound
      peak = gib(step.memory.peak) if result.fits else "doesn't fit"
      cells[0] = f"{math.prod(result.mesh.values()):,}"
      cells[2:4] = [peak, f"{step.product_flops / 1e9:,.1f} G"]
      if step.moved_bytes is not None:
        cells[4:6] = [f"{step.moved_bytes / 1e9:.3g} GB", gib(step.sent_bytes)]
      if bound is not None:
        cells[6] = f"{bound.images_per_second:,.0f}, by {bound.bound_by}"
    table[point.size.name] = cells
  return table


def sweep_text(points: Sequence[Point]) -> str:
  """Returns a sweep, for a terminal."""
  lines = [
    "train step, a device",
    *_aligned(sweep_table(points), SWEEP_HEADINGS),
  ]
  lines += [f"  {p.size.name}: {p.error}" for p in points if p.error]
  return "\n".join(lines) + "\n"


def sweep_data(points: Sequence[Point]) -> list[dict[str, Any]]:
  """Returns a sweep, as JSON takes it."""
  return [
    {
      "size": point.size.name,
      "batch_size": point.batch_size,
      "error": point.error,
      "result": point.result and data(point.result),
    }
    for point in points
  ]


def _needs_data(needs: Needs, bound: Roofline | None) -> dict[str, Any]:
  memory = needs.memory
  return {
    **needs._asdict(),
    "memory": {
      **memory._asdict(),
      "spare": memory.spare,
      "kinds": memory.kinds,
      "lines": [
        {
          "place": place(line.place),
          "bytes": line.bytes,
          "arrays": [
            {"dtype": b.array.dtype, "shape": b.array.shape, "op": b.op_name}
            for b in line.buffers[:_MOST_LINES]
          ],
        }
        for line in memory.lines[:_MOST_LINES]
      ],
    },
    "traffic": [one._asdict() for one in needs.traffic],
    "loops": [[loop.op_name, place(loop.place)] for loop in needs.loops],
    "bound": None
    if bound is None
    else {
      **bound._asdict(),
      "seconds": bound.seconds,
      "bound_by": bound.bound_by,
      "images_per_second": bound.images_per_second,
    },
  }


def data(result: Result, tried: Sequence[Tried] = ()) -> dict[str, Any]:
  """Returns all that was found, as JSON takes it; sizes are bytes."""
  return {
    "target": result.target.name,
    "slices": result.target.slices,
    "mesh": result.mesh,
    "hosts": result.hosts,
    "fits": result.fits,
    "prepared": result.prepared,
    "sizes": result.sizes._asdict(),
    "checkpoint_bytes": result.checkpoint_bytes,
    "programs": [
      _needs_data(needs, roofline(needs, result.target))
      for needs in result.needs
    ],
    "tried": [
      {
        "changes": one.changes,
        "fits": one.fits,
        "peak": one.result and one.result.needs[0].memory.peak,
      }
      for one in tried
    ],
  }
