"""Memory, FLOPs, HBM traffic and collectives of a compiled program."""

import math
import pathlib
import re
import time
from collections import Counter
from collections.abc import Mapping
from typing import NamedTuple

import jax

import jssl
from jssl.preflight import cost
from jssl.preflight.hlo import buffers, collectives, memory, text, trip_counts
from jssl.preflight.hlo.buffers import LineTraffic
from jssl.preflight.hlo.collectives import Collective
from jssl.preflight.hlo.memory import LineBuffers
from jssl.preflight.hlo.text import Location
from jssl.preflight.programs import Compilable
from jssl.preflight.targets import Target
from jssl.runtime.chips import Chip
from jssl.runtime.flops import product_flops

_ROOT = str(pathlib.Path(jssl.__file__).parent)
_SIZE = r"([\d.]+)([KMGT]?)"
_OUT_OF_MEMORY = (
  re.compile(rf"\({_SIZE}\) exceeds available HBM \({_SIZE}\)"),
  re.compile(rf"Used {_SIZE} of {_SIZE} hbm"),
)
_ON_CHIP = re.compile(r"\b(?:vmem|smem|cmem|sflag)\b", re.IGNORECASE)
_UNITS = {"": 1.0, "K": 2.0**10, "M": 2.0**20, "G": 2.0**30, "T": 2.0**40}


class Memory(NamedTuple):
  """HBM of a device, in bytes.

  Attributes:
    limit: size available to a program; None if unknown.
    peak: peak memory including arguments; None if compilation failed without
      reporting it.
    arguments: size of the arguments including donated ones; None if compilation
      failed.
    lines: live buffers at peak memory by source line, excluding arguments.
    prefetched: batches prefetched to the device, which are not part of `peak`.
  """

  limit: int | None
  peak: int | None
  arguments: int | None
  lines: tuple[LineBuffers, ...]
  prefetched: int = 0

  @property
  def spare(self) -> int | None:
    """Free memory at the peak; negative if the program does not fit."""
    if self.limit is None or self.peak is None:
      return None
    return self.limit - self.peak - self.prefetched

  @property
  def kinds(self) -> dict[str, int]:
    """Bytes of `lines` by kind, inferred from JAX's name stack.

    Activations come from the forward pass; gradients from the backward pass,
    including rematerialised activations.
    """
    kinds: Counter[str] = Counter()
    for line in self.lines:
      for buffer in line.buffers:
        kind = "activations" if "jvp(" in buffer.op_name else "others"
        kind = "gradients" if "transpose(" in buffer.op_name else kind
        kinds[kind] += buffer.array.bytes
    return dict(kinds)


class Roofline(NamedTuple):
  """Lower bounds on the time of one run of a program, in seconds.

  Data-sheet rates and perfect overlap are assumed: bounds, not predictions.

  Attributes:
    compute: matrix products and convolutions at peak FLOP/s.
    memory: HBM traffic at peak bandwidth.
    links: collectives within a slice or node, over ICI or NVLink.
    network: collectives between nodes.
  """

  compute: float
  memory: float
  links: float
  network: float
  images: int

  @property
  def parts(self) -> dict[str, float]:
    """Seconds by resource; the network only if it is used."""
    parts = {"FLOPs": self.compute, "HBM": self.memory, "links": self.links}
    return {**parts, "network": self.network} if self.network else parts

  @property
  def seconds(self) -> float:
    """The largest of the bounds."""
    return max(self.parts.values())

  @property
  def bound_by(self) -> str:
    """The limiting resource."""
    return max(self.parts, key=self.parts.__getitem__)

  @property
  def images_per_second(self) -> float:
    """Upper bound on the throughput of all devices."""
    return self.images / self.seconds

  @property
  def efficiency(self) -> float:
    """Time at peak FLOP/s over the bound; 1 if FLOPs are the limit."""
    return self.compute / self.seconds


class Loop(NamedTuple):
  """A loop of unknown trip count, by JAX's name and source line."""

  op_name: str
  location: Location | None


