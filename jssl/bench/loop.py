"""Time of the training loop outside the compiled step.

`--config=FILE[:ARG] [--config.SECTION.KEY=VALUE ...]` as in `jssl.train`.

Trains in a temporary workdir and waits for every step, so that the work of the
loop between two steps is measured by itself. In a real run most of it overlaps
with the step before. Every other round of steps begins with a checkpoint, whose
cost is the difference to the next round.
"""

import argparse
import contextlib
import io
import statistics
import tempfile
import time
from typing import Any
from unittest import mock

import jax
import numpy as np
from absl import logging
from jaxtyping import Float

from jssl.bench import harness
from jssl.config import command_line
from jssl.config.build import build
from jssl.config.parse import replace
from jssl.config.schema import Config
from jssl.data import pipeline
from jssl.runtime import compilation
from jssl.train import loop
from jssl.train.init import Program

FLAGS = {
  "config": ("", "config file"),
  "rounds": (5, "rounds with a checkpoint, and as many without"),
  "steps": (20, "steps of a round"),
}


# Axes of the moments of steps, in seconds: before the call, after the dispatch
# and after the results; of the wall clock, and processor time of this thread
# and of the process.
_CALLED, _DISPATCHED, _DONE = range(3)
_WALL, _THREAD, _PROCESS = range(3)


class _StopTraining(Exception):
  pass


def _now() -> tuple[float, float, float]:
  return time.perf_counter(), time.thread_time(), time.process_time()


def _train(config: Config, number: int) -> Float[np.ndarray, "steps 3 3"]:
  """Trains, waits for each step and returns its moments."""
  steps: list[list[tuple[float, float, float]]] = []

  def make_program(*args: Any) -> Any:
    program: Any = Program(*args)
    compiled = program.compile()

    def step(*arguments: Any) -> Any:
      if len(steps) == number:
        raise _StopTraining
      moments = [_now()]
      results = compiled(*arguments)
      moments.append(_now())
      jax.block_until_ready(results)
      steps.append([*moments, _now()])
      return results

    program.compile = lambda: step
    return program

  with (
    tempfile.TemporaryDirectory() as workdir,
    mock.patch.object(loop, "Program", make_program),
    contextlib.suppress(_StopTraining),
    contextlib.redirect_stdout(io.StringIO()),
  ):
    loop.train(config, workdir)
  if len(steps) < number:
    raise ValueError(f"training stopped after {len(steps)} of {number} steps")
  return np.array(steps)


def _batch_cpu_s(config: Config, number: int = 50) -> float:
  """Returns processor seconds of a batch, which a run makes in a thread."""
  objects = build(config)
  batches = pipeline.train_batches(
    objects.source,
    seed=config.seed,
    batch_size=config.data.batch_size,
    sharding=Program(objects).batch_sharding,
    workers=config.data.workers,
    prefetch_batches=0,
    order=config.order,
    total_steps=config.train.steps,
  )
  jax.block_until_ready(next(batches))
  started = time.thread_time()
  for _ in range(number):
    jax.block_until_ready(next(batches))
  return (time.thread_time() - started) / number


def run(args: argparse.Namespace) -> harness.Report:
  """Trains and returns the time of each part of the loop."""
  logging.set_verbosity(logging.WARNING)
  compilation.use_cache()
  compilation.order_cpu_collectives()
  config = command_line.load(args.config, args.overrides, Config)
  n, interval = args.steps, config.checkpoint.every_steps
  # The first checkpoint and the first log row compile.
  warmup = 2 * n * (2 + config.log.every_steps // (2 * n))
  total = warmup + 2 * n * args.rounds
  if config.train.steps <= total:
    raise ValueError(
      f"train.steps={config.train.steps}: expected more than {total}, {warmup} "
      f"of them warm-up; lower --steps or --rounds"
    )
  steps = _train(replace(config, {"checkpoint.every_steps": 2 * n}), total)

  # Without the steps around a checkpoint.
  quiet = [i for i in range(warmup + 1, total) if i % (2 * n)]
  called, dispatched, done = np.moveaxis(steps[quiet], 1, 0)
  between_s = called - steps[np.subtract(quiet, 1), _DONE]
  step_s = (done - called)[:, _WALL]
  dispatch_s = (dispatched - called)[:, _THREAD]
  host_s = between_s[:, _THREAD]
  batch_s = _batch_cpu_s(config)
  # Two rounds make a pair, and the first of them has a checkpoint.
  rounds_s = np.diff(steps[warmup - 1 : total : n, _DONE], axis=0)
  saving_s, other_s = rounds_s[0::2], rounds_s[1::2]
  save_s = saving_s - other_s

  step = statistics.median(step_s)
  rows = [
    {
      "part": part,
      "clock": clock,
      **harness.spread([1e3 * s for s in seconds], "ms"),
      "of a step": f"{statistics.median(seconds) / step:.2%}",
    }
    for part, clock, seconds in (
      ("step", "wall", step_s),
      ("between two steps", "wall", between_s[:, _WALL]),
      ("between two steps", "CPU, thread", host_s),
      ("same, mean with log rows", "CPU, thread", [statistics.fmean(host_s)]),
      ("dispatch of a step", "CPU, thread", dispatch_s),
      ("a batch, in another thread", "CPU, thread", [batch_s]),
      ("a checkpoint", "wall", save_s[:, _WALL]),
      ("a checkpoint", "CPU, process", save_s[:, _PROCESS]),
    )
  ]
  outside = statistics.fmean(host_s) + batch_s + statistics.fmean(dispatch_s)
  share = statistics.median(save_s[:, _WALL]) / (interval * step)
  ratios = saving_s / other_s
  about = {
    "steps/s": 1 / step,
    "CPU outside the step": f"{outside / step:.2%} of a step",
    "rounds with a checkpoint": ", ".join(f"{r:.3f}" for r in ratios[:, _WALL]),
    "checkpoints": f"{share:.3%} of a run with one every {interval} steps",
    "log rows": f"one every {config.log.every_steps} steps",
  }
  return harness.Report(rows, about)
