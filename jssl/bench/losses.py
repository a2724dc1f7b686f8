"""Fused operations of the losses: value and gradients.

Without --target, times and memory on this machine. Pallas kernels run in
interpret mode here, so their times say nothing about an accelerator.

With --target=v5e:2x4 (any TPU topology, or h100:8), programs are compiled for
devices that need not be present: memory, matrix products, bytes and
collectives, but no times.
"""

import argparse
from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jax.sharding import AxisType, Mesh, NamedSharding
from jax.sharding import PartitionSpec as P

from jssl import rng
from jssl.bench import harness
from jssl.losses.ops import (
  characteristic,
  gram,
  matmul,
  nearest,
  prototypes,
  sigmoid,
  similarity,
)
from jssl.losses.ops.gram import Factor, Pair
from jssl.losses.ops.layout import with_layout as run_with_layout
from jssl.preflight import cost, targets
from jssl.runtime.flops import product_flops

FLAGS = {
  "rounds": (5, "measurements of each case"),
  "target": ("", "compile for it, without running"),
  "only": ("", "operations, separated by commas; all if empty"),
}
Shapes = Sequence[tuple[int, ...]]


def _normalized(x: Any, ids: Any) -> Any:
  wide = x.astype(matmul.upcast_dtype(x.dtype))
  scale = jax.lax.rsqrt(jnp.sum(wide * wide, axis=1) / 10)
  return similarity.operand(x, scale, ids=ids)


def _two_sets(layout: Any, x: Any, y: Any) -> Any:
  rows, columns = similarity.log_sum_exps(
    layout, _normalized(x, ids=0), _normalized(y, ids=1)
  )
  return layout.mean(rows) + layout.mean(columns)


def _one_set(layout: Any, x: Any) -> Any:
  rows = _normalized(x, ids=layout.positions(len(x)))
  return layout.mean(similarity.log_sum_exp(layout, rows))


def _prototypes(layout: Any, x: Any, w: Any) -> Any:
  rows, columns = _normalized(x, ids=0), similarity.operand(w, 1.0, ids=1)
  found = prototypes.attend(layout, rows, columns, w)
  return layout.mean(found.lse) + layout.mean(jnp.sum(found.mean**2, axis=1))


def _gram(layout: Any, x: Any) -> Any:
  mean = layout.mean(x.astype(matmul.upcast_dtype(x.dtype)))
  centred = Factor(x, mean, jnp.ones_like(mean))
  return gram.inner(layout, Pair(centred))


def _sigmoid(layout: Any, x: Any, y: Any) -> Any:
  one = jnp.ones((), matmul.upcast_dtype(x.dtype))
  ids = layout.positions(len(x))
  return sigmoid.total(layout, x, y, one, -one, ids=(ids, ids))


def _nearest(layout: Any, x: Any) -> Any:
  wide = x.astype(matmul.upcast_dtype(x.dtype))
  scale = jax.lax.rsqrt(jnp.sum(wide * wide, axis=1))
  other = nearest.neighbours(layout, x, scale)
  return layout.mean(jnp.sum((wide - other) ** 2, axis=1))


def _characteristic(layout: Any, p: Any) -> Any:
  wide = p.astype(matmul.upcast_dtype(p.dtype))
  sums = characteristic.sums(layout, wide, knots=17, step=3 / 16)
  return jnp.sum(sums.cosine**2) + jnp.sum(sums.sine**2)


class Operation(NamedTuple):
  """A fused operation inside a loss that uses it."""

  name: str
  loss: Callable  # (layout, *arrays, implementation=) -> scalar
  here: Shapes  # to run
  target: Shapes  # to compile for a target
  small: Shapes = ()  # to run the Pallas kernel with; () without a kernel
  replicated: tuple[int, ...] = ()  # arrays that are not split over devices


