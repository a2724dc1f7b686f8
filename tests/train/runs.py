"""Runs as a user starts them, and what they leave; examples are recorded."""

import json
import os
import pathlib
import subprocess
import sys

import jax
import numpy as np

import jssl
from jssl import checkpoint
from jssl.config.build import build
from jssl.config.parse import parse
from jssl.config.schema import Config
from jssl.runtime.workdir import load_config
from jssl.train.init import Program, checkpoint_items

ROOT = pathlib.Path(jssl.__file__).parents[1]
TINY = {
  "data.batch_size": 32,
  "model.width": 16,
  "model.depth": 1,
  "model.num_heads": 2,
  "objective.projector.hidden_dims": (16,),
  "objective.projector.out_dim": 8,
  "optim.warmup_steps": 2,
  "train.steps": 24,
  "checkpoint.every_steps": 4,
  "checkpoint.keep_last": 3,
  "log.every_steps": 1,
}


def command(workdir, **overrides):
  flags = [
    f"--config.{key}={value}" for key, value in {**TINY, **overrides}.items()
  ]
  return [
    sys.executable,
    "-m",
    "train.recording",
    "--config=configs/quickstart.py",
    f"--workdir={workdir}",
    *flags,
  ]


def environment():
  return {
    **os.environ,
    "JAX_PLATFORMS": "cpu",
    "JAX_NUM_CPU_DEVICES": "1",
    # Of what `-m` names only.
    "PYTHONPATH": str(ROOT / "tests"),
  }


def run(workdir, **overrides):
  return subprocess.run(
    command(workdir, **overrides),
    cwd=ROOT,
    env=environment(),
    capture_output=True,
    text=True,
    check=False,
  )


def start(
  workdir, *, stdout=subprocess.PIPE, stderr=subprocess.PIPE, **overrides
):
  return subprocess.Popen(
    command(workdir, **overrides),
    cwd=ROOT,
    env=environment(),
    stdout=stdout,
    stderr=stderr,
    text=True,
  )


def wait_for_step(process, step):
  for line in process.stdout:
    if line.startswith(f"step {step}/"):
      return
  raise AssertionError(f"ended before step {step}: {process.stderr.read()}")


def rows(workdir, name="metrics.jsonl"):
  text = (pathlib.Path(workdir) / name).read_text()
  return [json.loads(line) for line in text.splitlines()]


def examples(workdir):
  """Returns steps and digests of what they saw; a step done again has one."""
  names = [path.name for path in (pathlib.Path(workdir) / "examples").iterdir()]
  return sorted((int(name.split("-")[0]), name) for name in names)


def outcome(workdir):
  """Returns what a run did, and everything in the last checkpoint."""
  losses = [(row["step"], row["loss"]) for row in rows(workdir)]
  seen = examples(workdir)
  # No life saw other examples at a step than another.
  assert [step for step, _ in seen] == [*range(1, losses[-1][0] + 1)]
  last = checkpoint.steps(workdir)[-1]
  program = Program(build(parse(load_config(workdir), Config)))
  wanted = checkpoint_items(program.abstract_state)
  arrays = checkpoint.restore(workdir, last, wanted)
  return last, losses, arrays, seen


def assert_same(a, b):
  assert a[0] == b[0]
  assert a[1] == b[1]
  assert a[3:] == b[3:]
  assert jax.tree.structure(a[2]) == jax.tree.structure(b[2])
  for x, y in zip(jax.tree.leaves(a[2]), jax.tree.leaves(b[2]), strict=True):
    if jax.numpy.issubdtype(x.dtype, jax.dtypes.prng_key):
      x, y = jax.random.key_data(x), jax.random.key_data(y)
    np.testing.assert_array_equal(x, y)
