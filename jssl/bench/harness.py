"""Shared parts of the benchmarks: timing, memory, tables and JSON."""

import concurrent.futures
import contextlib
import dataclasses
import json
import multiprocessing
import os
import pathlib
import platform
import statistics
import subprocess
import sys
import time
from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Any

import jax
import psutil
import tabulate

from jssl.preflight import cost

Row = dict[str, Any]


@dataclasses.dataclass(frozen=True)
class Timing:
  """Time and memory of one measurement.

  Processor seconds include children; the peak memory is of this process since
  its start. `cells` are further cells of the table.
  """

  wall_s: float
  cpu_s: float
  items: int = 1
  peak_rss_bytes: int = 0
  cells: Mapping[str, Any] = dataclasses.field(default_factory=dict)


Columns = Mapping[str, Callable[[Timing], float]]
MILLISECONDS: Columns = {
  "ms": lambda timing: 1e3 * timing.wall_s,
  "CPU ms": lambda timing: 1e3 * timing.cpu_s,
}
SECONDS: Columns = {
  "s": lambda timing: timing.wall_s,
  "CPU s": lambda timing: timing.cpu_s,
}
RATES: Columns = {
  "images/s and core": lambda timing: timing.items / timing.cpu_s,
  "images/s": lambda timing: timing.items / timing.wall_s,
}


@dataclasses.dataclass(frozen=True)
class Case:
  """One row of a benchmark: a name, a measurement and further cells."""

  name: str
  run: Callable[[], Timing]
  cells: Mapping[str, Any] = dataclasses.field(default_factory=dict)


def compiled_case(
  name: str, function: Callable, *arrays: jax.Array, items: int = 1
) -> Case:
  """Returns the case of a function that is compiled, and its memory."""
  compiled = jax.jit(function).lower(*arrays).compile()
  return Case(
    name,
    lambda: timed(lambda: compiled(*arrays), items=items),
    {"working MiB": cost.working_bytes(compiled) / 2**20},
  )


@dataclasses.dataclass(frozen=True)
class Report:
  """Rows of the table, and settings and versions to show above it."""

  rows: list[Row]
  about: Mapping[str, Any] = dataclasses.field(default_factory=dict)


def children_cpu_s() -> float:
  """Returns processor seconds of running child processes."""
  seconds = 0.0
  for child in psutil.Process().children(recursive=True):
    with contextlib.suppress(psutil.NoSuchProcess):
      seconds += sum(child.cpu_times()[:2])
  return seconds


def peak_rss_bytes() -> int:
  """Returns the peak resident memory of this process since its start."""
  # `ru_maxrss` of a new process would begin at the memory of its parent.
  status = pathlib.Path("/proc/self/status").read_text()
  return 1024 * int(status.partition("VmHWM:")[2].split()[0])


def timed(
  function: Callable[[], Any],
  *,
  items: int = 1,
  calls: int = 1,
  ahead: int = 0,
  describe: Callable[[Any], Mapping[str, Any]] = lambda _: {},
) -> Timing:
  """Times calls of a function, each until its result is computed.

  Args:
    function: function without arguments.
    items: number of items that a call handles.
    calls: number of calls to time.
    ahead: number of calls before them that are not timed.
    describe: further cells of the table, from the last result.
  """
  for _ in range(ahead):
    jax.block_until_ready(function())
  children, cpu = children_cpu_s(), time.process_time()
  started = time.perf_counter()
  for _ in range(calls):
    result = jax.block_until_ready(function())
  wall_s = time.perf_counter() - started
  cpu_s = time.process_time() - cpu + children_cpu_s() - children
  return Timing(
    wall_s, cpu_s, calls * items, peak_rss_bytes(), describe(result)
  )


def in_process(function: Callable[..., Any], *args: Any) -> Any:
  """Calls a function in a process of its own."""
  with concurrent.futures.ProcessPoolExecutor(
    1, multiprocessing.get_context("spawn")
  ) as pool:
    return pool.submit(function, *args).result()


def time_script(python: str, script: str, *arguments: str) -> Timing:
  """Runs a script with another interpreter; parses the timing it prints."""
  command = [python, script, *arguments]
  done = subprocess.run(command, check=True, capture_output=True, text=True)
  return Timing(**json.loads(done.stdout))


def spread(values: Sequence[float], unit: str) -> Row:
  """Returns median and quartiles as cells."""
  if len(values) == 1:
    return {unit: values[0]}
  low, median, high = statistics.quantiles(values, n=4, method="inclusive")
  return {unit: median, "quartiles": f"{low:.4g} to {high:.4g}"}


def measure(
  cases: Iterable[Case],
  *,
  rounds: int,
  columns: Columns = MILLISECONDS,
  warmup: int = 1,
  compare: bool = True,
) -> list[Row]:
  """Measures cases in turns, so that other load slows all of them.

  Quartiles, and ratios to the first case in the same round, are of the first
  column. The first `warmup` rounds are not counted.
  """
  cases = list(cases)
  timings: list[list[Timing]] = [[] for _ in cases]
  for number in range(1 - warmup, rounds + 1):
    for case, own in zip(cases, timings, strict=True):
      timing = case.run()
      if number > 0:
        own.append(timing)
        shown = ", ".join(f"{of(timing):.4g} {n}" for n, of in columns.items())
        print(f"round {number}: {case.name}: {shown}", file=sys.stderr)
  (unit, main), *others = columns.items()
  rows: list[Row] = []
  for case, own in zip(cases, timings, strict=True):
    row = {"case": case.name, **spread([main(t) for t in own], unit)}
    row |= {name: statistics.median(map(of, own)) for name, of in others}
    if compare:
      pairs = zip(own, timings[0], strict=True)
      ratios = [main(a) / main(b) for a, b in pairs]
      row["ratio"] = statistics.median(ratios)
      row["ratios"] = f"{min(ratios):.3g} to {max(ratios):.3g}"
    rows.append({**row, **case.cells, **own[-1].cells})
    rows[-1]["rounds"] = [dataclasses.asdict(timing) for timing in own]
  return rows


def table(rows: Sequence[Row]) -> str:
  """Returns rows as a Markdown table, without their single measurements."""
  shown = [{k: v for k, v in row.items() if k != "rounds"} for row in rows]
  return tabulate.tabulate(
    shown, headers="keys", tablefmt="github", floatfmt=".4g", missingval="-"
  )


def publish(report: Report, command: str, json_file: str) -> None:
  """Prints a report and, with a file name, writes it as JSON."""
  about = {
    "command": command,
    "date": time.strftime("%Y-%m-%d"),
    "machine": platform.processor() or platform.machine(),
    "cores": os.cpu_count(),
    "load": os.getloadavg()[0],
    "device": f"{jax.devices()[0].device_kind} x {jax.device_count()}",
    "jax": jax.__version__,
    **report.about,
  }
  for key, value in about.items():
    shown = f"{value:.4g}" if isinstance(value, float) else value
    print(f"{key}: {shown}")
  print(f"\n{table(report.rows)}")
  if json_file:
    text = json.dumps({**about, "rows": report.rows}, indent=2)
    pathlib.Path(json_file).write_text(text)
