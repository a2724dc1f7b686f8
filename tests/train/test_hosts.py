"""Several real processes of one run, connected as on a pod."""

import itertools
import json
import re
import signal
import time

import jax
import numpy as np
import pytest
from processes import ends, free_port, start
from shipped import config

from jssl import checkpoint
from jssl.config.build import build
from jssl.runtime import distributed
from jssl.train.init import Program

STEPS = 20
TINY = {
  "data.batch_size": 32,
  "model.width": 16,
  "model.depth": 1,
  "model.num_heads": 2,
  "objective.projector.hidden_dims": (16,),
  "objective.projector.out_dim": 8,
  "optim.name": "sgd",
  "optim.learning_rate": 0.005,
  "optim.warmup_steps": 2,
  "train.steps": STEPS,
  "checkpoint.every_steps": 5,
  "log.every_steps": 1,
}


def training(workdir, count, **overrides):
  flags = [
    f"--config.{key}={value}" for key, value in {**TINY, **overrides}.items()
  ]
  return [
    *("-m", "jssl.train", "--config=configs/quickstart.py"),
    f"--workdir={workdir}",
    *flags,
    *(("--distributed",) if count > 1 else ()),
  ]


def rows(workdir):
  lines = (workdir / "metrics.jsonl").read_text().splitlines()
  return [json.loads(line) for line in lines]


def losses(workdir):
  return [row["loss"] for row in rows(workdir)]


def trained(workdir, count, *, devices=8, environ=None, **overrides):
  arguments = training(workdir, count, **overrides)
  status, said = ends(start(count, arguments, devices=devices, environ=environ))
  assert status == [0] * count, "\n".join(said)
  assert [row["step"] for row in rows(workdir)] == [*range(1, STEPS + 1)]
  return losses(workdir)


@pytest.fixture(scope="module")
def alone(tmp_path_factory):
  """Losses of one process with all devices."""
  return trained(tmp_path_factory.mktemp("alone") / "W", 1)


@pytest.fixture(scope="module")
def two(tmp_path_factory):
  """Workdir and losses of two processes."""
  workdir = tmp_path_factory.mktemp("two") / "W"
  return workdir, trained(workdir, 2)


def test_two_processes_train_as_one(alone, two):
  np.testing.assert_allclose(two[1], alone, rtol=1e-5)


@pytest.mark.slow
def test_four_processes_train_as_one(alone, tmp_path):
  np.testing.assert_allclose(trained(tmp_path / "W", 4), alone, rtol=1e-5)


@pytest.mark.slow
@pytest.mark.parametrize("count", [2, 4])
def test_in_float64_to_nine_digits(tmp_path, count):
  wide = {"environ": {"JAX_ENABLE_X64": "1"}, "model.dtype": "float64"}
  own = trained(tmp_path / "one", 1, **wide)
  several = trained(tmp_path / "several", count, **wide)
  np.testing.assert_allclose(several, own, rtol=1e-9)


@pytest.mark.slow
def test_other_processes_take_a_run_up(two, tmp_path):
  """Two processes stop half way; one takes it up, with as many devices."""
  workdir = tmp_path / "W"
  started = start(2, training(workdir, 2))
  wait_for_row(workdir, 7)
  # One alone is told; all stop at the same step.
  started[1].send_signal(signal.SIGTERM)
  status, said = ends(started)
  assert status == [0, 0], "\n".join(said)
  assert "Stopped by SIGTERM" in said[0]
  stopped = len(rows(workdir))
  assert stopped < STEPS
  assert losses(workdir) == two[1][:stopped]
  np.testing.assert_allclose(trained(workdir, 1), two[1], rtol=1e-5)


# Large enough to be split over axis "fsdp"; in float64, since rounding alone
# comes to 1e-5 between meshes in 20 steps of this one.
WIDE = {"model.width": 128, "model.dtype": "float64"}
IN_X64 = {"JAX_ENABLE_X64": "1"}


def is_split(fsdp):
  """Whether anything of a wide state is, on eight devices."""
  flags = {**TINY, "model.width": 128, "mesh.fsdp": fsdp}
  state = Program(build(config(**flags))).abstract_state
  return any("fsdp" in leaf.sharding.spec for leaf in jax.tree.leaves(state))


@pytest.fixture(scope="module")
def wide(tmp_path_factory):
  """Losses of one process that splits nothing."""
  workdir = tmp_path_factory.mktemp("wide") / "W"
  return trained(workdir, 1, devices=2, environ=IN_X64, **WIDE)


