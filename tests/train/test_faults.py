"""What breaks a run in the field, done to real ones, which then finish.

After each fault the rows and the last checkpoint are those of the run that
nobody interrupted, bit for bit.
"""

import json
import random
import re
import resource
import signal
import time

import pytest
from train.runs import assert_same, outcome, run, start, wait_for_step

from jssl import checkpoint

pytestmark = pytest.mark.slow


def finish(workdir):
  """Runs to the end; returns what was said."""
  done = run(workdir)
  assert done.returncode == 0, done.stderr
  return done.stdout + done.stderr


def test_killed_at_twenty_random_moments(uninterrupted, tmp_path):
  """At any moment: while it starts, compiles, steps, saves or restores."""
  seed = random.SystemRandom().randrange(2**32)
  draw = random.Random(seed)
  print(f"seed {seed}")
  for life in range(20):
    process = start(tmp_path)
    if life % 2:
      # While it steps, however long it takes here to start and to compile.
      next((line for line in process.stdout if line.startswith("step ")), "")
      time.sleep(draw.uniform(0, 0.5))
    else:
      time.sleep(draw.uniform(0, 14))
    process.kill()
    process.communicate()
  lives = [json.loads(line) for line in (tmp_path / "goodput.jsonl").open()]
  print(f"lives that saved: {[(x['from_step'], x['to_step']) for x in lives]}")
  assert len(lives) > 2
  finish(tmp_path)
  assert_same(outcome(tmp_path), outcome(uninterrupted))


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
  assert "taken up at step 4" in finish(tmp_path)
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
  assert re.search(rf"{last}: 1 of \d+ files differ.*passed over", said)
  assert f"taken up at step {before}" in said
  assert (tmp_path / "damaged" / str(last)).exists()
  assert_same(outcome(tmp_path), outcome(uninterrupted))


def test_a_disk_that_is_full_for_a_while(uninterrupted, tmp_path):
  """Files of the running process can't grow, until there is room again."""
  # More is said than a pipe holds.
  with (tmp_path / "stderr").open("w") as stderr:
    process = start(tmp_path, stderr=stderr)
    wait_for_step(process, 5)
    # Enough for rows of the training, and not for its arrays.
    resource.prlimit(process.pid, resource.RLIMIT_FSIZE, (2**14, -1))
    wait_for_step(process, 13)
    resource.prlimit(process.pid, resource.RLIMIT_FSIZE, (-1, -1))
    process.communicate(timeout=240)
  said = (tmp_path / "stderr").read_text()
  assert process.returncode == 0, said
  assert "wasn't saved, the checkpoints before it are kept" in said
  assert_same(outcome(tmp_path), outcome(uninterrupted))
  status = json.loads((tmp_path / "status.json").read_text())
  assert status == {"status": "complete", "step": 24}
