"""The loop: from a config to checkpoints."""

import contextlib
import math
import os
import pathlib
import shutil
import time
from collections.abc import Mapping
from contextlib import ExitStack
from typing import NoReturn

import jax
from absl import logging
from clu import parameter_overview

from jssl import tree
from jssl.checkpoint import (
  CheckpointError,
  Checkpoints,
  DataIterator,
  NotSavedError,
)
from jssl.config.build import Run, build
from jssl.config.parse import to_dict
from jssl.config.schema import Config
from jssl.runtime import distributed, files
from jssl.runtime.goodput import Clock
from jssl.runtime.workdir import claim_workdir
from jssl.train.init import (
  Program,
  checkpoint_items,
  first_state,
  from_checkpoint_items,
  train_batches,
)
from jssl.train.metrics import Watch, add_to_window, empty_window
from jssl.train.state import TrainState
from jssl.train.writer import Writer
from jssl.typing import PyTree

_all_finite = jax.jit(tree.all_finite)


def _items(state: TrainState, watch: Watch) -> dict[str, PyTree]:
  return {**checkpoint_items(state), **watch.to_arrays()}


def _restore(
  run: Run,
  program: Program,
  checkpoints: Checkpoints,
  batches: DataIterator,
) -> tuple[int, TrainState, Watch]:
  """Returns step, state and watch of the newest checkpoint, or the first."""
  watch = Watch(0.0, 0, empty_window(program.metrics))
  abstract = _items(program.abstract_state, watch)
  restored = checkpoints.restore_latest(abstract, batches)
  if restored is None:
    state = first_state(program, run.config.init_from)
    overview = parameter_overview.get_parameter_overview(
      state.backbone["params"], include_stats=False
    )
    distributed.log_on_first(overview)
    return 0, state, watch
  step, items = restored
  distributed.log_on_first(f"taken up at step {step}")
  watch = Watch.from_arrays(items)
  return step, from_checkpoint_items(items), watch


def _break(
  config: Config,
  workdir: str | os.PathLike,
  checkpoints: Checkpoints,
  items: Mapping[str, PyTree],
  batches: DataIterator,
  *,
  last_finite: int,
  step: int,
) -> NoReturn:
  """Keeps a state that is not finite, as a workdir of its own, and raises."""
  with contextlib.suppress(NotSavedError):
    checkpoints.wait()
  broken = pathlib.Path(workdir) / "broken"
  if distributed.is_first():
    shutil.rmtree(broken, ignore_errors=True)
  distributed.barrier("removed what was broken before")
  try:
    claim_workdir(to_dict(config), broken)
    with Checkpoints(broken, keep_last=2, keep_every_steps=None) as nonfinite:
      nonfinite.save(step, items, batches)
    kept = f"What it was like at step {step} is kept in {broken}, to inspect"
  except (CheckpointError, OSError, ValueError) as error:
    kept = f"What it was like at step {step} could not be kept: {error}"
  raise FloatingPointError(
    f"the training is not finite any more: it broke between step {last_finite} "
    f"and step {step}. The last good checkpoint is kept; lower "
    "optim.learning_rate, lengthen optim.warmup_steps or set optim.clip_norm. "
    + kept
  )


def _leave(workdir: str | os.PathLike, step: int, total: int) -> bool:
  """Writes how the run ended, for who started it; whether it is complete."""
  if distributed.is_first():
    status = "complete" if step == total else "restartable"
    files.write_json(
      pathlib.Path(workdir) / "status.json", {"status": status, "step": step}
    )
  return step == total