@pytest.mark.slow
def test_parameters_split_over_two_processes_train_as_one(wide, tmp_path):
  """A device each: axis "fsdp" goes from one process to the other."""
  assert is_split(2)
  assert not is_split(1)
  split = {**WIDE, "mesh.fsdp": 2}
  found = trained(tmp_path / "W", 2, devices=2, environ=IN_X64, **split)
  np.testing.assert_allclose(found, wide, rtol=1e-9)


@pytest.mark.slow
def test_other_meshes_take_a_run_up(wide, tmp_path):
  """Eight devices begin, four go on, two processes of four each finish.

  The first and the last split parameters, the last over both processes.
  """
  assert is_split(8)
  workdir = tmp_path / "W"
  for devices, fsdp, until in ((8, 2, 5), (4, 1, 11)):
    # Slow enough to be stopped half way.
    split = {**WIDE, "mesh.fsdp": fsdp}
    arguments = training(workdir, 1, **split)
    (process,) = start(1, arguments, devices=devices, environ=IN_X64)
    try:
      wait_for_row(workdir, until, process)
    finally:
      process.send_signal(signal.SIGTERM)
      status, said = ends([process])
    assert status == [0], said
    assert "Stopped by SIGTERM" in said[0]
    assert until <= len(rows(workdir)) < STEPS
  split = {**WIDE, "mesh.fsdp": 8}
  found = trained(workdir, 2, environ=IN_X64, **split)
  np.testing.assert_allclose(found, wide, rtol=1e-9)


def wait_for_row(workdir, row, process=None, timeout=240):
  for _ in range(timeout * 10):
    if process is not None and process.poll() is not None:
      return
    if (workdir / "metrics.jsonl").exists() and len(rows(workdir)) >= row:
      return
    time.sleep(0.1)
  raise AssertionError(f"{workdir}: no row {row}")


READ = """
import json, sys
from jssl.runtime import distributed
if int(sys.argv[1]) > 1:
  distributed.initialize()
import jax, numpy as np
from jssl import mesh
from jssl.data.pipeline import train_batches

class Counted:
  name, image_shape, num_classes = "counted", (2, 2, 1), 100
  class_names, image_dtype = tuple(map(str, range(100))), np.dtype(np.uint8)
  def __init__(self): self.read = []
  def __len__(self): return 100
  def fingerprint(self): return "counted"
  def fetch(self, rows):
    self.read.append([int(row) for row in rows])
    images = np.broadcast_to(rows[:, None, None, None], (len(rows), 2, 2, 1))
    return {"image": images.astype(np.uint8), "label": rows.astype(np.int32)}

source = Counted()
batches = train_batches(
  source, seed=3, batch_size=16, prefetch_batches=0,
  sharding=mesh.batch_sharding(mesh.make_mesh(-1, 1)),
)
total = jax.jit(lambda batch: batch["label"].sum())
sums = [int(total(next(batches))) for _ in range(12)]
batches.close()
print("READ", json.dumps({"rows": source.read[:12], "sums": sums}))
"""


def what_is_read(count):
  status, said = ends(start(count, ["-c", READ, str(count)]))
  assert status == [0] * count, "\n".join(said)
  return [
    json.loads(re.search(r"^READ (.*)$", own, re.MULTILINE).group(1))
    for own in said
  ]


