"""Reports of preflight as text and as JSON."""

from collections.abc import Sequence
from typing import Any

from tabulate import tabulate

from jssl.preflight import tables
from jssl.preflight.changes import Attempt
from jssl.preflight.check import Result
from jssl.preflight.hlo.text import Location
from jssl.preflight.requirements import Requirements
from jssl.preflight.sweep import Point


def _table(rows: tables.Rows, headings: Sequence[str] = ()) -> str:
  # The empty first column indents the table.
  return tabulate(
    [["", *row] for row in rows],
    headers=["", *headings] if headings else (),
    tablefmt="plain",
    disable_numparse=True,
  )


def text(result: Result, attempts: Sequence[Attempt] = ()) -> str:
  """Returns the report of one config on one target."""
  blocks = [tables.title(result)]
  if not result.prepared:
    blocks[0] += (
      "\nThe data set is not prepared on this machine: assuming images of "
      f"{result.image_bytes:,} bytes."
    )
  blocks.append("state per device\n" + _table(tables.state_rows(result)))
  for one in result.requirements:
    rows = tables.requirement_rows(one)
    blocks.append(f"{one.name}, per device\n{_table(rows)}")
    if one.reason:
      blocks[-1] += f"\n  {one.reason}"
    if one.collectives:
      rows = tables.collective_rows(one)
      blocks.append(_table(rows, tables.COLLECTIVE_HEADINGS))
    if one.memory.lines:
      table = _table(tables.line_rows(one), tables.LINE_HEADINGS)
      blocks.append(
        f"  live buffers at peak memory, excluding arguments\n{table}"
      )
  if attempts:
    blocks.append(tables.suggestion(attempts))
  return "\n\n".join(blocks) + "\n"


def sweep_text(points: Sequence[Point]) -> str:
  """Returns the report of a sweep."""
  table = _table(tables.sweep_rows(points), tables.SWEEP_HEADINGS)
  errors = [f"  {p.size.name}: {p.error}" for p in points if p.error]
  return "\n".join(["train step, per device", table, *errors]) + "\n"


def _json(value: Any) -> Any:
  """Converts named tuples to dictionaries, including their properties."""
  if isinstance(value, Location):
    return tables.location(value)
  if hasattr(value, "_asdict"):
    properties = [
      k for k, v in vars(type(value)).items() if type(v) is property
    ]
    names = [*value._fields, *properties]
    return {name: _json(getattr(value, name)) for name in names}
  return [_json(v) for v in value] if isinstance(value, tuple) else value


def _requirements_data(requirements: Requirements) -> dict[str, Any]:
  found = _json(requirements)
  lines = found["memory"]["lines"] = found["memory"]["lines"][
    : tables.MAX_LINES
  ]
  for line in lines:
    line["buffers"] = line["buffers"][: tables.MAX_LINES]
  return found


def data(result: Result, attempts: Sequence[Attempt] = ()) -> dict[str, Any]:
  """Returns a result as JSON types; sizes are bytes."""
  return {
    "target": result.target.name,
    "slices": result.target.slices,
    "mesh": result.mesh,
    "hosts": result.hosts,
    "fits": result.fits,
    "prepared": result.prepared,
    "sizes": result.sizes._asdict(),
    "checkpoint_bytes": result.checkpoint_bytes,
    "programs": [_requirements_data(one) for one in result.requirements],
    "attempts": [
      {
        "changes": attempt.changes,
        "fits": attempt.fits,
        "peak": attempt.result and attempt.result.step.memory.peak,
      }
      for attempt in attempts
    ],
  }


def sweep_data(points: Sequence[Point]) -> list[dict[str, Any]]:
  """Returns a sweep as JSON types."""
  return [
    {
      "size": point.size.name,
      "batch_size": point.batch_size,
      "error": point.error,
      "result": point.result and data(point.result),
    }
    for point in points
  ]
