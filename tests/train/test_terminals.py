"""Ctrl-C, and output that nobody reads any more."""

import os
import pty
import random
import signal
import subprocess
import sys
import time

import pytest
from train.runs import (
  ROOT,
  assert_same,
  outcome,
  rows,
  run,
  start,
  wait_for_step,
)

from jssl import checkpoint

SWALLOW = """
import sys, time
from jssl.runtime import exit_codes

def work():
  print("working", flush=True)
  while True:
    try:
      time.sleep(60)
    except KeyboardInterrupt:
      pass

sys.exit(exit_codes.run_with_exit_code(work, (ValueError,)))
"""


def test_an_interrupt_ends_work_that_would_swallow_it():
  process = subprocess.Popen(
    [sys.executable, "-c", SWALLOW],
    cwd=ROOT,
    stdout=subprocess.PIPE,
    stderr=subprocess.PIPE,
    text=True,
  )
  assert process.stdout.readline() == "working\n"
  process.send_signal(signal.SIGINT)
  _, err = process.communicate(timeout=20)
  assert process.returncode == 130
  assert err == "Interrupted.\n"


@pytest.mark.slow
def test_an_interrupted_run_can_be_resumed(uninterrupted, tmp_path):
  """At a random moment of a run that is nearly always saving."""
  often = {"checkpoint.every_steps": 1}
  process = start(tmp_path, **often)
  wait_for_step(process, 3)
  time.sleep(random.SystemRandom().random() / 2)
  process.send_signal(signal.SIGINT)
  _, err = process.communicate(timeout=20)
  assert process.returncode == 130, err
  assert "Traceback" not in err
  assert checkpoint.steps(tmp_path)[-1] < 24
  done = run(tmp_path, **often)
  assert done.returncode == 0, done.stderr
  assert_same(outcome(tmp_path), outcome(uninterrupted))


PRINT = """
import sys
from jssl.runtime import terminal

terminal.make_output_safe()
sys.stdin.read()
print("lost")
print("lost too", flush=True)
"""


@pytest.mark.parametrize("buffered", [(), ("-u",)])
def test_a_terminal_that_is_closed(buffered):
  """As that of a session which has ended."""
  master, slave = pty.openpty()
  with subprocess.Popen(
    [sys.executable, *buffered, "-c", PRINT],
    cwd=ROOT,
    stdin=subprocess.PIPE,
    stdout=slave,
    stderr=subprocess.PIPE,
    text=True,
  ) as process:
    os.close(slave)
    os.close(master)
    _, err = process.communicate("")
  assert process.returncode == 0
  assert err == "The reader of stdout is gone; continuing without output.\n"


@pytest.mark.parametrize(
  "stderr",
  [
    subprocess.PIPE,
    pytest.param(subprocess.STDOUT, marks=pytest.mark.slow),
  ],
)
def test_a_run_goes_on_without_its_reader(tmp_path, stderr):
  """As with `| head -3` and `2>&1 | head -3`."""
  with start(tmp_path, stderr=stderr) as process:
    wait_for_step(process, 3)
    process.stdout.close()
    if stderr == subprocess.PIPE:
      assert process.stderr.read().count("The reader of stdout is gone") == 1
    assert process.wait(timeout=120) == 0
  assert [row["step"] for row in rows(tmp_path)] == [*range(1, 25)]
  assert checkpoint.steps(tmp_path)[-1] == 24