_A, _B, _C = (4096, 128), (32768, 768), (256, 128)
OPERATIONS = [
  Operation(
    "similarity, rows and columns", _two_sets, [_A, _A], [_B, _B], [_C, _C]
  ),
  Operation("similarity, of one set", _one_set, [(8192, 128)], [_B], [_C]),
  Operation(
    "prototypes",
    _prototypes,
    [(2048, 128), (8192, 128)],
    [(16384, 256), (65536, 256)],
    [_C, (512, 128)],
    replicated=(1,),
  ),
  Operation("gram, by rows", _gram, [(512, 4096)], [(2048, 8192)]),
  Operation("gram, by features", _gram, [(8192, 2048)], [(32768, 4096)]),
  Operation("sigmoid", _sigmoid, [_A, _A], [_B, _B]),
  Operation("nearest", _nearest, [(8192, 128)], [_B]),
  Operation("characteristic", _characteristic, [(8192, 256)], [(32768, 1024)]),
]


def _value_and_grad(operation: Operation, implementation: Any) -> Callable:
  def value(*arrays: Any) -> Any:
    return run_with_layout(
      operation.loss, arrays[:1], arrays[1:], implementation=implementation
    )

  return jax.value_and_grad(value, argnums=tuple(range(len(operation.here))))


def _about(operation: Operation, shapes: Shapes) -> harness.Row:
  text = " ".join("x".join(map(str, shape)) for shape in shapes)
  return {"operation": operation.name, "shapes": text}


def _measured(
  operation: Operation, shapes: Shapes, names: Sequence[str], rounds: int
) -> list[harness.Row]:
  keys = jax.random.split(rng.root(0), 2)
  arrays = [jax.random.normal(k, s) for k, s in zip(keys, shapes, strict=False)]

  cases = (
    harness.compiled_case(name, _value_and_grad(operation, name), *arrays)
    for name in names
  )
  rows = harness.measure(cases, rounds=rounds)
  return [{**_about(operation, shapes), **row} for row in rows]


def _compiled(operation: Operation, mesh: Mesh, name: str) -> harness.Row:
  row = {**_about(operation, operation.target), "case": name}
  arrays = []
  for i, shape in enumerate(operation.target):
    spec = P() if i in operation.replicated else P("data")
    sharding = NamedSharding(mesh, spec)
    arrays.append(jax.ShapeDtypeStruct(shape, jnp.bfloat16, sharding=sharding))
  traced = jax.jit(_value_and_grad(operation, name)).trace(*arrays)
  try:
    compiled = traced.lower().compile()
  except jax.errors.JaxRuntimeError as error:
    if "RESOURCE_EXHAUSTED" not in str(error):
      raise
    return {**row, "working MiB": "does not fit"}
  accessed = cost.accessed_bytes(compiled)
  flops = product_flops(traced.jaxpr.jaxpr, mesh.size)
  received = cost.collectives(compiled.as_text(), mesh.size)
  return {
    **row,
    "working MiB": cost.working_bytes(compiled) / 2**20,
    "products TFLOP": flops / 1e12,
    "accessed GB, loops once": None if accessed is None else accessed / 1e9,
    "collectives MiB": sum(received.values()) / 2**20,
    "kinds": ", ".join(sorted(received)),
  }


def run(args: argparse.Namespace) -> harness.Report:
  """Measures here, or compiles for a target."""
  only = tuple(args.only.split(","))
  chosen = [o for o in OPERATIONS if o.name.startswith(only)]
  plain = ["reference", "tiled"]
  rows: list[harness.Row] = []
  if not args.target:
    for operation in chosen:
      rows += _measured(operation, operation.here, plain, args.rounds)
      if operation.small:
        names = [*plain, "pallas_tpu"]
        rows += _measured(operation, operation.small, names, args.rounds)
    return harness.Report(rows)
  target = targets.target(args.target)
  target.prepare()
  devices = np.array(target.devices())
  mesh = Mesh(devices, ("data",), axis_types=(AxisType.Auto,))
  for operation in chosen:
    kernel = ["pallas_tpu"] if operation.small and target.is_tpu else []
    rows += [_compiled(operation, mesh, name) for name in plain + kernel]
  return harness.Report(rows, {"target": args.target})
