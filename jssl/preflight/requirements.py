"""What a program needs of a device, as its compiler and its text say."""

import math
import pathlib
import re
import time
from collections import Counter
from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

import jax
import numpy as np

import jssl
from jssl.preflight import cost
from jssl.preflight.hlo import collectives, memory, text, traffic, trip_counts
from jssl.preflight.hlo.memory import Line
from jssl.preflight.hlo.text import Place
from jssl.preflight.programs import Compilable
from jssl.preflight.targets import Target

_ROOT = str(pathlib.Path(jssl.__file__).parent)
_SIZE = r"([\d.]+)([KMGT]?)"
_OUT_OF_MEMORY = (
  re.compile(rf"\({_SIZE}\) exceeds available HBM \({_SIZE}\)"),
  re.compile(rf"Used {_SIZE} of {_SIZE} hbm"),
)
# A kernel that asks for too much of a chip's own: no smaller batch helps it.
_ON_CHIP = re.compile(r"\b(?:vmem|smem|cmem|sflag)\b", re.IGNORECASE)
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
    network_bytes: of what it sends, that goes to other nodes of GPUs at least:
      what nodes have to exchange, over all of their GPUs.
  """

  kind: str
  axes: tuple[str, ...]
  instructions: int
  times: int
  received_bytes: int
  sent_bytes: int
  crosses_slices: bool
  network_bytes: int = 0


class Memory(NamedTuple):
  """Of a device.

  Attributes:
    limit: bytes that a program can have; None if it isn't known.
    peak: bytes that it takes, arguments included; None where the compiler gave
      up and doesn't say.
    arguments: bytes of them, donated ones included; None where it gave up.
    lines: what lies there beside the arguments when it is fullest.
    ready: bytes of batches that lie ready meanwhile, which the program doesn't
      know of.
  """

  limit: int | None
  peak: int | None
  arguments: int | None
  lines: tuple[Line, ...]
  ready: int = 0

  @property
  def spare(self) -> int | None:
    """Bytes that are left, negative where it doesn't fit."""
    if self.limit is None or self.peak is None:
      return None
    return self.limit - self.peak - self.ready

  @property
  def kinds(self) -> dict[str, int]:
    """Bytes of `lines` by what they are, as the names of operations tell.

    Activations are made in the forward pass of what is derived, gradients in
    the backward pass; what is computed anew there is among them.
    """
    kinds: Counter[str] = Counter()
    for line in self.lines:
      for buffer in line.buffers:
        kinds[_kind(buffer.op_name)] += buffer.array.bytes
    return dict(kinds)


def _kind(op_name: str) -> str:
  if "transpose(" in op_name:
    return "gradients"
  return "activations" if "jvp(" in op_name else "others"


class Loop(NamedTuple):
  """A loop that doesn't say how long it is.

  Attributes:
    op_name: of it.
    place: its line; None if the program doesn't say.
  """

  op_name: str
  place: Place | None