def train(config: Config, workdir: str | os.PathLike) -> bool:
  """Trains to the last step of the config, from wherever the workdir is.

  Args:
    config: see configs/.
    workdir: of this run, which all processes of it share; a used one is taken
      up where it was left.

  Returns:
    Whether the run is complete; False after SIGTERM. `workdir/status.json` says
    it too, "complete" or "restartable"; it isn't there while a run is going on.

  Raises:
    ValueError, TypeError, FileNotFoundError: the config can't be run.
    FloatingPointError: the loss or a parameter is not finite any more; the
      state is kept in `workdir/broken`, a workdir that others can read.
    NotSavedError: the last checkpoint couldn't be saved.
  """
  clock = Clock(
    pathlib.Path(workdir) / "goodput.jsonl",
    ("restore", "step", "input", "checkpoint"),
    from_step=0,
    to_step=0,
    until_first_step=None,
  )
  with clock.listening():
    run = build(config)
    program = Program(run)
  claim_workdir(to_dict(config), workdir)
  if distributed.is_first():
    (pathlib.Path(workdir) / "status.json").unlink(missing_ok=True)
  total, log, keep = config.train.steps, config.log, config.checkpoint
  learning_rate = config.optim.schedule(total)
  batches = train_batches(run, program.batch_sharding)

  with (
    clock.running(),
    ExitStack() as stack,
    Checkpoints(
      workdir,
      keep_last=keep.keep_last,
      keep_every_steps=keep.keep_every_steps or None,
    ) as checkpoints,
    distributed.preemption_signal() as told_to_stop,
  ):
    # ---- Restore -------------------------------------------------------------
    with clock.on("restore"):
      step, state, (seconds, logged, window) = _restore(
        run, program, checkpoints, batches
      )
    clock.record(from_step=step, to_step=step)
    started = time.monotonic() - seconds
    first = timed = step
    tick = time.monotonic()
    writer = None
    if distributed.is_first():
      writer = stack.enter_context(
        Writer(workdir, step=step, total_steps=total)
      )

    # A checkpoint is made before the next batch is drawn: it holds the state
    # and the position in the data of one and the same moment, and a resumed
    # run sees what the uninterrupted one would have seen.
    while True:
      # ---- Save --------------------------------------------------------------
      last = step == total or told_to_stop(step)
      if step > first and (last or step % keep.every_steps == 0):
        watch = Watch(time.monotonic() - started, logged, window)
        items = _items(state, watch)
        with clock.on("step"):
          finite = bool(_all_finite(state))
        if not finite:
          _break(
            config,
            workdir,
            checkpoints,
            items,
            batches,
            last_finite=logged,
            step=step,
          )
        try:
          with clock.on("checkpoint"):
            checkpoints.save(step, items, batches)
        except CheckpointError as error:
          if last:
            raise
          logging.error("%s; the training goes on and will try again", error)
        clock.write()
      if last:
        break

      # ---- Next batch --------------------------------------------------------
      with clock.on("input"):
        batch = next(batches)

      # ---- Step --------------------------------------------------------------
      with clock.on("step"):
        state, metrics = program.step(state, batch)
        window = add_to_window(window, metrics)
      step += 1
      clock.record(to_step=step)
      if step == first + 1:
        with clock.on("step"):
          jax.block_until_ready(metrics)
        clock.record(until_first_step=clock.seconds())

      # ---- Log ---------------------------------------------------------------
      if log.should_log(step, total):
        with clock.on("step"):
          values = {name: float(m.compute()) for name, m in window.items()}
          values |= {name: float(metrics[name]) for name in program.measures}
        if not math.isfinite(values["loss"]):
          items = _items(state, Watch(0.0, logged, window))
          _break(
            config,
            workdir,
            checkpoints,
            items,
            batches,
            last_finite=logged,
            step=step,
          )
        per_step = (time.monotonic() - tick) / (step - timed)
        values["learning_rate"] = float(learning_rate(step - 1))
        values["images_per_second"] = config.data.batch_size / per_step
        values["seconds_per_step"] = per_step
        values["seconds"] = time.monotonic() - started
        if writer is not None:
          writer.write(step, values)
        clock.write()
        window = empty_window(program.metrics)
        logged = timed = step
        tick = time.monotonic()
    with clock.on("checkpoint"):
      checkpoints.wait()
  return _leave(workdir, step, total)
