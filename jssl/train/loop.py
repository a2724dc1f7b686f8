"""The training loop: restore; then save if due, draw a batch, step, log."""

import math
import os
import shlex
import time
from collections.abc import Mapping
from typing import NoReturn

import jax
from absl import logging

from jssl import checkpoint, tree
from jssl.checkpoint import Checkpoints, NotSavedError
from jssl.config.build import build, read_config
from jssl.config.parse import to_dict
from jssl.config.schema import Config
from jssl.runtime import compilation, distributed, files, trackers
from jssl.runtime.flops import peak_flops
from jssl.runtime.goodput import Clock
from jssl.runtime.paths import Path, as_path
from jssl.runtime.profiler import StepProfiler
from jssl.runtime.workdir import check_config, lock_workdir
from jssl.train.extension import describe_extension
from jssl.train.init import (
  Program,
  checkpoint_items,
  describe,
  initial_state,
  model_flops,
  open_checkpoints,
  restore_or_init,
  train_batches,
)
from jssl.train.metrics import (
  Window,
  add_to_window,
  empty_window,
  progress_item,
)
from jssl.train.preview import views_sheet
from jssl.train.state import TrainState
from jssl.train.writer import Writer
from jssl.typing import PyTree

_KINDS = ("restore", "step", "input", "checkpoint")
_all_finite = jax.jit(tree.all_finite)


def _checkpoint_items(
  state: TrainState, started: float, logged_step: int, window: Window
) -> dict[str, PyTree]:
  seconds = time.monotonic() - started
  progress = progress_item(seconds, logged_step, window)
  return checkpoint_items(state) | {"progress": progress}


def _save_nonfinite_and_raise(
  workdir: Path,
  checkpoints: Checkpoints,
  step: int,
  items: Mapping[str, PyTree],
) -> NoReturn:
  """Saves a state that is not finite in `workdir/broken`, and raises."""
  try:
    checkpoints.wait()
  except Exception as error:  # No failed save hides why the run ends.
    logging.error("%s", error)
  broken = workdir / "broken"
  if distributed.is_first():
    files.remove_tree(broken, ignore_errors=True)
  distributed.barrier("removed broken")
  try:
    if distributed.is_first():
      broken.mkdir()
      config = (workdir / "config.json").read_bytes()
      (broken / "config.json").write_bytes(config)
    with Checkpoints(broken, keep_last=2, keep_every_steps=None) as other:
      other.save(step, items)
    saved = f"the state at step {step} is in {broken}"
  except Exception as error:
    saved = f"the state at step {step} could not be saved ({error})"
  raise FloatingPointError(
    "the loss or a parameter became NaN or infinite between step "
    f"{items['progress']['logged_step']} and step {step}; lower "
    "optim.learning_rate, lengthen optim.warmup_steps or set optim.clip_norm. "
    f"Earlier checkpoints are kept; {saved}"
  )


