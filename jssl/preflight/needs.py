"""What a program needs of a device, as its compiler and its text say."""

import math
import pathlib
import re
import time
from collections.abc import Mapping
from typing import Any, NamedTuple

import jax

import jssl
from jssl import cost
from jssl.hlo import collectives, memory, text, traffic
from jssl.hlo.memory import Line
from jssl.preflight.programs import Compilable
from jssl.targets import Target

_ROOT = str(pathlib.Path(jssl.__file__).parent)
_OUT_OF_MEMORY = re.compile(
  r"\(([\d.]+)([KMGT]?)\) exceeds available HBM \(([\d.]+)([KMGT]?)\)"
)
_UNITS = {"": 1.0, "K": 2.0**10, "M": 2.0**20, "G": 2.0**30, "T": 2.0**40}


class Traffic(NamedTuple):
  """What a device sends of one kind along some axes, in one run.

  Attributes:
    kind: as "all-reduce".
    axes: of the mesh, in its order.
    instructions: of this kind in the program.
    times: that they run, all together.
    received_bytes: that they leave the device with.
    sent_bytes: that it sends, by a ring.
    crosses_slices: whether it goes over the data centre's network.
  """

  kind: str
  axes: tuple[str, ...]
  instructions: int
  times: int
  received_bytes: int
  sent_bytes: int
  crosses_slices: bool


class Memory(NamedTuple):
  """Of a device.

  Attributes:
    limit: bytes that a program can have; None if it isn't known.
    peak: bytes that it takes; None where the compiler gave up and doesn't say.
    arguments: bytes of them, donated ones included.
    lines: what lies there beside the arguments when it is fullest.
  """

  limit: int | None
  peak: int | None
  arguments: int | None
  lines: tuple[Line, ...]

  @property
  def spare(self) -> int | None:
    """Bytes that are left, negative where it doesn't fit."""
    if self.limit is None or self.peak is None:
      return None
    return self.limit - self.peak


class Needs(NamedTuple):
  """Of a program, for each device.

  Attributes:
    name: of the program.
    images: that all devices together go through in one run.
    fits: whether the memory suffices.
    memory: of the device.
    product_flops: of products and convolutions, loops by trip.
    moved_bytes: read and written in the large memory, loops by trip; None where
      it doesn't fit.
    accessed_bytes: the compiler's own estimate: of all memories, those on the
      chip too, loops counted once; None where it has none.
    traffic: what is sent.
    compile_seconds: on this machine.
    reason: why it doesn't fit, in the compiler's words.
  """

  name: str
  images: int
  fits: bool
  memory: Memory
  product_flops: int
  moved_bytes: int | None
  accessed_bytes: int | None
  traffic: tuple[Traffic, ...]
  compile_seconds: float
  reason: str = ""

  @property
  def sent_bytes(self) -> int:
    """All that a device sends in a run."""
    return sum(one.sent_bytes for one in self.traffic)


def _traffic(
  module: text.Module, mesh: Mapping[str, int], slices: int
) -> tuple[Traffic, ...]:
  of_slice = {**mesh, "data": mesh["data"] // slices}
  found = collectives.collectives(module, of_slice, _ROOT)
  groups: dict[tuple[str, tuple[str, ...]], list[Any]] = {}
  for one in found:
    groups.setdefault((one.kind, one.axes), []).append(one)
  return tuple(
    Traffic(
      kind,
      axes,
      instructions=len(own),
      times=sum(one.times for one in own),
      received_bytes=sum(one.times * one.result_bytes for one in own),
      sent_bytes=sum(one.times * one.sent_bytes for one in own),
      crosses_slices=kind == collectives.BETWEEN_SLICES,
    )
    for (kind, axes), own in sorted(groups.items())
  )


def _too_large(error: Exception) -> tuple[int, int] | None:
  """Returns needed and available bytes, if that is what an error says."""
  message = str(error)
  if "RESOURCE_EXHAUSTED" not in message and "HbmOom" not in message:
    return None
  said = _OUT_OF_MEMORY.search(message)
  if not said:
    return 0, 0
  needed, unit, available, other = said.groups()
  return int(float(needed) * _UNITS[unit]), int(
    float(available) * _UNITS[other]
  )


def measure(
  program: Compilable,
  target: Target,
  mesh: Mapping[str, int],
) -> Needs:
  """Compiles a program and returns what it needs.

  Args:
    program: with the shapes of its arguments.
    target: that its shardings are on.
    mesh: sizes of the axes by name.

  Raises:
    jax.errors.JaxRuntimeError: it can't be compiled, for other reasons than
      memory.
  """
  devices = math.prod(mesh.values())
  started = time.perf_counter()
  traced = program.function.trace(*program.arguments)
  flops = cost.product_flops(traced.jaxpr.jaxpr, devices)
  limit = int(target.chip.program_bytes) if target.chip else None
  try:
    compiled = traced.lower().compile()
  except jax.errors.JaxRuntimeError as error:
    sizes = _too_large(error)
    if sizes is None:
      raise
    # What the compiler says of its temporaries alone; arguments come on top.
    return Needs(
      program.name,
      program.images,
      fits=False,
      memory=Memory(sizes[1] or limit, sizes[0] or None, None, ()),
      product_flops=flops,
      moved_bytes=None,
      accessed_bytes=None,
      traffic=(),
      compile_seconds=time.perf_counter() - started,
      reason=str(error).split("\n")[0],
    )
  seconds = time.perf_counter() - started
  module = text.parse(compiled.as_text())
  stats = compiled.memory_analysis()
  arguments = stats.argument_size_in_bytes
  peak = max(
    stats.peak_memory_in_bytes,
    # A CPU's peak leaves out temporaries.
    arguments
    + stats.output_size_in_bytes
    - stats.alias_size_in_bytes
    + stats.temp_size_in_bytes,
  )
  accessed = (compiled.cost_analysis() or {}).get("bytes accessed")
  return Needs(
    program.name,
    program.images,
    # A TPU's compiler would have refused.
    fits=target.is_tpu or limit is None or peak <= limit,
    memory=Memory(
      limit,
      peak,
      arguments,
      tuple(memory.by_line(memory.fullest(module, _ROOT))),
    ),
    product_flops=flops,
    moved_bytes=traffic.moved_bytes(module),
    accessed_bytes=None if accessed is None else int(accessed),
    traffic=_traffic(module, mesh, target.slices),
    compile_seconds=seconds,
  )
