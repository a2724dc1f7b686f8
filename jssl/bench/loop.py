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
from typing import Any, NamedTuple
from unittest import mock

import jax
from absl import logging

from jssl.bench import harness
from jssl.config import command_line
from jssl.config.build import build
from jssl.config.parse import replace
from jssl.config.schema import Config
from jssl.runtime import compilation
from jssl.train import loop
from jssl.train.init import Program, train_batches

FLAGS = {
  "config": ("", "config file"),
  "rounds": (5, "rounds with a checkpoint, and as many without"),
  "steps": (20, "steps of a round"),
}


class _StopTraining(Exception):
  pass


class _Moment(NamedTuple):
  """Seconds: wall clock, processor time of this thread and of the process."""

  wall: float
  thread: float
  process: float


def _now() -> _Moment:
  return _Moment(time.perf_counter(), time.thread_time(), time.process_time())


class _Step(NamedTuple):
  """Moments before a step, after its dispatch and after its completion."""

  called: _Moment
  dispatched: _Moment
  done: _Moment


def _train(config: Config, number: int) -> list[_Step]:
  """Trains, waits for each step and records it."""
  steps: list[_Step] = []

  def make_program(*args: Any) -> Any:
    program: Any = Program(*args)
    compiled = program.step

    def step(*arguments: Any) -> Any:
      if len(steps) == number:
        raise _StopTraining
      called = _now()
      results = compiled(*arguments)
      dispatched = _now()
      jax.block_until_ready(results)
      steps.append(_Step(called, dispatched, _now()))
      return results

    program.step = step
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
  return steps


def _batch_cpu_s(config: Config, number: int = 50) -> float:
  """Returns processor seconds of a batch, which a run makes in a thread."""
  objects = build(replace(config, {"data.prefetch_batches": 0}))
  batches = train_batches(objects, Program(objects).batch_sharding)
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

  # Pairs of consecutive steps, without those around a checkpoint.
  quiet = [i for i in range(warmup + 1, total) if i % (2 * n)]
  pairs = [(steps[i - 1].done, steps[i]) for i in quiet]
  step_s = [own.done.wall - own.called.wall for _, own in pairs]
  between_s = [own.called.wall - before.wall for before, own in pairs]
  host_s = [own.called.thread - before.thread for before, own in pairs]
  dispatch_s = [own.dispatched.thread - own.called.thread for _, own in pairs]
  batch_s = _batch_cpu_s(config)
  # Seconds of each pair of rounds, the first with a checkpoint.
  ends = [steps[i - 1].done for i in range(warmup, total + 1, n)]
  saves = list(zip(ends[0::2], ends[1::2], ends[2::2], strict=False))
  save_s = [2 * b.wall - a.wall - c.wall for a, b, c in saves]
  save_cpu_s = [2 * b.process - a.process - c.process for a, b, c in saves]
  ratios = [(b.wall - a.wall) / (c.wall - b.wall) for a, b, c in saves]

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
      ("between two steps", "wall", between_s),
      ("between two steps", "CPU, thread", host_s),
      ("same, mean with log rows", "CPU, thread", [statistics.fmean(host_s)]),
      ("dispatch of a step", "CPU, thread", dispatch_s),
      ("a batch, in another thread", "CPU, thread", [batch_s]),
      ("a checkpoint", "wall", save_s),
      ("a checkpoint", "CPU, process", save_cpu_s),
    )
  ]
  outside = statistics.fmean(host_s) + batch_s + statistics.fmean(dispatch_s)
  share = statistics.median(save_s) / (interval * step)
  about = {
    "steps/s": 1 / step,
    "CPU outside the step": f"{outside / step:.2%} of a step",
    "rounds with a checkpoint": ", ".join(f"{r:.3f}" for r in ratios),
    "checkpoints": f"{share:.3%} of a run with one every {interval} steps",
    "log rows": f"one every {config.log.every_steps} steps",
  }
  return harness.Report(rows, about)