@pytest.mark.parametrize("count", [2, pytest.param(4, marks=pytest.mark.slow)])
def test_each_process_reads_its_shard_alone(count):
  """The same global batches, every example once an epoch, nothing twice."""
  (alone,) = what_is_read(1)
  shards = what_is_read(count)
  for step in range(12):
    parts = [shard["rows"][step] for shard in shards]
    assert [len(part) for part in parts] == [16 // count] * count
    assert [*itertools.chain(*parts)] == alone["rows"][step]
  assert [shard["sums"] for shard in shards] == [alone["sums"]] * count
  # 6 batches of 16 an epoch of 100.
  for epoch in (slice(0, 6), slice(6, 12)):
    seen = [*itertools.chain(*alone["rows"][epoch])]
    assert len(seen) == len(set(seen)) == 96


def test_processes_of_different_configs_are_refused(tmp_path):
  command = training(tmp_path / "W", 2)
  started = start(2, command, different=["--config.optim.learning_rate=0.1"])
  status, said = ends(started)
  assert status == [1, 1], "\n".join(said)
  for own in said:
    assert "the processes have different configs" in own
    assert re.search(
      r'process 0\n.*process 1\n.*\n- *"learning_rate": 0.005.*\n\+.*0\.1', own
    )
  assert not (tmp_path / "W").exists()


@pytest.mark.slow
def test_workdirs_that_are_not_shared_are_refused(tmp_path):
  """As where a mount was forgotten: folders of one name, on two hosts."""
  other = tmp_path / "other"
  # As it was left by a run: its files alone don't tell.
  for folder in (tmp_path / "W", other):
    folder.mkdir()
    (folder / "notes.txt").touch()
  started = start(
    2, training(tmp_path / "W", 2), devices=2, different=[f"--workdir={other}"]
  )
  status, said = ends(started)
  assert status == [1, 1], "\n".join(said)
  for own in said:
    assert re.search(
      r"error: --workdir=\S+ must be one folder that all processes share.*"
      r"does not exist for process 1 \(on \S+\)",
      own,
    ), own
  # Nothing is left, and nothing begun.
  for folder in (tmp_path / "W", other):
    assert [path.name for path in folder.iterdir()] == ["notes.txt"]


@pytest.mark.slow
def test_a_loss_that_is_not_finite_stops_two_processes(tmp_path):
  """Together, though one has the state before it to remove first."""
  broken = tmp_path / "W/broken"
  for folder in range(40):
    (broken / str(folder)).mkdir(parents=True)
    for file in range(500):
      (broken / str(folder) / str(file)).touch()
  (broken / "config.json").write_text('{"of": "another run"}')
  lost = {"optim.learning_rate": 1e30, "log.every_steps": 3}
  started = start(2, training(tmp_path / "W", 2, **lost), devices=2)
  status, said = ends(started)
  assert status == [1, 1], "\n".join(said)
  for own in said:
    assert re.search(r"^error: .*between step 0 and step 3", own, re.MULTILINE)
    assert f"the state at step 3 is in {broken}" in own
    assert "Traceback" not in own
  assert checkpoint.steps(broken) == [3]
  leaves = jax.tree.leaves(checkpoint.restore_backbone(broken, 3))
  assert not all(np.all(np.isfinite(leaf)) for leaf in leaves)


def test_half_of_an_environment_is_told(monkeypatch):
  monkeypatch.setenv("JAX_COORDINATOR_ADDRESS", "127.0.0.1:1")
  monkeypatch.delenv("JAX_NUM_PROCESSES", raising=False)
  monkeypatch.delenv("JAX_PROCESS_ID", raising=False)
  with pytest.raises(
    ValueError, match=r"Set all of JAX_COORDINATOR_ADDRESS, JAX_NUM_PROC"
  ):
    distributed.initialize()


def test_several_that_were_not_told_to_join_are_refused(tmp_path):
  """Each would train alone, in the workdir of the others."""
  started = start(2, training(tmp_path / "W", 1), devices=2)
  status, said = ends(started)
  assert status == [1, 1], "\n".join(said)
  for own in said:
    assert "JAX_NUM_PROCESSES=2" in own
    assert "--distributed" in own
    assert "Traceback" not in own
  assert not (tmp_path / "W").exists()


def test_one_that_is_alone(monkeypatch):
  for count in (None, "", "1"):
    if count is None:
      monkeypatch.delenv("JAX_NUM_PROCESSES", raising=False)
    else:
      monkeypatch.setenv("JAX_NUM_PROCESSES", count)
    distributed.check_single_process()


LOSE = """
import runpy, sys
import jax
import jssl.train.loop

def lose(config, workdir, **_):
  gone = jax.errors.JaxRuntimeError("UNAVAILABLE: connection closed")
  if workdir == "direct":
    raise gone
  raise ValueError("can't be connected") from gone

jssl.train.loop.train = lose
runpy.run_module("jssl.train", run_name="__main__", alter_sys=True)
"""


@pytest.mark.parametrize("workdir", ["direct", "told"])
def test_what_the_runtime_says_is_not_an_error_of_the_run(workdir):
  """Its status is another than 1, so that the run is started again."""
  arguments = training(workdir, 2)[2:]
  one = {
    "JAX_COORDINATOR_ADDRESS": f"127.0.0.1:{free_port()}",
    "JAX_NUM_PROCESSES": "1",
    "JAX_PROCESS_ID": "0",
  }
  started = start(1, ["-c", LOSE, *arguments], devices=1, environ=one)
  (status,), (said,) = ends(started)
  assert status == 75, said


FAIL = """
import sys
from jssl.runtime import distributed, exit_codes

def work():
  distributed.initialize()
  import jax
  if jax.process_index() == int(sys.argv[1]):
    why = "too much for this one"
    if sys.argv[2] == "key":
      raise KeyError(why)
    raise jax.errors.JaxRuntimeError(f"{sys.argv[2]}: {why}")
  distributed.barrier("what never comes")

sys.exit(exit_codes.run_with_exit_code(work, (ValueError,)))
"""


@pytest.mark.parametrize(
  ("index", "kind", "status"),
  [
    # The others are connected through the first.
    (0, "key", 1),
    pytest.param(2, "key", 1, marks=pytest.mark.slow),
    pytest.param(1, "UNAVAILABLE", 75, marks=pytest.mark.slow),
    pytest.param(1, "RESOURCE_EXHAUSTED", 1, marks=pytest.mark.slow),
  ],
)
def test_an_error_of_one_process_ends_all(index, kind, status):
  """The process has the status of its error, the others neither 0 nor 1."""
  started = start(3, ["-c", FAIL, str(index), kind], devices=3)
  found, said = ends(started, timeout=100)
  assert found.pop(index) == status, "\n".join(said)
  assert not {0, 1} & {*found}, "\n".join(said)
  assert "Traceback" in said[index]


DIE = """
import os, signal, sys
from jssl.runtime import distributed, exit_codes

def work():
  distributed.initialize()
  import jax
  distributed.barrier("here")
  if jax.process_index() == 1:
    os.kill(os.getpid(), signal.SIGKILL)
  distributed.barrier("what never comes")

sys.exit(exit_codes.run_with_exit_code(work, (ValueError,)))
"""


@pytest.mark.slow
def test_what_a_collective_says_of_one_that_died_is_not_an_error_of_the_run():
  """JAX raises it as a ValueError; the status must not be 1."""
  started = start(3, ["-c", DIE], devices=3)
  status, said = ends(started, timeout=100)
  assert status[1] == -signal.SIGKILL
  assert not {0, 1} & set(status), "\n".join(said)


STALE = """
import shutil, sys
from jssl.runtime import distributed
distributed.initialize()
import jax, numpy as np
from jssl import mesh
from jssl.checkpoint import Checkpoints

items = {"backbone": {"w": np.zeros(3, np.float32)}}
items = mesh.on_every_device(mesh.make_mesh(-1, 1), items)
abstract = jax.tree.map(
  lambda x: jax.ShapeDtypeStruct(x.shape, x.dtype, sharding=x.sharding), items
)
workdir = sys.argv[1]
with Checkpoints(workdir, keep_last=9, keep_every_steps=None) as checkpoints:
  for step in (1, 2):
    checkpoints.save(step, items)
  checkpoints.wait()
  if distributed.is_first():
    shutil.rmtree(f"{workdir}/checkpoints/2")
    checkpoints._orbax.reload()
  distributed.barrier("removed")
  there = [checkpoint.step for checkpoint in checkpoints._orbax.checkpoints]
  found = checkpoints.restore_latest(abstract)
  print("FOUND", there, found[0])
"""


def test_one_process_chooses_the_checkpoint_for_all(tmp_path):
  """The other's listing has one that is gone, as a cache of NFS may."""
  started = start(2, ["-c", STALE, str(tmp_path / "W")], devices=2)
  status, said = ends(started, timeout=100)
  assert status == [0, 0], "\n".join(said)
  assert "FOUND [1] 1" in said[0]
  assert "FOUND [1, 2] 1" in said[1]


@pytest.mark.slow
def test_one_of_four_that_dies_stops_the_others(tmp_path):
  """Within a minute, with a status to retry; the run can be resumed."""
  workdir = tmp_path / "W"
  # The uninterrupted one, on the same devices.
  whole = trained(tmp_path / "whole", 4)
  started = start(4, training(workdir, 4, **{"train.steps": STEPS}))
  wait_for_row(workdir, 8)
  started[2].kill()
  killed = time.monotonic()
  status, said = ends(started, timeout=120)
  assert time.monotonic() - killed < 60
  assert not {0, 1} & {*status}, "\n".join(said)
  assert trained(workdir, 4) == whole
