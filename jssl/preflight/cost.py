"""What a compiled program needs: memory, FLOPs, traffic, collectives.

Programs can be compiled for devices that are not there
(`jssl.preflight.targets`). What the compilers say are bounds
and sizes, never times.
"""

import dataclasses
import math
from collections import Counter
from collections.abc import Callable, Iterator, Mapping
from typing import Any

from jssl.preflight.hlo import collectives as collectives_lib
from jssl.preflight.hlo import text


@dataclasses.dataclass(frozen=True)
class Cost:
  """Of a compiled program, for each device.

  Attributes:
    working_bytes: the peak of memory, less arguments and outputs.
    output_bytes: of the outputs.
    product_flops: of all matrix products and convolutions, loops counted by
      trip and of branches the cheapest; in kernels that bring an estimate,
      that. What the compiler splits over devices is taken as split evenly.
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
  devices = _count_devices(args)
  return Cost(
    # Temporaries alone leave out what a TPU's compiler places on the chip, and
    # the peak of a CPU's leaves out temporaries.
    max(peak, memory.temp_size_in_bytes),
    outputs,
    product_flops(traced.jaxpr.jaxpr, devices),
    None if accessed is None else int(accessed),
    collectives(compiled.as_text(), devices),
  )


def _count_devices(args: Any) -> int:
  import jax

  shardings = [getattr(a, "sharding", None) for a in jax.tree.leaves(args)]
  return max(len(s.device_set) if s else 1 for s in shardings)


def _of_product(equation: Any) -> int:
  (contracted, _), _ = equation.params["dimension_numbers"]
  left = equation.invars[0].aval.shape
  inner = math.prod(left[i] for i in contracted)
  return 2 * inner * math.prod(equation.outvars[0].aval.shape)


def _of_convolution(equation: Any) -> int:
  numbers = equation.params["dimension_numbers"]
  kernel = equation.invars[1].aval.shape
  # For each output, a product with each weight that leads to its channel.
  inner = math.prod(kernel) // kernel[numbers.rhs_spec[0]]
  out = math.prod(equation.outvars[0].aval.shape)
  # Zeros between the values of a dilated operand are no work.
  zeros = math.prod(equation.params["lhs_dilation"])
  return 2 * inner * out // zeros


def product_flops(jaxpr: Any, devices: int = 1) -> int:
  """Returns the FLOPs of a device's products and convolutions, by trip.

  As in `hlo.trip_counts` a loop that doesn't say how long it is counts once,
  and of branches the cheapest does: a bound from below.

  Args:
    jaxpr: of the program.
    devices: that the compiler splits products over; what is inside of
      `shard_map` has been split.
  """
  total = 0
  for equation in jaxpr.eqns:
    name = equation.primitive.name
    if name == "dot_general":
      total += _of_product(equation) // devices
    elif name == "conv_general_dilated":
      total += _of_convolution(equation) // devices
    elif name == "pallas_call":
      estimate = equation.params.get("cost_estimate")
      total += estimate.flops if estimate else 0
    else:
      split = 1 if name == "shard_map" else devices
      inside = [product_flops(p, split) for p in inner_programs(equation)]
      once = min(inside, default=0) if name == "cond" else sum(inside)
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


def collectives(
  program: str, devices: int | Mapping[str, int]
) -> dict[str, int]:
  """Returns the bytes that a device's collectives leave it with, by kind.

  Args:
    program: text of a compiled program.
    devices: that it runs on, or their mesh.
  """
  mesh = devices if isinstance(devices, Mapping) else {"devices": devices}
  total: Counter[str] = Counter()
  for found in collectives_lib.collectives(text.parse(program), mesh):
    total[found.kind] += found.times * found.result_bytes
  return dict(total)
