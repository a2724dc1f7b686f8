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
from jssl.train.init import Program, train_batches

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
  step = program.step.lower(state, batch).compile()
  memory: Any = step.memory_analysis()

  def take_step() -> Any:
    nonlocal state
    state, metrics = step(state, batch)
    return state, metrics

  cells = {
    "state and batch MiB": memory.argument_size_in_bytes / 2**20,
    "temporary MiB": memory.temp_size_in_bytes / 2**20,
  }
  rows = harness.measure(
    [harness.Case("step", lambda: harness.timed(take_step, items=size), cells)],
    rounds=args.rounds,
    columns={**harness.MILLISECONDS, **harness.RATES},
    compare=False,
  )
  return harness.Report(rows, {"batch size": size})
