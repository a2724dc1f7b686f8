"""Rows of metrics on a disk that is full for a while."""

import json
import time

import pytest
from runtime.test_files import file_size_limit

from jssl.train.writer import Writer

VALUES = {"loss": 1.0, "learning_rate": 0.1}


def steps(workdir):
  lines = (workdir / "metrics.jsonl").read_text().splitlines()
  return [json.loads(line)["step"] for line in lines]


def test_rows_that_fail_are_written_with_the_next(tmp_path):
  with Writer(
    tmp_path, total_steps=9, batch_size=8, seconds_at_peak=1e-3
  ) as writer:
    writer.start(0)
    writer.write(1, VALUES)
    with file_size_limit((tmp_path / "metrics.jsonl").stat().st_size):
      writer.write(2, VALUES)
      writer.write(3, VALUES)
      assert steps(tmp_path) == [1]
    writer.write(4, VALUES)
    assert steps(tmp_path) == [1, 2, 3, 4]
    with file_size_limit(1):
      writer.write(5, VALUES)
  # Closing is another attempt.
  assert steps(tmp_path) == [1, 2, 3, 4, 5]


def test_utilisation_is_the_time_at_peak_over_the_time_of_a_step(tmp_path):
  with Writer(
    tmp_path, total_steps=9, batch_size=8, seconds_at_peak=1e-3
  ) as writer:
    writer.start(0)
    writer.write(4, VALUES)
  row = json.loads((tmp_path / "metrics.jsonl").read_text())
  assert row["mfu"] * row["seconds_per_step"] == pytest.approx(1e-3)


def test_rows_after_the_resumed_step_and_incomplete_rows_are_dropped(tmp_path):
  path = tmp_path / "metrics.jsonl"
  path.write_text('{"step": 1}\n{"step": 2}\n{"step": 3}\n{"st')
  with Writer(
    tmp_path, total_steps=9, batch_size=8, seconds_at_peak=1e-3
  ) as writer:
    writer.start(2)
    assert steps(tmp_path) == [1, 2]


def test_the_speed_leaves_out_the_time_before_the_clock_restarts(tmp_path):
  with Writer(
    tmp_path, total_steps=9, batch_size=8, seconds_at_peak=1e-3
  ) as writer:
    writer.start(0)
    time.sleep(0.5)
    writer.restart_clock(1)
    time.sleep(0.02)
    writer.write(3, VALUES)
  row = json.loads((tmp_path / "metrics.jsonl").read_text())
  assert 0.01 <= row["seconds_per_step"] < 0.2
