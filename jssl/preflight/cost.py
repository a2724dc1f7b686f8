"""Memory, FLOPs and collectives of a compiled function."""

import math
from collections import Counter
from collections.abc import Iterator
from typing import Any

from jssl.preflight.hlo import collectives as collectives_lib
from jssl.preflight.hlo import text


def working_bytes(compiled: Any) -> int:
  """Returns the peak memory per device, excluding arguments and outputs."""
  memory = compiled.memory_analysis()
  inputs, outputs = memory.argument_size_in_bytes, memory.output_size_in_bytes
  peak = memory.peak_memory_in_bytes - inputs - outputs
  # XLA:TPU leaves buffers in VMEM out of the temporaries; XLA:CPU leaves
  # temporaries out of the peak.
  return max(peak, memory.temp_size_in_bytes)


def accessed_bytes(compiled: Any) -> int | None:
  """Returns the compiler's estimate of bytes accessed, None without one.

  Includes on-chip memory, and counts loop bodies once.
  """
  accessed = (compiled.cost_analysis() or {}).get("bytes accessed")
  return None if accessed is None else int(accessed)


def _dot_flops(equation: Any) -> int:
  (contracted, _), _ = equation.params["dimension_numbers"]
  left = equation.invars[0].aval.shape
  inner = math.prod(left[i] for i in contracted)
  return 2 * inner * math.prod(equation.outvars[0].aval.shape)


def _convolution_flops(equation: Any) -> int:
  numbers = equation.params["dimension_numbers"]
  kernel = equation.invars[1].aval.shape
  # Each output is a product with the weights of its output channel.
  inner = math.prod(kernel) // kernel[numbers.rhs_spec[0]]
  outputs = math.prod(equation.outvars[0].aval.shape)
  # Zeros inserted by input dilation cost nothing.
  return 2 * inner * outputs // math.prod(equation.params["lhs_dilation"])


def product_flops(jaxpr: Any, devices: int = 1) -> int:
  """Returns the FLOPs per device of matrix products and convolutions.

  A lower bound, as in `hlo.trip_counts`: loops count by trip, loops of unknown
  length once, and of branches the cheapest. Pallas kernels count by their cost
  estimate. Products outside of `shard_map` are assumed to be split evenly over
  the devices.
  """
  total = 0
  for equation in jaxpr.eqns:
    name = equation.primitive.name
    if name == "dot_general":
      total += _dot_flops(equation) // devices
    elif name == "conv_general_dilated":
      total += _convolution_flops(equation) // devices
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
  """Yields the jaxprs that an equation calls, including every branch."""
  for value in equation.params.values():
    for part in value if isinstance(value, tuple | list) else (value,):
      if hasattr(part, "eqns"):
        yield part
      elif hasattr(part, "jaxpr"):
        yield part.jaxpr


def collectives(program: str, devices: int) -> dict[str, int]:
  """Returns the bytes that a device receives, by kind of collective.

  `program` is the HLO text of a compiled program.
  """
  total: Counter[str] = Counter()
  module = text.parse(program)
  for found in collectives_lib.collectives(module, {"devices": devices}):
    total[found.kind] += found.received_bytes
  return dict(total)
