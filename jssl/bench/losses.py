"""`python -m jssl.bench.losses`: what each fused operation costs.

Here, time and memory of value and gradients are measured; the kernels run
interpreted, which says nothing of their speed. With `--target=v5e:2x4` (any TPU
topology, or h100:8) the programs are compiled for devices that are not there:
memory, products, bytes and collectives, but no times.
"""

import dataclasses
import json
import platform
import statistics
import sys
import time
from collections.abc import Callable, Iterator
from typing import Any

from absl import app, flags

from jssl.preflight import cost, targets

_TARGET = flags.DEFINE_string(
  "target", None, "Compile for it, and run nothing."
)
_JSON = flags.DEFINE_string(
  "json", None, "File that the table goes to as well."
)
_ROUNDS = flags.DEFINE_integer("rounds", 5, "Of which the median is told.")
_ONLY = flags.DEFINE_list("only", None, "Operations; all if not given.")


@dataclasses.dataclass(frozen=True)
class Subject:
  """An operation in the loss that it was made for.

  Attributes:
    name: of the operation, and what is special.
    loss: `(layout, *arrays, implementation=) -> scalar`.
    shapes: of the arrays, by size: "here", "target" and "small".
    split: which of them are split over devices.
    kernel: whether it has one.
  """

  name: str
  loss: Callable
  shapes: dict[str, tuple[tuple[int, ...], ...]]
  split: tuple[bool, ...]
  kernel: bool = False


def subjects() -> list[Subject]:
  """Returns what is measured."""
  import jax
  import jax.numpy as jnp

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

  def normed(x: Any, **options: Any) -> Any:
    wide = x.astype(matmul.wide(x.dtype))
    scale = jax.lax.rsqrt(jnp.sum(wide * wide, axis=1) / 10)
    return similarity.side(x, scale, **options)

  def both(layout: Any, x: Any, y: Any, **options: Any) -> Any:
    rows, columns = similarity.log_sum_exps(
      layout, normed(x, ids=0), normed(y, ids=1), **options
    )
    return layout.mean(rows) + layout.mean(columns)

  def alone(layout: Any, x: Any, **options: Any) -> Any:
    rows = normed(x, ids=layout.positions(len(x)))
    return layout.mean(similarity.log_sum_exp(layout, rows, None, **options))

  def attend(layout: Any, x: Any, w: Any, **options: Any) -> Any:
    columns = similarity.side(w, 1.0, ids=1)
    seen = prototypes.attend(layout, normed(x, ids=0), columns, w, **options)
    return layout.mean(seen.lse) + layout.mean(jnp.sum(seen.mean**2, axis=1))

  def squares(layout: Any, x: Any, **options: Any) -> Any:
    wide = x.astype(matmul.wide(x.dtype))
    mean = layout.mean(wide)
    centred = Factor(x, mean, jnp.ones_like(mean))
    return gram.inner(layout, Pair(centred), **options)

  def pairs(layout: Any, x: Any, y: Any, **options: Any) -> Any:
    one = jnp.ones((), matmul.wide(x.dtype))
    ids = layout.positions(len(x))
    return sigmoid.total(layout, x, y, one, -one, ids=(ids, ids), **options)

  def spread(layout: Any, x: Any, **options: Any) -> Any:
    wide = x.astype(matmul.wide(x.dtype))
    scale = jax.lax.rsqrt(jnp.sum(wide * wide, axis=1))
    other = nearest.neighbours(layout, x, scale, **options)
    return layout.mean(jnp.sum((wide - other) ** 2, axis=1))

  def waves(layout: Any, p: Any, **options: Any) -> Any:
    wide = p.astype(matmul.wide(p.dtype))
    sums = characteristic.sums(layout, wide, knots=17, step=3 / 16, **options)
    return jnp.sum(sums.cosine**2) + jnp.sum(sums.sine**2)

  def sizes(here: tuple, target: tuple, small: tuple = ()) -> dict[str, tuple]:
    return {"here": here, "target": target, "small": small}

  n, d = (4096, 128), (32768, 768)
  return [
    Subject(
      "similarity, rows and columns",
      both,
      sizes((n, n), (d, d), ((256, 128), (256, 128))),
      (True, True),
      kernel=True,
    ),
    Subject(
      "similarity, of one set",
      alone,
      sizes(((8192, 128),), (d,), ((256, 128),)),
      (True,),
      kernel=True,
    ),
    Subject(
      "prototypes",
      attend,
      sizes(
        ((2048, 128), (8192, 128)),
        ((16384, 256), (65536, 256)),
        ((256, 128), (512, 128)),
      ),
      (True, False),
      kernel=True,
    ),
    Subject(
      "gram, by rows",
      squares,
      sizes(((512, 4096),), ((2048, 8192),)),
      (True,),
    ),
    Subject(
      "gram, by features",
      squares,
      sizes(((8192, 2048),), ((32768, 4096),)),
      (True,),
    ),
    Subject("sigmoid", pairs, sizes((n, n), (d, d)), (True, True)),
    Subject("nearest", spread, sizes(((8192, 128),), (d,)), (True,)),
    Subject(
      "characteristic",
      waves,
      sizes(((8192, 256),), ((32768, 1024),)),
      (True,),
    ),
  ]


