"""One compiled training step of a config, on one batch on the device.

`--config=FILE[:ARG] [--config.SECTION.KEY=VALUE ...]` as in `jssl.train`.
"""

import argparse
from typing import Any

from jssl.bench import harness
from jssl.config import command_line
from jssl.config.build import build
from jssl.config.schema import Config
from jssl.runtime import compilation
from jssl.runtime.flops import peak_flops
from jssl.train.init import Program, model_flops, train_batches

FLAGS = {
  "config": ("", "config file"),
  "rounds": (20, "measured steps"),
}


def run(args: argparse.Namespace) -> harness.Report:
  """Compiles the step and measures it."""
  compilation.use_cache()
  compilation.order_cpu_collectives()
  config = command_line.load(args.config, args.overrides, Config)
  objects = build(config)
  program = Program(objects)
  batches = train_batches(objects, program.batch_sharding)
  batch, size = next(batches), config.data.batch_size
  batches.close()
  state = program.init()
  step: Any = program.compile()
  memory = step.memory_analysis()
  flops = model_flops(objects, program)
  peak = peak_flops(list(objects.mesh.devices.flat))

  def take_step() -> Any:
    nonlocal state
    state, metrics = step(state, batch)
    return state, metrics

  cells = {
    "state and batch MiB": memory.argument_size_in_bytes / 2**20,
    "temporary MiB": memory.temp_size_in_bytes / 2**20,
    "GFLOP per device": flops / 1e9,
  }
  utilisation: harness.Columns = {
    "MFU": lambda timing: flops / peak / timing.wall_s
  }
  rows = harness.measure(
    [harness.Case("step", lambda: harness.timed(take_step, items=size), cells)],
    rounds=args.rounds,
    columns={**harness.MILLISECONDS, **harness.RATES, **utilisation},
    compare=False,
  )
  return harness.Report(rows, {"batch size": size, "peak TFLOP/s": peak / 1e12})
