"""Runs as a user starts them: kill, stop, resume, break."""

import json
import random
import re
import signal
import subprocess
import sys
import time

import jax
import numpy as np
import pytest
from runtime.test_trackers import events, read_scalars, runs_of_mlflow
from shipped import config
from train.runs import (
  ROOT,
  TINY,
  assert_same,
  command,
  environment,
  outcome,
  rows,
  run,
  start,
  wait_for_step,
)

import jssl
from jssl import checkpoint
from jssl.checkpoint import CheckpointError, Checkpoints
from jssl.runtime.workdir import load_config
from jssl.train.loop import train


def test_a_run_writes_what_others_read(uninterrupted):
  assert [row["step"] for row in rows(uninterrupted)] == [*range(1, 25)]
  assert rows(uninterrupted)[-1].keys() >= {
    "loss",
    "gradient_norm",
    "view_alignment",
    "feature_deviation",
    "participation_ratio",
    "learning_rate",
    "images_per_second",
    "seconds_per_step",
    "mfu",
    "time",
  }
  assert checkpoint.steps(uninterrupted) == [4, 8, 12, 16, 20, 24]
  losses = [(s, v) for k, s, v in read_scalars(uninterrupted) if k == "loss"]
  np.testing.assert_allclose(
    losses, [(row["step"], row["loss"]) for row in rows(uninterrupted)]
  )
  pictures = [v.tag for e in events(uninterrupted) for v in e.summary.value]
  assert pictures[0] == "views"
  assert [*(uninterrupted / "profile").rglob("*.xplane.pb")]
  load_config(uninterrupted)
  apply, variables = jssl.load_backbone(uninterrupted)
  assert apply(variables, np.zeros((2, 32, 32, 3), np.float32)).shape == (2, 16)


def test_killed_and_resumed_equals_uninterrupted(uninterrupted, tmp_path):
  seed = random.SystemRandom().randrange(2**32)
  step = random.Random(seed).randrange(2, 23)
  print(f"SIGKILL after step {step} (seed {seed})")
  process = start(tmp_path)
  wait_for_step(process, step)
  process.kill()
  process.communicate()
  done = run(tmp_path)
  assert done.returncode == 0, done.stderr
  assert_same(outcome(tmp_path), outcome(uninterrupted))


@pytest.mark.slow
@pytest.mark.filterwarnings("ignore::FutureWarning:mlflow")
def test_mlflow_has_rows_and_the_end_of_a_run(tmp_path, monkeypatch):
  monkeypatch.setenv("MLFLOW_ALLOW_FILE_STORE", "true")
  uri = (tmp_path / "mlruns").as_uri()
  monkeypatch.setenv("MLFLOW_TRACKING_URI", uri)
  tracked = {"log.mlflow": "experiment", "train.steps": 4}
  for name, changes, status in (
    ("good", {}, 0),
    ("diverged", {"optim.learning_rate": 1e30}, 1),
  ):
    done = run(tmp_path / name, **tracked, **changes)
    assert done.returncode == status, done.stderr
  client, found = runs_of_mlflow(uri)
  ends = {r.info.run_name: r.info.status for r in found}
  assert ends == {"good": "FINISHED", "diverged": "FAILED"}
  (good,) = [r for r in found if r.info.run_name == "good"]
  history = client.get_metric_history(good.info.run_id, "loss")
  want = [(row["step"], row["loss"]) for row in rows(tmp_path / "good")]
  np.testing.assert_allclose([(m.step, m.value) for m in history], want)
  assert good.data.params["train.steps"] == "4"


@pytest.mark.slow
def test_rows_over_several_steps_survive_a_kill(tmp_path):
  """A row that straddles a checkpoint has the mean of all its steps."""
  apart = {"log.every_steps": 3, "train.steps": 12}
  assert run(tmp_path / "whole", **apart).returncode == 0
  process = start(tmp_path / "killed", **apart)
  # At step 8 the save of step 4 was waited for.
  wait_for_step(process, 9)
  process.kill()
  process.communicate()
  done = run(tmp_path / "killed", **apart)
  assert re.search(r"Resumed from checkpoint at step [48]\.", done.stdout), (
    done.stderr
  )
  assert_same(outcome(tmp_path / "killed"), outcome(tmp_path / "whole"))


