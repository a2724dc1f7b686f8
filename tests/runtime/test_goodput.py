"""Seconds by kind of work."""

import contextlib
import json
import resource
import time

import jax
import jax.numpy as jnp
import pytest
from jax.experimental.compilation_cache import compilation_cache

from jssl.runtime.goodput import Clock

KINDS = ("input", "step", "checkpoint")


def clock_of(folder):
  return Clock(folder / "clock.jsonl", KINDS)


def rows(folder):
  lines = (folder / "clock.jsonl").read_text().splitlines()
  return [json.loads(line) for line in lines]


def test_each_second_is_counted_once(tmp_path):
  clock = clock_of(tmp_path)
  with clock.on("input"):
    time.sleep(0.05)
  with contextlib.suppress(KeyError), clock.on("checkpoint"):
    time.sleep(0.02)
    raise KeyError
  row = clock.row()
  assert row["input"] >= 0.05
  assert row["checkpoint"] >= 0.02
  assert row["step"] == row["compile"] == 0
  assert 0 <= row["other"] < row["seconds"]
  together = sum(row[kind] for kind in (*KINDS, "compile", "other"))
  assert together == pytest.approx(row["seconds"])


def test_a_kind_that_is_not_there_is_no_kind(tmp_path):
  with pytest.raises(KeyError), clock_of(tmp_path).on("inptu"):
    pass


def test_what_it_takes_to_come_by_things_is_counted(tmp_path):
  def things():
    for thing in range(3):
      time.sleep(0.02)
      yield thing

  clock = clock_of(tmp_path)
  for _ in clock.each("input", things()):
    time.sleep(0.05)
  assert 0.06 <= clock.row()["input"] < clock.seconds() - 0.15


def test_a_start_has_a_row_besides_earlier_ones(tmp_path):
  first, second = clock_of(tmp_path), clock_of(tmp_path)
  first.write()
  first.write()
  assert len(rows(tmp_path)) == 1
  second.write()
  kept, *_ = before = rows(tmp_path)
  assert len(before) == 2
  second.write()
  assert rows(tmp_path)[0] == kept
  assert len(rows(tmp_path)) == 2


def test_recorded_values_are_in_the_row(tmp_path):
  clock = clock_of(tmp_path)
  clock.record(from_step=0, to_step=4)
  clock.record(to_step=8)
  assert clock.row().items() >= {"from_step": 0, "to_step": 8}.items()


def test_an_error_leaves_its_row(tmp_path):
  clock = clock_of(tmp_path)

  def breaks():
    with clock.running(), clock.on("step"):
      clock.write()
      time.sleep(0.02)
      raise FloatingPointError

  with pytest.raises(FloatingPointError):
    breaks()
  (row,) = rows(tmp_path)
  assert row["step"] >= 0.02


def test_a_row_that_cannot_be_written_ends_nothing(tmp_path):
  clock = clock_of(tmp_path)
  clock.write()
  before = rows(tmp_path)
  limit = resource.getrlimit(resource.RLIMIT_FSIZE)
  resource.setrlimit(resource.RLIMIT_FSIZE, (10, limit[1]))
  try:
    clock.write()
    assert rows(tmp_path) == before
    # Neither does the last one, which has no next, hide what has ended it.
    with clock.running():
      pass
    with pytest.raises(FloatingPointError), clock.running():
      raise FloatingPointError
  finally:
    resource.setrlimit(resource.RLIMIT_FSIZE, limit)
  clock.write()
  assert rows(tmp_path)[0]["seconds"] > before[0]["seconds"]


def test_rows_that_cannot_be_read_hide_no_error(tmp_path, caplog):
  clock = clock_of(tmp_path)
  (tmp_path / "clock.jsonl").mkdir()
  with pytest.raises(FloatingPointError), clock.running():
    raise FloatingPointError
  assert f"Could not read {tmp_path / 'clock.jsonl'}: " in caplog.text


def test_compiling_is_told_apart_from_what_it_is_for(tmp_path):
  @jax.jit
  def inner(x):
    time.sleep(0.1)  # While it is traced.
    return x + 1

  @jax.jit
  def outer(x):
    time.sleep(0.1)
    return inner(x) * 2

  clock = clock_of(tmp_path)
  x = jnp.arange(5.0)
  with clock.running():
    with clock.on("step"):
      outer(x)
      time.sleep(0.05)
    compiled = clock.row()["compile"]
    with clock.on("step"):
      outer(x)
    row = clock.row()
  # What is traced within a trace is counted once: the seconds are those of
  # the clock on the wall.
  assert 0.2 <= compiled <= row["seconds"] - 0.05
  assert row["compile"] == compiled
  assert row["step"] >= 0.05
  assert row["other"] >= 0
  together = sum(row[kind] for kind in (*KINDS, "compile", "other"))
  assert together == pytest.approx(row["seconds"])


def test_compiled_programs_are_counted(tmp_path):
  """A second process would find what the first has compiled; so do we."""
  compilation_cache.reset_cache()
  jax.config.update("jax_compilation_cache_dir", str(tmp_path / "cache"))
  jax.config.update("jax_persistent_cache_min_compile_time_secs", 0.0)
  try:
    counts = []
    for _ in range(2):
      clock = clock_of(tmp_path)
      with clock.running():
        jax.jit(lambda x: x * 3 + 1)(jnp.arange(7.0))
        jax.clear_caches()
      counts.append((clock.row()["programs_found"],
                     clock.row()["programs_compiled"]))  # fmt: skip
    (found, compiled), (found_again, compiled_again) = counts
    assert found == 0
    assert compiled > 0
    assert (found_again, compiled_again) == (compiled, 0)
  finally:
    compilation_cache.reset_cache()
    jax.config.update("jax_compilation_cache_dir", None)
    jax.config.update("jax_persistent_cache_min_compile_time_secs", 1.0)
