"""FLOPs of programs, and peak FLOP/s of devices."""

import functools
import math
import time
from collections.abc import Iterator, Sequence
from typing import Any

import jax
import jax.numpy as jnp

from jssl.runtime.chips import CHIPS


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


def _attention_flops(equation: Any) -> int:
  """Returns the FLOPs of cuDNN's attention, of images [b, n, heads, e].

  The backward pass computes the logits again.
  """
  b, n, heads, e = equation.invars[0].aval.shape
  products = 2 if "fwd" in equation.primitive.name else 5
  return 2 * products * b * heads * n * n * e


def product_flops(jaxpr: Any, devices: int = 1) -> int:
  """Returns the FLOPs per device of matrix products and convolutions.

  A lower bound: loops count by trip, loops of unknown length once, and of
  branches the cheapest. Pallas kernels count by their cost estimate. Products
  outside of `shard_map` are assumed to be split evenly over the devices.
  """
  total = 0
  for equation in jaxpr.eqns:
    name = equation.primitive.name
    if name == "dot_general":
      total += _dot_flops(equation) // devices
    elif name == "conv_general_dilated":
      total += _convolution_flops(equation) // devices
    elif name.startswith("dot_product_attention"):
      total += _attention_flops(equation) // devices
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


def peak_flops(devices: Sequence[jax.Device]) -> float:
  """Returns the peak FLOP/s of one of the devices of a mesh.

  The data-sheet rate of bfloat16 products if the chip is in `CHIPS`. Otherwise,
  the measured rate of a large product: in bfloat16 on other accelerators, in
  float32 on CPUs, where the devices of a process share the cores.
  """
  kind = devices[0].device_kind
  for chip in CHIPS.values():
    if kind in chip.kinds:
      return chip.flops / chip.devices
  if devices[0].platform != "cpu":
    return _measured_flops(jnp.bfloat16)
  process = jax.process_index()
  return _measured_flops(jnp.float32) / sum(
    device.process_index == process for device in devices
  )


@functools.cache
def _measured_flops(dtype: Any, size: int = 2048, repeats: int = 4) -> float:
  """Returns the highest FLOP/s of square products on one device."""
  x = jnp.zeros((size, size), dtype, device=jax.local_devices()[0])
  product = jax.jit(jnp.matmul)
  seconds = math.inf
  for _ in range(repeats):
    started = time.perf_counter()
    jax.block_until_ready(product(x, x))
    seconds = min(seconds, time.perf_counter() - started)
  return 2 * size**3 / seconds