def _function(subject: Subject, implementation: str | None) -> Callable:
  import functools

  import jax

  from jssl.losses.ops.layout import run

  def value(*arrays: Any) -> Any:
    loss = functools.partial(subject.loss, implementation=implementation)
    return run(loss, *arrays, axis_name=None)

  every = tuple(range(len(subject.split)))
  return jax.value_and_grad(value, argnums=every)


def here() -> Iterator[dict[str, Any]]:
  """Yields a row for each operation and implementation, run on this machine."""
  import jax

  def measured(subject: Subject, size: str, variants: tuple) -> Iterator[dict]:
    keys = jax.random.split(jax.random.key(0), 2)
    shapes = subject.shapes[size]
    arrays = [
      jax.random.normal(key, shape)
      for key, shape in zip(keys, shapes, strict=False)
    ]
    compiled = {}
    costs = {}
    for name in variants:
      function = _function(subject, name)
      costs[name] = cost.compile_cost(function, *arrays)
      compiled[name] = jax.jit(function)
      jax.block_until_ready(compiled[name](*arrays))
    times: dict[str, list[float]] = {name: [] for name in variants}
    # In turns: what else the machine does then falls on all of them.
    for _ in range(_ROUNDS.value):
      for name, function in compiled.items():
        started = time.perf_counter()
        jax.block_until_ready(function(*arrays))
        times[name].append(1e3 * (time.perf_counter() - started))
    for name in variants:
      yield {
        "operation": subject.name,
        "shapes": _told(shapes),
        "implementation": name,
        "milliseconds": statistics.median(times[name]),
        "working MiB": costs[name].working_bytes / 2**20,
      }

  for subject in _chosen():
    yield from measured(subject, "here", ("reference", "tiled"))
    if subject.kernel:
      yield from measured(
        subject, "small", ("reference", "tiled", "pallas_tpu")
      )


_NEEDS = (
  "working MiB",
  "products TFLOP",
  "accessed GB, loops once",
  "collectives MiB",
  "kinds",
)


def elsewhere(target: str) -> Iterator[dict[str, Any]]:
  """Yields a row for each operation and implementation, compiled for a target.

  Args:
    target: see `jssl.preflight.targets.target`.
  """
  import jax
  import jax.numpy as jnp
  import numpy as np
  from jax.sharding import AxisType, Mesh, NamedSharding
  from jax.sharding import PartitionSpec as P

  mesh = Mesh(
    np.array(targets.target(target).devices()),
    ("data",),
    axis_types=(AxisType.Auto,),
  )
  for subject in _chosen():
    shapes = subject.shapes["target"]
    arrays = [
      jax.ShapeDtypeStruct(
        shape,
        jnp.bfloat16,
        sharding=NamedSharding(mesh, P("data") if split else P()),
      )
      for shape, split in zip(shapes, subject.split, strict=True)
    ]
    names = ["reference", "tiled"]
    if subject.kernel and targets.target(target).is_tpu:
      names.append("pallas_tpu")
    for name in names:
      row = {
        "operation": subject.name,
        "shapes": _told(shapes),
        "implementation": name,
      }
      try:
        needs = cost.compile_cost(_function(subject, name), *arrays)
      except jax.errors.JaxRuntimeError as error:
        if "RESOURCE_EXHAUSTED" not in str(error):
          raise
        yield {**row, **dict.fromkeys(_NEEDS, "-"), _NEEDS[0]: "doesn't fit"}
        continue
      accessed = needs.accessed_bytes
      values = (
        needs.working_bytes / 2**20,
        needs.product_flops / 1e12,
        "-" if accessed is None else accessed / 1e9,
        sum(needs.collectives.values()) / 2**20,
        ", ".join(sorted(needs.collectives)),
      )
      yield {**row, **dict(zip(_NEEDS, values, strict=True))}


def _chosen() -> list[Subject]:
  return [
    subject
    for subject in subjects()
    if not _ONLY.value or subject.name.split(",")[0] in _ONLY.value
  ]


def _told(shapes: tuple[tuple[int, ...], ...]) -> str:
  return " ".join("x".join(map(str, shape)) for shape in shapes)


def _cell(value: Any) -> str:
  return f"{value:.4g}" if isinstance(value, float) else str(value)


def main(argv: list[str]) -> None:
  """Prints a table, and writes it."""
  del argv
  if _TARGET.value:
    targets.target(_TARGET.value).prepare()
  rows = elsewhere(_TARGET.value) if _TARGET.value else here()
  table: list[dict[str, Any]] = []
  for row in rows:
    if not table:
      print("| " + " | ".join(row) + " |")
      print("|---" * len(row) + "|", flush=True)
    print("| " + " | ".join(map(_cell, row.values())) + " |", flush=True)
    table.append(row)
  if _JSON.value:
    about = {
      "command": "python -m jssl.bench.losses " + " ".join(sys.argv[1:]),
      "target": _TARGET.value or "this machine",
      "machine": platform.processor() or platform.machine(),
      "date": time.strftime("%Y-%m-%d"),
    }
    with open(_JSON.value, "w") as file:
      json.dump({**about, "rows": table}, file, indent=2)


if __name__ == "__main__":
  app.run(main)