REMEMBERING = {
  "a_queue_in_chunks": """
    "objective": {
      "name": "moco_v3", "queue_size": 96,
      "projector": {"out_dim": 8}, "predictor": {"out_dim": 8},
    },
    "train": {"steps": 24, "chunks": 2},
  """,
  "a_centre_and_small_crops": """
    "objective": {
      "name": "dino", "prototypes": {"number": 16, "freeze_steps": 9},
      "temperature_warmup_steps": 12,
      "projector": {"hidden_dims": (), "out_dim": 8},
    },
    "augment": {
      "crop_size_px": 32, "crop_min_area": 0.4,
      "num_small": 2, "small_crop_size_px": 16, "small_blur_probability": 0.0,
    },
  """,
  "masks_of_mae": """
    "objective": {
      "name": "mae", "decoder": {"width": 16, "depth": 1, "num_heads": 2},
    },
  """,
  "masks_and_the_teacher_of_ijepa": """
    "objective": {
      "name": "ijepa", "num_targets": 2, "min_context": 2,
      "predictor": {"width": 16, "depth": 1, "num_heads": 2},
    },
    "train": {"steps": 24, "chunks": 2},
  """,
  "the_centres_of_dinov2": """
    "objective": {
      "name": "dinov2", "prototypes": {"number": 16, "freeze_steps": 9},
      "patch_prototypes": {"number": 8}, "shared_head": False,
      "projector": {"hidden_dims": (), "out_dim": 8},
      "patch_projector": {"hidden_dims": (), "out_dim": 8},
    },
    "augment": {
      "crop_size_px": 32, "crop_min_area": 0.4,
      "num_small": 2, "small_crop_size_px": 16, "small_blur_probability": 0.0,
    },
  """,
  "mixed_and_erased_images_in_chunks": """
    "objective": {"name": "supervised"},
    "augment": {
      "crop_size_px": 32, "crop_min_area": 0.4, "erase_probability": 0.25,
      "mixup_alpha": 0.8, "cutmix_alpha": 1.0,
    },
    "train": {"steps": 24, "chunks": 2},
  """,
  "the_memory_of_the_head": """
    "objective": {"name": "simclr", "projector": {"out_dim": 8}},
    "head": {"strategy": "alternating", "optimizer": "adam", "batch": "fresh"},
    "order": {"name": "hybrid", "switch_epoch": 1, "epochs": 3},
    "train": {"steps": 1250},
    "checkpoint": {"every_steps": 250},
    "log": {"every_steps": 50},
  """,
}


@pytest.mark.slow
@pytest.mark.parametrize("sections", REMEMBERING.values(), ids=REMEMBERING)
def test_what_methods_remember_is_resumed(tmp_path, sections):
  file = tmp_path / "remembering.py"
  file.write_text(f"""
from ml_collections import ConfigDict

def get_config(arg=""):
  return ConfigDict({{
    "data": {{
      "name": "cluttered_digits", "batch_size": 32, "image_size_px": 32,
    }},
    "augment": {{"crop_size_px": 32, "crop_min_area": 0.4}},
    "model": {{
      "name": "vit", "patch_size_px": 8, "width": 16, "depth": 2,
      "num_heads": 2, "drop_path": 0.2,
    }},
    "optim": {{"name": "adamw", "learning_rate": 1e-3}},
    "train": {{"steps": 24}},
    "checkpoint": {{"every_steps": 4, "keep_last": 3}},
    "log": {{"every_steps": 1}},
    {sections}
  }})
""")

  def command(workdir):
    module = [sys.executable, "-m", "train.recording"]
    return [*module, f"--config={file}", f"--workdir={workdir}"]

  def finish(workdir):
    done = subprocess.run(
      command(workdir),
      cwd=ROOT,
      env=environment(),
      capture_output=True,
      text=True,
      check=False,
    )
    assert done.returncode == 0, done.stderr
    return done.stdout

  finish(tmp_path / "whole")
  steps = [row["step"] for row in rows(tmp_path / "whole")]
  process = subprocess.Popen(
    command(tmp_path / "killed"),
    cwd=ROOT,
    env=environment(),
    stdout=subprocess.PIPE,
    stderr=subprocess.PIPE,
    text=True,
  )
  wait_for_step(process, steps[-6])
  process.kill()
  process.communicate()
  assert "Resumed from checkpoint at step" in finish(tmp_path / "killed")
  assert_same(outcome(tmp_path / "killed"), outcome(tmp_path / "whole"))


def test_sigterm_saves_and_exits_cleanly(uninterrupted, tmp_path):
  process = start(tmp_path)
  wait_for_step(process, 6)
  process.send_signal(signal.SIGTERM)
  out, err = process.communicate(timeout=120)
  assert process.returncode == 0, err
  assert "Stopped by SIGTERM" in out
  (*_, last) = checkpoint.steps(tmp_path)
  assert last >= 6
  status = tmp_path / "status.json"
  left = {"status": "restartable", "step": last}
  assert json.loads(status.read_text()) == left
  done = run(tmp_path)
  assert f"Resumed from checkpoint at step {last}" in done.stdout
  assert json.loads(status.read_text()) == {"status": "complete", "step": 24}
  lives = (tmp_path / "goodput.jsonl").read_text().splitlines()
  steps = [(row["from_step"], row["to_step"]) for row in map(json.loads, lives)]
  assert steps == [(0, last), (last, 24)]
  assert_same(outcome(tmp_path), outcome(uninterrupted))


def test_a_complete_run_is_left_alone(uninterrupted):
  before = outcome(uninterrupted)
  done = run(uninterrupted)
  assert done.returncode == 0, done.stderr
  assert_same(outcome(uninterrupted), before)


