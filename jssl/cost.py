"""What a compiled program needs: memory, products, collectives.

Programs can be compiled for devices that are not there: XLA's TPU and GPU
compilers run on any machine. What they say are bounds and sizes, never times.
"""

import dataclasses
import math
import os
import re
from collections import Counter
from collections.abc import Callable, Iterator
from typing import Any

# An H100 SXM, as XLA's GPU compiler wants to be told about one.
_H100 = """
gpu_device_info {
  threads_per_block_limit: 1024 threads_per_warp: 32
  shared_memory_per_block: 49152 shared_memory_per_core: 233472
  threads_per_core_limit: 2048 core_count: 132 fpus_per_core: 128
  block_dim_limit_x: 2147483647 block_dim_limit_y: 65535
  block_dim_limit_z: 65535 memory_bandwidth: 3352320000000
  l2_cache_size: 52428800 clock_rate_ghz: 1.98
  device_memory_size: 84942979072 shared_memory_per_block_optin: 232448
  cuda_compute_capability { major: 9 }
  registers_per_core_limit: 65536 registers_per_block_limit: 65536
}
platform_name: "CUDA"
dnn_version_info { major: 9 minor: 8 }
device_description_str: "NVIDIA H100 80GB HBM3"
"""

# Read when JAX is imported: no accelerator is looked for, and compilers of
# several processes don't wait for each other.
_ENVIRONMENT = {
  "JAX_PLATFORMS": "cpu",
  "TPU_SKIP_MDS_QUERY": "1",
  "ALLOW_MULTIPLE_LIBTPU_LOAD": "1",
  "TPU_WORKER_HOSTNAMES": "localhost",
  "TPU_ACCELERATOR_TYPE": "v5litepod-8",
  "JAX_SKIP_CUDA_CONSTRAINTS_CHECK": "1",
}


def prepare_environment() -> None:
  """Sets what the compilers read. To be called before JAX is imported."""
  for name, value in _ENVIRONMENT.items():
    os.environ.setdefault(name, value)


def devices(target: str) -> list[Any]:
  """Returns the devices of a target, to make a mesh of.

  Args:
    target: a TPU topology ("v5e:2x4"; needs `jax[tpu]`) or GPUs of one node
      ("h100:8"; needs the plugins of `jax[cuda12]`).

  Raises:
    ValueError: the target is unknown, or its compiler isn't installed.
  """
  from jax.experimental import topologies

  kind, _, shape = target.partition(":")
  try:
    if kind == "h100":
      return topologies.get_topology_desc(
        platform="cuda",
        topology_name="h100",
        target_config=_H100,
        topology=f"1x1x{int(shape)}",
      ).devices
    return topologies.get_topology_desc(
      platform="tpu", topology_name=target
    ).devices
  except Exception as error:
    raise ValueError(
      f"target={target!r}: expected a TPU topology such as v5e:2x4 (and "
      "jax[tpu] installed), or h100:8 (and jax[cuda12]); the compiler says: "
      f"{error}"
    ) from error


@dataclasses.dataclass(frozen=True)
class Cost:
  """Of a compiled program, for each device.

  Attributes:
    working_bytes: the peak of memory, less arguments and outputs.
    output_bytes: of the outputs.
    product_flops: of all matrix products, loops counted by trip; in kernels
      that bring an estimate, that. What the compiler splits over devices is
      taken as split evenly.
    accessed_bytes: of memory, as the compiler estimates it, each loop's body
      counted once; None where it doesn't.
    collectives: bytes received by kind, loops counted by trip.
  """

  working_bytes: int
  output_bytes: int
  product_flops: int
  accessed_bytes: int | None
  collectives: dict[str, int]


def compile_cost(function: Callable, *args: Any) -> Cost:
  """Compiles a function and returns what it needs.

  Args:
    function: to be compiled; not jitted yet.
    *args: arrays, or their shapes, dtypes and shardings.
  """
  import jax

  traced = jax.jit(function).trace(*args)
  compiled = traced.lower().compile()
  memory = compiled.memory_analysis()
  analysis = compiled.cost_analysis() or {}
  accessed = analysis.get("bytes accessed")
  inputs, outputs = memory.argument_size_in_bytes, memory.output_size_in_bytes
  peak = memory.peak_memory_in_bytes - inputs - outputs
  return Cost(
    # Temporaries alone leave out what a TPU's compiler places on the chip, and
    # the peak of a CPU's leaves out temporaries.
    max(peak, memory.temp_size_in_bytes),
    outputs,
    product_flops(traced.jaxpr.jaxpr, _count_devices(args)),
    None if accessed is None else int(accessed),
    collectives(compiled.as_text()),
  )


