"""Several real processes evaluate a run as one does."""

import dataclasses
import json
import shutil

import jax
import numpy as np
import pytest
from processes import ends, start
from train.runs import run

from jssl import checkpoint
from jssl.probe.record_file import RecordFile


@pytest.fixture(scope="module")
def trained(tmp_path_factory):
  workdir = tmp_path_factory.mktemp("trained") / "W"
  done = run(
    workdir,
    **{
      "train.steps": 8,
      "probe.probes": ("linear",),
      "probe.baselines": ("random",),
      "probe.seeds": 1,
      "probe.label_fractions": (),
      "probe.diagnostic_images": 40,
      "probe.diagnostic_views": 4,
    },
  )
  assert done.returncode == 0, done.stderr
  # One more, that all processes must pass over.
  broken = jax.tree.map(
    lambda x: np.full_like(x, np.nan), checkpoint.restore_backbone(workdir, 8)
  )
  with checkpoint.Checkpoints(
    workdir, keep_last=9, keep_every_steps=None
  ) as checkpoints:
    checkpoints.save(9, {"backbone": broken})
  return workdir


def evaluated(workdir, count):
  """Returns what is in `probe.jsonl`, less what the clock says."""
  command = ["-m", "jssl.probe", f"--workdir={workdir}", "--diagnostics"]
  several = ["--distributed"] if count > 1 else []
  # One device each: more only share a core.
  status, said = ends(start(count, [*command, *several], devices=count))
  assert status == [0] * count, "\n".join(said)
  assert ["step8 on cluttered_digits" in own for own in said] == [
    True,
    *[False] * (count - 1),
  ]
  # And less the counts of few images, some of which may change sides.
  left_out = ("seconds", "time", "confusion", "accuracy")
  return [
    {
      name: value
      for name, value in dataclasses.asdict(record).items()
      if name not in left_out
    }
    for record in RecordFile(workdir).read()
  ]


@pytest.fixture(scope="module")
def by_one(trained, tmp_path_factory):
  """Workdir and rows of one process."""
  workdir = tmp_path_factory.mktemp("by_one") / "W"
  shutil.copytree(trained, workdir)
  return workdir, evaluated(workdir, 1)


def assert_alike(found, expected):
  """The same but for rounding: products of fewer rows end otherwise."""
  if isinstance(expected, dict):
    assert [*found] == [*expected]
    found, expected = [*found.values()], [*expected.values()]
  if isinstance(expected, list):
    assert len(found) == len(expected)
    for pair in zip(found, expected, strict=True):
      assert_alike(*pair)
  else:
    wanted = expected
    if isinstance(expected, float):
      # An image of the few may change sides.
      wanted = pytest.approx(expected, rel=1e-4, abs=0.02)
    assert found == wanted


@pytest.mark.slow
@pytest.mark.parametrize("count", [2, 4])
def test_several_processes_evaluate_as_one(trained, by_one, tmp_path, count):
  alone, expected = by_one
  together = tmp_path / "together"
  shutil.copytree(trained, together)
  found = evaluated(together, count)
  assert_alike(found, expected)
  assert {row["features"] for row in found} == {"backbone", "random", "views"}
  lost = [row["reason"] for row in found if row["step"] == 9]
  assert len(lost) == 3
  assert all("rows of features are not finite" in why for why in lost)
  for workdir in (alone, together):
    assert json.loads((workdir / "best.json").read_text())["step"] in (4, 8)
  # Features are kept once, whole, however many made them.
  names = [
    sorted(path.name for path in (workdir / "features").iterdir())
    for workdir in (alone, together)
  ]
  assert names[0] == names[1]


def test_processes_with_different_arguments_are_refused(tmp_path):
  started = start(
    2,
    ["-m", "jssl.probe", f"--workdir={tmp_path}", "--distributed"],
    devices=2,
    different=["--overwrite"],
  )
  status, said = ends(started)
  assert status == [1, 1], "\n".join(said)
  for own in said:
    assert "the processes have different arguments" in own
    assert "\n+--overwrite" in own