class Requirements(NamedTuple):
  """Requirements of a program per device and run.

  Counts are lower bounds (`hlo.trip_counts`): of branches the cheapest counts,
  so that the metrics of logged steps are left out.

  Attributes:
    images: number of images on all devices.
    product_flops: FLOPs of matrix products and convolutions.
    hbm_bytes: bytes read from and written to HBM; None if it does not fit.
    traffic: `hbm_bytes` by source line, largest first.
    accessed_bytes: the compiler's estimate of bytes accessed, including on-chip
      memory and counting loop bodies once; None if unavailable.
    chip: data-sheet rates; None if unknown.
    unknown_loops: loops of unknown trip count, whose bodies count once.
    reason: the compiler's message if the program does not fit.
  """

  name: str
  images: int
  fits: bool
  memory: Memory
  product_flops: int
  compile_seconds: float
  chip: Chip | None
  hbm_bytes: int | None = None
  traffic: tuple[LineTraffic, ...] = ()
  accessed_bytes: int | None = None
  collectives: tuple[Collective, ...] = ()
  unknown_loops: tuple[Loop, ...] = ()
  reason: str = ""

  @property
  def sent_bytes(self) -> int:
    """Bytes sent by all collectives."""
    return sum(one.sent_bytes for one in self.collectives)

  @property
  def bound(self) -> Roofline | None:
    """Roofline bound; None if the chip or the HBM traffic is unknown.

    Leaves out traffic between TPU slices, whose bandwidth is unknown.
    """
    chip = self.chip
    if chip is None or self.hbm_bytes is None:
      return None
    sent = sum(c.sent_bytes for c in self.collectives if not c.crosses_slices)
    network = sum(one.network_bytes for one in self.collectives)
    return Roofline(
      compute=chip.devices * self.product_flops / chip.flops,
      memory=chip.devices * self.hbm_bytes / chip.memory_rate,
      links=chip.devices * sent / chip.link_rate,
      network=chip.devices * network / (chip.network_rate or math.inf),
      images=self.images,
    )


def _out_of_memory(error: Exception) -> tuple[int, int] | None:
  """Returns required and available bytes of an out-of-memory error.

  Returns 0 for sizes that are not reported, and None for other errors, such as
  a kernel that exceeds on-chip memory. XLA:TPU reports the required size as
  temporaries, but it includes arguments.
  """
  message = str(error)
  if "RESOURCE_EXHAUSTED" not in message and "HbmOom" not in message:
    return None
  for pattern in _OUT_OF_MEMORY:
    if match := pattern.search(message):
      required, unit, available, available_unit = match.groups()
      return (
        int(float(required) * _UNITS[unit]),
        int(float(available) * _UNITS[available_unit]),
      )
  return None if _ON_CHIP.search(message) else (0, 0)


def measure(
  program: Compilable, target: Target, mesh: Mapping[str, int]
) -> Requirements:
  """Compiles a program for a target and returns its requirements.

  Raises:
    jax.errors.JaxRuntimeError: if compilation fails for a reason other than
      HBM, for example a kernel that exceeds on-chip memory.
  """
  prefetched = program.prefetched
  started = time.perf_counter()
  traced = program.function.trace(*program.arguments)
  flops = product_flops(traced.jaxpr.jaxpr, math.prod(mesh.values()))
  limit = int(target.chip.program_bytes) if target.chip else None
  try:
    compiled = traced.lower().compile()
  except jax.errors.JaxRuntimeError as error:
    sizes = _out_of_memory(error)
    if sizes is None:
      raise
    required, available = sizes
    return Requirements(
      program.name,
      program.images,
      fits=False,
      memory=Memory(available or limit, required or None, None, (), prefetched),
      product_flops=flops,
      compile_seconds=time.perf_counter() - started,
      chip=target.chip,
      reason=str(error).split("\n")[0],
    )
  seconds = time.perf_counter() - started
  module = text.parse(compiled.as_text())
  slice_mesh = {**mesh, "data": mesh["data"] // target.slices}
  stats = compiled.memory_analysis()
  arguments = stats.argument_size_in_bytes
  outputs = stats.output_size_in_bytes - stats.alias_size_in_bytes
  # XLA:CPU leaves temporaries out of its peak.
  peak = max(
    stats.peak_memory_in_bytes, arguments + outputs + stats.temp_size_in_bytes
  )
  lines = memory.by_line(memory.live_at_peak(module, _ROOT))
  traffic = buffers.traffic_by_line(module, _ROOT)
  # XLA:TPU only compiles programs that fit.
  compiles_only_if_fits = target.is_tpu and not prefetched
  fits = limit is None or compiles_only_if_fits or peak + prefetched <= limit
  return Requirements(
    program.name,
    program.images,
    fits=fits,
    memory=Memory(limit, peak, arguments, tuple(lines), prefetched),
    product_flops=flops,
    hbm_bytes=buffers.hbm_bytes(module),
    traffic=tuple(traffic),
    accessed_bytes=cost.accessed_bytes(compiled),
    collectives=collectives.by_kind_and_axes(
      collectives.collectives(module, slice_mesh, target.nodes)
    ),
    compile_seconds=seconds,
    chip=target.chip,
    unknown_loops=tuple(
      Loop(loop.op_name, module.location(loop, _ROOT))
      for loop in trip_counts.unknown_loops(module)
    ),
  )