class Needs(NamedTuple):
  """Of a program, for each device.

  Attributes:
    name: of the program.
    images: that all devices together go through in one run.
    fits: whether the memory suffices.
    memory: of the device.
    product_flops: of products and convolutions, loops by trip.
    moved_bytes: read and written in the large memory, loops by trip; None where
      it doesn't fit. As FLOPs and traffic this is of the cheapest branches:
      what is done for the log alone isn't in it.
    accessed_bytes: the compiler's own estimate: of all memories, those on the
      chip too, loops counted once; None where it has none.
    traffic: what is sent.
    compile_seconds: on this machine.
    loops: of unknown length, whose insides are counted once.
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
  loops: tuple[Loop, ...] = ()
  reason: str = ""

  @property
  def sent_bytes(self) -> int:
    """All that a device sends in a run."""
    return sum(one.sent_bytes for one in self.traffic)


def _over_network(
  kind: str, axes: Sequence[str], mesh: Mapping[str, int], nodes: int
) -> float:
  """Returns which share of what a device sends goes to other nodes, at least.

  Where each of the m devices of a group in a node exchanges its own part with
  other nodes: (nodes - 1) parts of the members - 1 that a ring sends.
  """
  ids = np.arange(math.prod(mesh.values()))
  node = (ids // (len(ids) // nodes)).reshape([*mesh.values()])
  along = [i for i, axis in enumerate(mesh) if axis in axes]
  members = math.prod(node.shape[i] for i in along)
  of_group = np.moveaxis(node, along, range(len(along))).reshape(members, -1)
  together = max(len(np.unique(group)) for group in of_group.T)
  if together == 1:
    return 0.0
  share = (together - 1) / (members - 1)
  if kind in ("all-to-all", "ragged-all-to-all"):
    return share * members / together
  # A neighbour at a node's edge sends all of it there.
  return 1.0 if kind == "collective-permute" else share


def _traffic(
  module: text.Module, mesh: Mapping[str, int], slices: int, nodes: int
) -> tuple[Traffic, ...]:
  of_slice = {**mesh, "data": mesh["data"] // slices}
  found = collectives.collectives(module, of_slice, _ROOT)
  groups: dict[tuple[str, tuple[str, ...]], list[Any]] = {}
  for one in found:
    groups.setdefault((one.kind, one.axes), []).append(one)
  rows = []
  for (kind, axes), own in sorted(groups.items()):
    sent = sum(one.times * one.sent_bytes for one in own)
    rows.append(
      Traffic(
        kind,
        axes,
        instructions=len(own),
        times=sum(one.times for one in own),
        received_bytes=sum(one.times * one.result_bytes for one in own),
        sent_bytes=sent,
        crosses_slices=kind == collectives.BETWEEN_SLICES,
        network_bytes=round(sent * _over_network(kind, axes, mesh, nodes)),
      )
    )
  return tuple(rows)


def _loops(module: text.Module) -> tuple[Loop, ...]:
  return tuple(
    Loop(loop.op_name, module.place(loop, _ROOT))
    for loop in trip_counts.unknown_loops(module)
  )


def _too_large(error: Exception) -> tuple[int, int] | None:
  """Returns needed and available bytes, if that is what an error says.

  What is needed has the arguments in it, though TPU's compiler calls it
  temporaries: with arguments of 14 GiB and two temporaries of 1 it says 16.
  """
  message = str(error)
  if "RESOURCE_EXHAUSTED" not in message and "HbmOom" not in message:
    return None
  for form in _OUT_OF_MEMORY:
    if said := form.search(message):
      needed, unit, available, other = said.groups()
      return (
        int(float(needed) * _UNITS[unit]),
        int(float(available) * _UNITS[other]),
      )
  return None if _ON_CHIP.search(message) else (0, 0)


def measure(
  program: Compilable,
  target: Target,
  mesh: Mapping[str, int],
  ready: int = 0,
) -> Needs:
  """Compiles a program and returns what it needs.

  Args:
    program: with the shapes of its arguments.
    target: that its shardings are on.
    mesh: sizes of the axes by name.
    ready: bytes of batches that lie ready beside it.

  Raises:
    jax.errors.JaxRuntimeError: it can't be compiled, for other reasons than
      memory: as a kernel that doesn't fit on the chip.
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
    return Needs(
      program.name,
      program.images,
      fits=False,
      memory=Memory(sizes[1] or limit, sizes[0] or None, None, (), ready),
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
    # A TPU's compiler would have refused the program alone.
    fits=limit is None
    or (target.is_tpu and not ready)
    or peak + ready <= limit,
    memory=Memory(
      limit,
      peak,
      arguments,
      tuple(memory.by_line(memory.fullest(module, _ROOT))),
      ready,
    ),
    product_flops=flops,
    moved_bytes=traffic.moved_bytes(module),
    accessed_bytes=None if accessed is None else int(accessed),
    traffic=_traffic(module, mesh, target.slices, target.nodes),
    compile_seconds=seconds,
    loops=_loops(module),
  )
