"""`python -m jssl.bench.loop --config=FILE`: what a run costs beside steps.

Trains for a while, by the loop itself, in a workdir that is thrown away. Each
step is waited for, so what the loop does between two (the window of metrics,
rows, the clock, asking for a stop, the next batch) is seen by itself; in a run
most of it lies under the step before. It is told in seconds on the wall, and in
those of the processor, which other work on the machine changes less.

Every second round of steps begins with a save. What it takes longer than the
next one is what a save costs; the config's `checkpoint.every_steps` says how
much of a run that is.
"""

import contextlib
import io
import itertools
import os
import statistics
import sys
import tempfile
import time
from collections.abc import Callable, Iterable, Iterator
from typing import Any, NamedTuple
from unittest import mock

from absl import app, flags, logging

from jssl.config import command_line

_CONFIG = flags.DEFINE_string("config", None, "Config file.", required=True)
_STEPS = flags.DEFINE_integer("steps", 20, "Steps a round.")
_ROUNDS = flags.DEFINE_integer("rounds", 5, "Rounds with a save, and without.")


class _EnoughError(Exception):
  """Ends the training."""


class _Moment(NamedTuple):
  """Seconds on the wall, and of the processor: of this thread, and of all."""

  wall: float
  thread: float
  process: float


def _now() -> _Moment:
  return _Moment(time.perf_counter(), time.thread_time(), time.process_time())


class _Step(NamedTuple):
  """When a step was asked for, when it was on its way, and when it was done."""

  asked: _Moment
  sent: _Moment
  done: _Moment


@contextlib.contextmanager
def _recorded(enough: int) -> Iterator[list[_Step]]:
  """Makes the loop wait for its steps, and write down when they are done."""
  import jax

  from jssl.train import loop

  steps: list[_Step] = []

  def program_of(run: Any, make: Callable[..., Any] = loop.Program) -> Any:
    program = make(run)
    compiled = program.step

    def step(*arguments: Any) -> Any:
      if len(steps) == enough:
        raise _EnoughError
      asked = _now()
      made = compiled(*arguments)
      sent = _now()
      jax.block_until_ready(made)
      steps.append(_Step(asked, sent, _now()))
      return made

    program.step = step
    return program

  with mock.patch.object(loop, "Program", program_of):
    yield steps


def _batch_seconds(config: Any, batches: int = 50) -> float:
  """Returns processor seconds of a batch; a run makes it in another thread."""
  import jax

  from jssl.config.build import build
  from jssl.config.parse import replace
  from jssl.train.init import Program, train_batches

  run = build(replace(config, {"data.prefetch_batches": 0}))
  iterator = train_batches(run, Program(run).batch_sharding)
  jax.block_until_ready(next(iterator))
  started = time.thread_time()
  for _ in range(batches):
    jax.block_until_ready(next(iterator))
  return (time.thread_time() - started) / batches


def _spread(values: Iterable[float], unit: float = 1e3) -> str:
  """Returns median and quartiles, in milliseconds."""
  low, middle, high = statistics.quantiles([unit * v for v in values], n=4)
  return f"{middle:9.2f} ms (quartiles {low:.2f} and {high:.2f})"


def main(argv: list[str]) -> None:
  """Prints milliseconds, and shares of a step and of a run."""
  import jax

  from jssl.config.parse import replace
  from jssl.config.schema import Config
  from jssl.runtime import compilation
  from jssl.train.loop import train

  logging.set_verbosity(logging.WARNING)
  compilation.use_cache()
  compilation.order_cpu_collectives()
  config = command_line.load(_CONFIG.value, argv[1:], Config)
  n, rounds = _STEPS.value, _ROUNDS.value
  interval, logged = config.checkpoint.every_steps, config.log.every_steps
  # The first save and the first row compile.
  warm = 2 * n * (2 + logged // (2 * n))
  enough = warm + 2 * n * rounds
  if config.train.steps <= enough:
    raise app.UsageError(
      f"train.steps={config.train.steps} of the config is too few: "
      f"{warm} steps to begin with and {rounds} rounds of 2 x {n} need more "
      f"than {enough}; lower --steps or --rounds"
    )
  config = replace(config, {"checkpoint.every_steps": 2 * n})
  load = os.getloadavg()[0]
  with (
    tempfile.TemporaryDirectory() as workdir,
    _recorded(enough) as steps,
    contextlib.suppress(_EnoughError),
    contextlib.redirect_stdout(io.StringIO()),
  ):
    train(config, workdir)
  if len(steps) < enough:
    sys.exit(f"stopped after {len(steps)} steps of {enough}")

  # Without those around a save.
  quiet = [steps[i - 1 : i + 1] for i in range(warm + 1, enough) if i % (2 * n)]
  step = statistics.median(
    after.done.wall - after.asked.wall for _, after in quiet
  )
  gaps = [after.asked.wall - before.done.wall for before, after in quiet]
  own = [after.asked.thread - before.done.thread for before, after in quiet]
  sent = [after.sent.thread - after.asked.thread for _, after in quiet]
  batch = _batch_seconds(config)
  host = statistics.fmean(own)
  print(
    f"device           {jax.devices()[0].device_kind} x {jax.device_count()}"
  )
  print(f"load             {load:.1f} before, {os.getloadavg()[0]:.1f} after")
  print(f"step             {1e3 * step:9.2f} ms, {1 / step:.1f} a second")
  print(f"between two      {_spread(gaps)} on the wall")
  print(f"  of the thread  {_spread(own)} of the processor")
  print(
    f"  with rows      {1e3 * host:9.2f} ms of the processor on average, a row "
    f"every {logged} steps"
  )
  print(f"sending a step   {_spread(sent)} of the processor")
  print(
    f"making a batch   {1e3 * batch:9.2f} ms of the processor, another thread"
  )
  print(
    f"outside the step {statistics.median(gaps) / step:9.2%} on the wall, "
    f"{host / step:.2%} of the processor; with sending and the batch "
    f"{(host + batch + statistics.fmean(sent)) / step:.2%}"
  )

  wall, process, ratios = [], [], []
  for first in range(warm, enough, 2 * n):
    ends = [steps[first + i * n - 1].done for i in range(3)]
    saving, not_saving = (
      [b - a for a, b in zip(*pair, strict=True)]
      for pair in itertools.pairwise(ends)
    )
    wall.append(saving[0] - not_saving[0])
    process.append(saving[2] - not_saving[2])
    ratios.append(saving[0] / not_saving[0])
  run = interval * step
  cost = statistics.median(wall)
  print(f"a save           {_spread(wall)} on the wall")
  print(f"                 {_spread(process)} of the processor")
  print(
    f"rounds of {n}     with a save over without: "
    f"{', '.join(f'{ratio:.3f}' for ratio in ratios)}"
  )
  print(
    f"saves cost       {cost / run:9.3%} of a run that saves every {interval} "
    f"steps ({run:.0f} s)"
  )


if __name__ == "__main__":
  app.run(main, flags_parser=command_line.parse_flags)
