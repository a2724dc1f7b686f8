"""Runs that become longer."""

import json

import jax
import numpy as np
import pytest
from processes import ends, start
from shipped import config
from train.runs import TINY, rows

from jssl import checkpoint
from jssl.config.build import build
from jssl.config.parse import to_dict
from jssl.runtime.workdir import claim_workdir, load_config
from jssl.train.init import (
  Program,
  checkpoint_items,
  from_checkpoint_items,
  train_batches,
)
from jssl.train.loop import train

OWN = {
  **{key: TINY[key] for key in TINY if not key.startswith("objective.")},
  "data.batch_size": 8,
  "log.diagnostics": False,
  "objective": {
    **{"name": "byol", "momentum_start": 0.9},
    **{"projector": {"out_dim": 8}, "predictor": {"out_dim": 8}},
  },
  "optim.weight_decay": 0.1,
  "optim.weight_decay_end": 0.2,
}


def tiny(steps, **overrides):
  return config(**{**OWN, "train.steps": steps, **overrides})


def losses(workdir):
  return [row["loss"] for row in rows(workdir)]


@pytest.fixture
def workdir(tmp_path):
  """A workdir of 4 steps, as a run claims it."""
  claim_workdir(to_dict(tiny(4)), tmp_path / "W")
  return tmp_path / "W"


def contents(workdir):
  return {
    str(path.relative_to(workdir)): path.read_bytes()
    for path in workdir.rglob("*")
    if path.is_file()
  }


@pytest.mark.parametrize(
  ("extend", "steps", "overrides", "match"),
  [
    (False, 8, {}, "another config; add --extend to make it long"),
    (False, 3, {}, r"config; choose[^\n]*\n *train.steps: was 4, "),
    (True, 3, {}, r"larger train\.steps only.*\n.*was 4, now 3"),
    (True, 8, {"model.width": 8}, r"only.*\n *model\.width: was 16"),
    (True, 4, {"model.width": 8}, r"only.*\n *model\.width: was 16"),
    (True, 8, {"optim.warmup_steps": 3}, "warmup_steps: was 2, n"),
  ],
)
def test_wrong_uses_change_nothing(workdir, extend, steps, overrides, match):
  before = contents(workdir)
  with pytest.raises(ValueError, match=match):
    train(tiny(steps, **overrides), workdir, extend=extend)
  assert contents(workdir) == before


def test_a_run_that_has_not_begun(tmp_path):
  with pytest.raises(FileNotFoundError, match="does not exist: --workdir must"):
    train(tiny(8), tmp_path / "W", extend=True)
  assert not (tmp_path / "W").exists()


@pytest.mark.slow
def test_an_error_before_the_first_step_leaves_the_earlier_config(
  workdir, monkeypatch
):
  def exhaust(*_):
    raise jax.errors.JaxRuntimeError("RESOURCE_EXHAUSTED: Out of memory")

  before = (workdir / "config.json").read_bytes()
  monkeypatch.setattr(Program, "compile", lambda self: exhaust)
  with pytest.raises(ValueError, match="does not fit the devices"):
    train(tiny(8), workdir, extend=True)
  assert [path.name for path in workdir.glob("config*")] == ["config.json"]
  assert (workdir / "config.json").read_bytes() == before


@pytest.mark.slow
def test_an_extended_run_continues_with_the_longer_schedules(workdir, capsys):
  """The reference restores the state at step 4 by itself."""
  assert train(tiny(4), workdir)
  run = build(tiny(8))
  program = Program(run)
  items = checkpoint_items(program.abstract_state)
  state = from_checkpoint_items(checkpoint.restore(workdir, 4, items))
  batches = train_batches(run, program.batch_sharding)
  batches.seek(4)
  expected, first, step = [], losses(workdir), program.compile()
  for _ in range(4):
    state, metrics = step(state, next(batches))
    expected.append(float(metrics["loss"]))
  batches.close()
  capsys.readouterr()

  assert train(tiny(8), workdir, extend=True)

  lines = capsys.readouterr().out.splitlines()
  assert lines[:2] == [
    "Resumed from checkpoint at step 4.",
    "Extended from 4 to 8 steps. At step 4, the learning rate changes from 0 "
    "to 0.00225, the weight decay changes from 0.2 to 0.15, the momentum of "
    "the teacher changes from 1 to 0.95.",
  ]
  assert losses(workdir) == first + expected
  found = checkpoint.restore(workdir, 8, items)
  for x, y in zip(
    jax.tree.leaves(found),
    jax.tree.leaves(checkpoint_items(state)),
    strict=True,
  ):
    if jax.numpy.issubdtype(x.dtype, jax.dtypes.prng_key):
      x, y = jax.random.key_data(x), jax.random.key_data(y)
    np.testing.assert_array_equal(x, y)
  assert load_config(workdir)["train"]["steps"] == 8
  earlier = json.loads((workdir / "config_4_steps.json").read_text())
  assert earlier == json.loads(json.dumps(to_dict(tiny(4))))
  # The same command again, with the flag or without, has nothing to do.
  for extend in (True, False):
    before = losses(workdir)
    assert train(tiny(8), workdir, extend=extend)
    assert losses(workdir) == before
    assert "Extended" not in capsys.readouterr().out


@pytest.mark.slow
def test_two_processes_extend_a_run(tmp_path):
  def losses_of(workdir, steps, *flags):
    overrides = {**TINY, "train.steps": steps}
    arguments = [
      *("-m", "jssl.train", "--config=configs/quickstart.py", "--distributed"),
      *(f"--config.{key}={value}" for key, value in overrides.items()),
      *(f"--workdir={workdir}", *flags),
    ]
    status, said = ends(start(2, arguments, devices=2))
    return status, said, losses(workdir)

  _, _, first = losses_of(tmp_path / "W", 4)
  status, said, unchanged = losses_of(tmp_path / "W", 8)
  assert status == [1, 1]
  assert all("add --extend" in own for own in said)
  assert unchanged == first
  status, said, found = losses_of(tmp_path / "W", 8, "--extend")
  assert status == [0, 0], "\n".join(said)
  assert "Extended from 4 to 8 steps. At step 4, the learning rate" in said[0]
  assert found[:4] == first
  assert len(found) == 8
  assert (tmp_path / "W" / "config_4_steps.json").exists()
