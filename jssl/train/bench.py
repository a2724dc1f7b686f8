"""`python -m jssl.train.bench --config=FILE`: what the loop adds to the step.

Times the compiled step on a batch that lies on the devices, and the loop's body
(next batch, step, window of metrics), in turns and in one process.
"""

import statistics
import time
from collections.abc import Callable

from absl import app, flags
from ml_collections import config_flags

_CONFIG = config_flags.DEFINE_config_file("config", None, lock_config=True)
_STEPS = flags.DEFINE_integer("steps", 20, "Steps a round.")
_ROUNDS = flags.DEFINE_integer("rounds", 5, "Rounds of each of the two.")


def main(argv: list[str]) -> None:
  """Prints milliseconds a step, and the share of the host."""
  del argv
  import jax

  from jssl import build
  from jssl.train.program import Program, train_batches
  from jssl.train.watch import add_to_window, empty_window

  run = build.run(_CONFIG.value)
  program = Program(run)
  state = program.init()
  batches = train_batches(run, program.batch_sharding)
  batch = next(batches)

  def bare() -> None:
    nonlocal state
    for _ in range(_STEPS.value):
      state, _ = program.step(state, batch)

  def loop() -> None:
    nonlocal state
    window = empty_window(program.metrics)
    for _ in range(_STEPS.value):
      state, metrics = program.step(state, next(batches))
      window = add_to_window(window, metrics)
    jax.block_until_ready(window)

  def milliseconds(body: Callable[[], None]) -> float:
    jax.block_until_ready(state)
    started = time.perf_counter()
    body()
    jax.block_until_ready(state)
    return 1e3 * (time.perf_counter() - started) / _STEPS.value

  for body in (bare, loop):  # Compiles.
    body()
  pairs = [
    (milliseconds(bare), milliseconds(loop)) for _ in range(_ROUNDS.value)
  ]
  step, body = (statistics.median(times) for times in zip(*pairs, strict=True))
  shares = [1 - a / b for a, b in pairs]
  print(f"device              {jax.devices()[0].device_kind} x {run.mesh.size}")
  print(f"step alone          {step:8.1f} ms")
  print(f"loop's body         {body:8.1f} ms")
  print(
    f"outside of the step {statistics.median(shares):8.1%}"
    f"   (rounds: {', '.join(f'{share:.1%}' for share in shares)})"
  )


if __name__ == "__main__":
  flags.mark_flag_as_required("config")
  app.run(main)
