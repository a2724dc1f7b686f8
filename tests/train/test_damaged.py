"""Runs on a set with damaged images: refused, or replaced and logged."""

import re

import pytest
from data.damage import break_record, prepare_set
from processes import ends
from processes import start as start_processes
from train.runs import (
  assert_same,
  command,
  outcome,
  rows,
  run,
  start,
  wait_for_step,
)

from jssl import checkpoint
from jssl.data.order import shuffled_rows

BATCH_SIZE = 8
STEPS = 18
ROWS = 35
LAST_OF_EPOCH = 3


def rows_of_step(step):
  return shuffled_rows(step, seed=0, images=ROWS, batch_size=BATCH_SIZE)


# Two that the first three steps don't see, but all epochs do.
DAMAGED = [
  int(row)
  for row in sorted(rows_of_step(LAST_OF_EPOCH))
  if all(
    any(row in rows_of_step(step) for step in range(start, start + 4))
    for start in (4, 8, 12)
  )
][:2]
LOGGED = r"Replaced \d+ damaged images so far .*of photos, split train"


@pytest.fixture(scope="module")
def options(tmp_path_factory):
  """Of runs on a set with two damaged images."""
  data_dir = prepare_set(tmp_path_factory.mktemp("damaged"))
  for row in DAMAGED:
    break_record(data_dir, row)
  return {
    "data.name": "photos",
    "data.data_dir": data_dir,
    "data.in_memory": False,
    "data.batch_size": BATCH_SIZE,
    "data.skip_damaged": True,
    "train.steps": STEPS,
    "log.every_steps": 5,
    "checkpoint.every_steps": 3,
  }


@pytest.fixture(scope="module")
def skipping(options, tmp_path_factory):
  """Workdir of a run that replaces damaged images, and its log."""
  workdir = tmp_path_factory.mktemp("skipping")
  done = run(workdir, **options)
  assert done.returncode == 0, done.stderr
  return workdir, done.stderr


def test_replacements_are_logged(skipping):
  assert len(DAMAGED) == 2
  assert re.search(LOGGED, skipping[1])


@pytest.mark.slow
def test_workers_log_their_replacements(options, skipping, tmp_path):
  done = run(tmp_path, **{**options, "data.workers": 2})
  assert done.returncode == 0, done.stderr
  assert re.search(LOGGED, done.stderr)
  losses = [[row["loss"] for row in rows(w)] for w in (tmp_path, skipping[0])]
  assert losses[0] == losses[1]


@pytest.mark.slow
def test_in_memory_trains_the_same(options, skipping, tmp_path):
  done = run(tmp_path, **{**options, "data.in_memory": True})
  assert done.returncode == 0, done.stderr
  assert re.search(LOGGED, done.stderr)
  assert_same(outcome(tmp_path), outcome(skipping[0]))


@pytest.mark.slow
def test_killed_and_resumed_sees_the_same_images(options, skipping, tmp_path):
  process = start(tmp_path, **options)
  # At step 9 the save of step 6 was waited for.
  wait_for_step(process, 10)
  process.kill()
  process.communicate()
  done = run(tmp_path, **options)
  assert re.search(r"Resumed from checkpoint at step [69]\.", done.stdout), (
    done.stderr
  )
  assert_same(outcome(tmp_path), outcome(skipping[0]))


@pytest.mark.slow
def test_a_run_that_was_stopped_goes_on_with_the_key(
  options, skipping, tmp_path
):
  without = {
    **options,
    "data.skip_damaged": False,
    "checkpoint.every_steps": 1,
    "log.every_steps": 1,
  }
  stopped = run(tmp_path, **without)
  assert stopped.returncode == 1
  assert re.search(
    rf"^error: image ({'|'.join(map(str, DAMAGED))}) of photos, split train, "
    r"cannot be decoded .*data\.skip_damaged=True",
    stopped.stderr,
    re.MULTILINE,
  ), stopped.stderr
  assert "Traceback" not in stopped.stderr
  # All that came before the image was done, and is kept.
  assert [row["step"] for row in rows(tmp_path)] == [1, 2, 3]
  done = run(tmp_path, **{**options, "log.every_steps": 1})
  assert done.returncode == 0, done.stderr
  assert re.search(r"Resumed from checkpoint at step [123]\.", done.stdout)
  assert re.search(LOGGED, done.stderr)
  assert [row["step"] for row in rows(tmp_path)] == [*range(1, STEPS + 1)]


@pytest.mark.slow
@pytest.mark.parametrize("workers", [0, 1])
def test_an_image_that_one_of_two_processes_meets(options, tmp_path, workers):
  """Ends with status 1, and the other with neither 0 nor 1."""
  data_dir = prepare_set(tmp_path)
  break_record(data_dir, DAMAGED[0])
  # Who has that half of the batch.
  place = rows_of_step(LAST_OF_EPOCH).tolist().index(DAMAGED[0])
  meets = place // (BATCH_SIZE // 2)
  without = {
    **options,
    "data.data_dir": data_dir,
    "data.skip_damaged": False,
    "data.workers": workers,
    "checkpoint.every_steps": 1,
    "log.every_steps": 1,
  }
  workdir = tmp_path / "W"
  arguments = [*command(workdir, **without)[1:], "--distributed"]
  status, said = ends(start_processes(2, arguments))
  assert status[meets] == 1, "\n".join(said)
  assert status[1 - meets] not in (0, 1), "\n".join(said)
  why = rf"image {DAMAGED[0]} of photos, split train, cannot be decoded"
  assert re.search(rf"^error: {why}", said[meets], re.MULTILINE)
  assert "Traceback" not in said[meets]
  # All steps before the image are done; the last save may have been cut off.
  done = [*range(1, LAST_OF_EPOCH + 1)]
  assert [row["step"] for row in rows(workdir)] == done
  assert checkpoint.steps(workdir)[-1] >= LAST_OF_EPOCH - 1