def _count_devices(args: Any) -> int:
  import jax

  shardings = [getattr(a, "sharding", None) for a in jax.tree.leaves(args)]
  return max(len(s.device_set) if s else 1 for s in shardings)


def product_flops(jaxpr: Any, devices: int = 1) -> int:
  """Returns the FLOPs of all matrix products of a device, by trip.

  Args:
    jaxpr: of the program.
    devices: that the compiler splits products over; what is inside of
      `shard_map` has been split.
  """
  total = 0
  for equation in jaxpr.eqns:
    name = equation.primitive.name
    if name == "dot_general":
      (contracted, _), _ = equation.params["dimension_numbers"]
      left = equation.invars[0].aval.shape
      inner = math.prod(left[i] for i in contracted)
      flops = 2 * inner * math.prod(equation.outvars[0].aval.shape)
      total += flops // devices
    elif name == "pallas_call":
      estimate = equation.params.get("cost_estimate")
      total += estimate.flops if estimate else 0
    else:
      split = 1 if name == "shard_map" else devices
      inside = [product_flops(p, split) for p in inner_programs(equation)]
      # Of branches one is taken.
      once = max(inside, default=0) if name == "cond" else sum(inside)
      total += equation.params.get("length", 1) * once
  return total


def inner_programs(equation: Any) -> Iterator[Any]:
  """Yields the programs that an equation calls, each branch of them."""
  for value in equation.params.values():
    for part in value if isinstance(value, tuple | list) else (value,):
      if hasattr(part, "eqns"):
        yield part
      elif hasattr(part, "jaxpr"):
        yield part.jaxpr


_KINDS = (
  "all-reduce|all-gather|all-to-all|reduce-scatter|collective-permute"
  "|ragged-all-to-all|collective-broadcast"
)
# "%x = (f32[8,2]{1,0}, ...) all-gather-start(": of a pair, the start counts.
_COLLECTIVE = re.compile(rf"= (.*?) ({_KINDS})(-start)?\(")
_ARRAY = re.compile(r"\b([a-z]+\d+)\w*\[([\d,]*)\]")
_HEADER = re.compile(r"^(ENTRY )?%?([\w.\-]+) .*\{$")
_TRIPS = re.compile(r'known_trip_count"?:\s*\{"?n"?:\s*"?(\d+)')
_CONDITION = re.compile(r"condition=%?([\w.\-]+)")
_CONSTANT = re.compile(r"s32\[\]\S* constant\((\d+)\)")
_CALLED = re.compile(
  r"(?:body|condition|to_apply|calls|true_computation|false_computation)="
  r"%?([\w.\-]+)"
)


def collectives(text: str) -> dict[str, int]:
  """Returns the bytes that a device's collectives leave it with, by kind.

  Args:
    text: of a compiled program.

  Raises:
    ValueError: there are some in a loop that doesn't say how long it is.
  """
  bodies: dict[str, list[str]] = {}
  name, entry = "", ""
  for line in text.splitlines():
    header = _HEADER.match(line)
    if header and "=" not in line.split("(")[0]:
      name = header.group(2)
      entry = name if header.group(1) else entry
    bodies.setdefault(name, []).append(line)
  total: Counter[str] = Counter()

  def trips(line: str) -> int | None:
    known = _TRIPS.search(line)
    if known:
      return int(known.group(1))
    # TPU programs don't say; JAX's loops count from 0 to one constant.
    condition = _CONDITION.search(line)
    inside = bodies.get(condition.group(1), []) if condition else []
    limits = _CONSTANT.findall("\n".join(inside))
    return int(limits[0]) if len(limits) == 1 else None

  def walk(name: str, times: int) -> None:
    for line in bodies.get(name, []):
      found = _COLLECTIVE.search(line)
      if found:
        shapes, kind, start = found.groups()
        total[kind] += times * _bytes(shapes, pair=bool(start))
      for called in _CALLED.findall(line):
        before = total.total()
        count = trips(line) if " while(" in line else 1
        walk(called, times * (count or 1))
        if count is None and total.total() > before:
          raise ValueError(f"a loop of unknown length in {name}: {line[:200]}")

  walk(entry, 1)
  return dict(total)


def _bytes(shapes: str, *, pair: bool) -> int:
  """Returns the size of the results in a type.

  Args:
    shapes: of the results; of a pair's start, those of its operands before.
    pair: whether it is one.
  """
  sizes = [
    math.prod(map(int, filter(None, dims.split(","))))
    * max(1, int(re.sub(r"\D", "", dtype)) // 8)
    for dtype, dims in _ARRAY.findall(shapes)
  ]
  return max(sizes, default=0) if pair else sum(sizes)