def test_a_loss_that_is_not_finite_stops_the_run(tmp_path):
  done = run(tmp_path, **{"optim.learning_rate": 1e30, "log.every_steps": 3})
  assert done.returncode == 1
  assert "became NaN or infinite" in done.stderr
  assert "between step 0 and step 3" in done.stderr
  assert "optim.learning_rate" in done.stderr
  assert "Traceback" not in done.stderr
  assert checkpoint.steps(tmp_path) == []
  # Its clock has the time until then, and what was kept is in it.
  (life,) = (tmp_path / "goodput.jsonl").read_text().splitlines()
  assert json.loads(life)["to_step"] == 3
  # What broke can be looked at, as any checkpoint.
  assert f"the state at step 3 is in {tmp_path / 'broken'}" in done.stderr
  apply, variables = jssl.load_backbone(tmp_path / "broken")
  leaves = jax.tree.leaves(variables)
  assert not all(np.all(np.isfinite(leaf)) for leaf in leaves)
  assert apply(variables, np.zeros((1, 32, 32, 3), np.float32)).shape == (1, 16)


@pytest.mark.parametrize(
  "failure",
  [
    CheckpointError("Too many open files"),
    *(
      pytest.param(failure, marks=pytest.mark.slow)
      for failure in (
        OSError(24, "Too many open files"),
        RuntimeError("Too many open files"),
      )
    ),
  ],
  ids=repr,
)
def test_a_failed_save_does_not_hide_why_the_run_stops(
  tmp_path, monkeypatch, caplog, failure
):
  def fail(*_):
    raise failure

  monkeypatch.setattr(Checkpoints, "wait", fail)
  diverging = {"optim.learning_rate": 1e30, "log.every_steps": 3}
  message = r"became NaN or infinite.*could not be saved.*Too many open files"
  with pytest.raises(FloatingPointError, match=message):
    train(config(**{**TINY, **diverging}), tmp_path)
  assert "Too many open files" in caplog.text


@pytest.mark.parametrize(
  ("flag", "message"),
  [
    ("--config.optim.learning_rat=1", "learning_rate"),
    ("--config.data.batch_size=many", "batch_size"),
  ],
)
def test_a_misspelt_or_mistyped_flag_is_refused(tmp_path, flag, message):
  done = subprocess.run(
    [*command(tmp_path), flag],
    cwd=ROOT,
    env=environment(),
    capture_output=True,
    text=True,
    check=False,
  )
  assert done.returncode != 0
  assert message in done.stderr
  assert not (tmp_path / "config.json").exists()


def test_a_store_that_holds_no_checkpoints_is_no_workdir():
  done = run("s3://bucket/W")
  assert done.returncode == 1
  assert done.stderr.startswith("error: --workdir=s3://bucket/W: expected a f")
  assert not (ROOT / "s3:").exists()


def test_a_workdir_of_another_config_is_refused(uninterrupted):
  done = run(uninterrupted, **{"model.depth": 2})
  assert done.returncode == 1
  assert "model.depth: was 1, now 2" in done.stderr
  assert "Traceback" not in done.stderr


@pytest.mark.slow
@pytest.mark.parametrize(
  ("variable", "message"),
  [
    ("JAX_ENABLE_X64=1", "jax_enable_x64: was False, now True"),
    pytest.param(
      "JAX_THREEFRY_PARTITIONABLE=0",
      "jax_threefry_partitionable: was True, now False",
      marks=pytest.mark.slow,
    ),
  ],
)
def test_settings_that_change_rows_are_refused(
  uninterrupted, monkeypatch, variable, message
):
  before = outcome(uninterrupted)
  monkeypatch.setenv(*variable.split("="))
  done = run(uninterrupted)
  assert done.returncode == 1
  assert message in done.stderr
  assert "Traceback" not in done.stderr
  assert_same(outcome(uninterrupted), before)


def test_starts_from_another_runs_backbone(uninterrupted, tmp_path):
  done = run(
    tmp_path,
    **{
      "init_from.workdir": str(uninterrupted),
      "init_from.heads": True,
      # A step of no size: what is saved is what was taken over.
      "optim.learning_rate": 1e-30,
      "optim.weight_decay": 0.0,
      "train.steps": 3,
    },
  )
  assert done.returncode == 0, done.stderr
  old, new = outcome(uninterrupted)[2], outcome(tmp_path)[2]
  for name in ("backbone", "objective"):
    leaves = (jax.tree.leaves(tree[name]["params"]) for tree in (old, new))
    for a, b in zip(*leaves, strict=True):
      np.testing.assert_allclose(a, b, atol=1e-20)


def test_starting_from_nowhere_is_told(tmp_path):
  done = run(tmp_path, **{"init_from.workdir": str(tmp_path / "none")})
  assert done.returncode == 1
  assert "init_from.workdir" in done.stderr


def test_a_probe_may_read_while_the_run_goes_on(tmp_path):
  """Checkpoints are seen only when they are whole."""
  process = start(tmp_path)
  seen = set()
  while process.poll() is None:
    for step in set(checkpoint.steps(tmp_path)) - seen:
      checkpoint.restore_backbone(tmp_path, step)
      seen.add(step)
    time.sleep(0.05)
  _, err = process.communicate()
  assert process.returncode == 0, err
  assert seen
