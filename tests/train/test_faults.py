"""What breaks a run in the field, done to real ones, which then finish.

After each fault the examples and the loss of every step and the last checkpoint
are those of the run that nobody interrupted, bit for bit.
"""

import contextlib
import itertools
import json
import os
import random
import re
import resource
import signal
import subprocess
import threading
import time

import pytest
from train.runs import assert_same, outcome, rows, run, start, wait_for_step

from jssl import checkpoint

pytestmark = pytest.mark.slow


def finish(workdir):
  """Runs to the end; returns what was said."""
  done = run(workdir)
  assert done.returncode == 0, done.stderr
  return done.stdout + done.stderr


def test_killed_at_twenty_random_steps(tmp_path):
  """Twenty lives, each ended in the middle of the run."""
  seed = random.SystemRandom().randrange(2**32)
  draw = random.Random(seed)
  print(f"seed {seed}")
  whole, killed = tmp_path / "whole", tmp_path / "killed"
  # More than twenty lives of up to ten steps can do.
  longer = {"train.steps": 300}
  done = run(whole, **longer)
  assert done.returncode == 0, done.stderr
  kills = []
  for _ in range(20):
    process = start(killed, **longer)
    lines = (line for line in process.stdout if line.startswith("step "))
    # However long it takes here to start and to compile.
    next(itertools.islice(lines, draw.randrange(10), None), None)
    time.sleep(draw.uniform(0, 0.05))
    process.kill()
    _, err = process.communicate()
    assert process.returncode == -signal.SIGKILL, err
    assert not (killed / "status.json").exists()
    kills.append(rows(killed)[-1]["step"])
    assert kills[-1] < 300
  begins = [life["from_step"] for life in rows(killed, "goodput.jsonl")]
  print(f"kills after {kills}, lives from {begins}")
  assert len(set(kills)) > 8
  assert len(set(begins)) > 5
  # And before any step: while it starts, restores or compiles.
  for _ in range(2):
    process = start(killed, **longer)
    time.sleep(draw.uniform(0, 10))
    process.kill()
    process.communicate()
  done = run(killed, **longer)
  assert done.returncode == 0, done.stderr
  assert_same(outcome(killed), outcome(whole))


def test_killed_while_it_saves(uninterrupted, tmp_path):
  """As soon as a part of the second checkpoint is on the disk."""
  process = start(tmp_path)
  root = tmp_path / "checkpoints"
  for _ in range(200_000):
    if [*root.glob("8.*")] or (root / "8").exists():
      break
    time.sleep(0.0005)
  process.kill()
  process.communicate()
  # Without its manifest it doesn't count.
  assert 8 not in checkpoint.steps(tmp_path)
  assert "Resumed from checkpoint at step 4" in finish(tmp_path)
  assert_same(outcome(tmp_path), outcome(uninterrupted))


@pytest.mark.parametrize("damage", ["a flipped bit", "a truncated file"])
def test_a_damaged_checkpoint_is_passed_over(uninterrupted, tmp_path, damage):
  process = start(tmp_path)
  wait_for_step(process, 13)
  process.send_signal(signal.SIGTERM)
  process.communicate(timeout=120)
  *_, before, last = checkpoint.steps(tmp_path)
  files = (tmp_path / f"checkpoints/{last}/backbone/d").glob("*")
  largest = max(files, key=lambda path: path.stat().st_size)
  content = bytearray(largest.read_bytes())
  if damage == "a flipped bit":
    content[len(content) // 2] ^= 1
  else:
    del content[len(content) // 2 :]
  largest.write_bytes(content)
  said = finish(tmp_path)
  assert re.search(rf"{last}: 1 of \d+ files are damaged", said)
  assert f"Resumed from checkpoint at step {before}" in said
  assert (tmp_path / "damaged" / str(last)).exists()
  assert_same(outcome(tmp_path), outcome(uninterrupted))


@contextlib.contextmanager
def drained(process):
  """Reads what is said to stderr, which is more than a pipe holds."""
  said = []
  thread = threading.Thread(target=lambda: said.extend(process.stderr))
  thread.start()
  with process:
    try:
      yield said
    finally:
      process.kill()
      thread.join()


def fill(process):
  """Lets no file of a process grow beyond a byte."""
  resource.prlimit(process.pid, resource.RLIMIT_FSIZE, (1, -1))


def test_a_disk_that_is_full_for_a_while(uninterrupted, tmp_path):
  """No array, no row and no clock can be written, until there is room again."""
  process = start(tmp_path)
  with drained(process) as said:
    wait_for_step(process, 5)
    before = rows(tmp_path)
    fill(process)
    wait_for_step(process, 13)
    # Rows wait, and no half of one is left.
    assert rows(tmp_path)[: len(before)] == before
    assert len(rows(tmp_path)) < 13
    assert checkpoint.steps(tmp_path) in ([], [4])
    resource.prlimit(process.pid, resource.RLIMIT_FSIZE, (-1, -1))
    process.stdout.read()
    assert process.wait(timeout=240) == 0, "".join(said)
  said = "".join(said)
  assert "could not save checkpoint at step 8" in said
  assert "metrics.jsonl: File too large. The next write will" in said
  assert "goodput.jsonl" in said
  assert_same(outcome(tmp_path), outcome(uninterrupted))
  status = json.loads((tmp_path / "status.json").read_text())
  assert status == {"status": "complete", "step": 24}
  (life,) = rows(tmp_path, "goodput.jsonl")
  assert life["to_step"] == 24


def test_a_disk_that_is_full_at_the_end(uninterrupted, tmp_path):
  """Is told, with a status that says: again; and then nothing is missing."""
  process = start(tmp_path)
  with drained(process) as said:
    wait_for_step(process, 9)
    fill(process)
    process.stdout.read()
    assert process.wait(timeout=240) == 75, "".join(said)
  # JAX has said more after it.
  told = "".join(said).partition("\nerror: ")[2]
  assert told.startswith("could not save checkpoint at step 24")
  assert "are free in" in told
  assert "run the same command to resume from the last checkpoint" in told
  assert not (tmp_path / "status.json").exists()
  assert "Resumed from checkpoint at step" in finish(tmp_path)
  assert_same(outcome(tmp_path), outcome(uninterrupted))


@pytest.fixture
def small_disk(tmp_path):
  """A file system of 4 MiB."""
  subprocess.run(
    ["mount", "-t", "tmpfs", "-o", "size=4m", "small", str(tmp_path)],
    check=True,
  )
  yield tmp_path
  subprocess.run(["umount", "--lazy", str(tmp_path)], check=True)


# The limits on files above are the same fault for everybody else.
@pytest.mark.skipif(os.geteuid() != 0, reason="only root can mount a disk")
def test_a_small_disk(uninterrupted, small_disk):
  """What the process says goes to the same disk, to its very last byte."""
  with (small_disk / "said").open("w") as out:
    process = start(small_disk / "W", stdout=out, stderr=out)
  while not (small_disk / "W/checkpoints/8/manifest.json").exists():
    assert process.poll() is None
    time.sleep(0.01)
  with (
    contextlib.suppress(OSError),
    (small_disk / "ballast").open("wb") as file,
  ):
    while True:
      file.write(bytes(4096))
      file.flush()
  process.wait(timeout=240)
  # Python's own status, where not all that it said found room, is 120.
  (small_disk / "ballast").unlink()
  said = (small_disk / "said").read_text()
  assert process.returncode in (75, 120), said
  done = run(small_disk / "W")
  assert done.returncode == 0, done.stderr
  assert "Resumed from checkpoint at step" in done.stdout
  assert_same(outcome(small_disk / "W"), outcome(uninterrupted))