def train(
  config: Config, workdir: str | os.PathLike, *, extend: bool = False
) -> bool:
  """Trains to the last step of the config; resumes a run that has started.

  Args:
    config: the parsed config.
    workdir: folder of the run, or gs://BUCKET/FOLDER, shared by its processes.
    extend: True to continue a run to a larger `train.steps`, by the schedules
      of the longer run.

  Returns:
    True if the run is complete, False after SIGTERM. `workdir/status.json` has
    the same as "complete" or "restartable"; it does not exist during a run.

  Raises:
    ValueError, TypeError, FileNotFoundError: if the config cannot be run.
    FloatingPointError: if the loss or a parameter is not finite; the state is
      saved in `workdir/broken`.
    NotSavedError: if the last checkpoint could not be saved.
  """
  check_config(to_dict(config), workdir, extend=extend)
  earlier = read_config(workdir) if extend else config
  workdir = as_path(workdir)
  trackers.check_installed(wandb=config.log.wandb, mlflow=config.log.mlflow)
  clock = Clock(workdir / "goodput.jsonl", _KINDS)
  total_steps, save_every = config.train.steps, config.checkpoint.every_steps
  learning_rate = config.optim.schedule(total_steps)
  # ---- Everything that may fail before the workdir is claimed ----------------
  with clock.listening(), compilation.explain_errors():
    run = build(config)
    config.order.check_longer(
      images=len(run.source),
      batch_size=config.data.batch_size,
      steps=earlier.train.steps,
      longer=total_steps,
    )
    program = Program(run)
    train_step = program.compile()
    peak = peak_flops(list(run.mesh.devices.flat))
    seconds_at_peak = model_flops(run, program) / peak
    batches = train_batches(run, program.batch_sharding)
    is_new = distributed.broadcast_from_first(not checkpoint.steps(workdir))
    initial = initial_state(run, program) if is_new else None

  with (
    compilation.explain_errors(kinds=compilation.OUT_OF_MEMORY),
    lock_workdir(to_dict(config), workdir, extend=extend) as keep_claim,
    clock.running(),
    Writer(
      workdir,
      total_steps=total_steps,
      batch_size=config.data.batch_size,
      seconds_at_peak=seconds_at_peak,
      open_trackers=lambda step: trackers.Trackers(
        workdir,
        to_dict(config),
        step=step,
        wandb=config.log.wandb,
        mlflow=config.log.mlflow,
      ),
    ) as writer,
    open_checkpoints(run, workdir) as checkpoints,
    StepProfiler(workdir / "profile", config.log.profile_steps) as profiler,
    distributed.preemption_signal() as should_stop,
  ):
    (workdir / "status.json").unlink(missing_ok=True)
    distributed.log_on_first(describe(run, program, workdir))
    # ---- Restore -------------------------------------------------------------
    with clock.on("restore"):
      step, state, progress = restore_or_init(
        run, program, checkpoints, initial
      )
      batches.seek(step)
    if earlier.train.steps < total_steps:
      distributed.log_on_first(describe_extension(earlier, config, step))
    clock.record(from_step=step, to_step=step, until_first_step=None)
    started = time.monotonic() - float(progress["seconds"])
    logged_step, window = int(progress["logged_step"]), progress["window"]
    first_step = step
    writer.start(step)
    if is_new:
      writer.image("views", lambda: views_sheet(config, run.source))

    while True:
      # ---- Save --------------------------------------------------------------
      # Before the next batch is drawn, so that a resumed run sees the batches
      # of an uninterrupted one.
      last = step == total_steps or should_stop(step)
      if step > first_step and (last or step % save_every == 0):
        with clock.on("step"):
          finite = bool(_all_finite(state))
        items = _checkpoint_items(state, started, logged_step, window)
        if not finite:
          _save_nonfinite_and_raise(workdir, checkpoints, step, items)
        try:
          with clock.on("checkpoint"):
            writer.flush()  # A resumed run needs the rows before its step.
            checkpoints.save(step, items)
        except NotSavedError as error:
          if last:
            raise
          logging.error("%s. Retrying after the next interval.", error)
        clock.write()
      if last:
        break

      # ---- Next batch --------------------------------------------------------
      profiler.before(step + 1)
      with clock.on("input"):
        batch = next(batches)

      # ---- Step --------------------------------------------------------------
      step += 1
      with (
        clock.on("step"),
        jax.profiler.StepTraceAnnotation("train", step_num=step),
        jax.transfer_guard("disallow"),
      ):
        state, metrics = train_step(state, batch)
        window = add_to_window(window, metrics)
        if step == first_step + 1:
          jax.block_until_ready(metrics)
          keep_claim()
          clock.record(until_first_step=clock.seconds())
          # A row of this step alone has no other speed.
          if not config.log.should_log(step, total_steps):
            writer.restart_clock(step)
      profiler.after(step, metrics)
      clock.record(to_step=step)

      # ---- Log ---------------------------------------------------------------
      if config.log.should_log(step, total_steps):
        with clock.on("step"):
          values = {name: float(m.compute()) for name, m in window.items()}
          values |= {name: float(metrics[name]) for name in program.measures}
        values["learning_rate"] = float(learning_rate(step - 1))
        values["seconds"] = time.monotonic() - started
        if not math.isfinite(values["loss"]):
          items = _checkpoint_items(state, started, logged_step, window)
          _save_nonfinite_and_raise(workdir, checkpoints, step, items)
        writer.write(step, values)
        clock.write()
        window, logged_step = empty_window(program.metrics, run.mesh), step
    with clock.on("checkpoint"):
      checkpoints.wait()
    if distributed.is_first():
      status = "complete" if step == total_steps else "restartable"
      ended = {"status": status, "step": step}
      files.write_json(workdir / "status.json", ended)
  if step == total_steps:
    next_command = shlex.join(["jssl", "probe", f"--workdir={workdir}"])
    distributed.log_on_first(f"Complete. Next: {next_command}")
  return step == total_steps
