"""The clock of a run."""

import contextlib
import json
import time

import jax
import jax.numpy as jnp
import pytest
from jax.experimental.compilation_cache import compilation_cache

from jssl.train.goodput import KINDS, Goodput


def rows(workdir):
  lines = (workdir / "goodput.jsonl").read_text().splitlines()
  return [json.loads(line) for line in lines]


def test_each_second_is_counted_once(tmp_path):
  clock = Goodput(tmp_path)
  clock.begin(5)
  with clock.on("input"):
    time.sleep(0.05)
  with contextlib.suppress(KeyError), clock.on("checkpoint"):
    time.sleep(0.02)
    raise KeyError
  clock.first_step_done()
  row = clock.row(9)
  assert (row["from_step"], row["to_step"]) == (5, 9)
  assert row["input"] >= 0.05
  assert row["checkpoint"] >= 0.02
  assert row["step"] == row["compile"] == 0
  assert 0 <= row["other"] < row["seconds"]
  together = sum(row[kind] for kind in KINDS) + row["other"]
  assert together == pytest.approx(row["seconds"])
  assert 0.07 <= row["until_first_step"] <= row["seconds"]


def test_a_life_has_a_row_beside_earlier_ones(tmp_path):
  first, second = Goodput(tmp_path), Goodput(tmp_path)
  first.write(4)
  first.write(8)
  assert [row["to_step"] for row in rows(tmp_path)] == [8]
  second.begin(8)
  for step in (12, 16):
    second.write(step)
  found = [(row["from_step"], row["to_step"]) for row in rows(tmp_path)]
  assert found == [(0, 8), (8, 16)]


def test_compiled_programs_are_counted(tmp_path):
  """A second process would find what the first has compiled; so do we."""
  compilation_cache.reset_cache()
  jax.config.update("jax_compilation_cache_dir", str(tmp_path / "cache"))
  jax.config.update("jax_persistent_cache_min_compile_time_secs", 0.0)
  try:
    counts = []
    for _ in range(2):
      clock = Goodput(tmp_path)
      with clock.listening():
        jax.jit(lambda x: x * 3 + 1)(jnp.arange(7.0))
        jax.clear_caches()
      counts.append((clock.row(0)["programs_found"],
                     clock.row(0)["programs_compiled"]))  # fmt: skip
    (found, compiled), (found_again, compiled_again) = counts
    assert found == 0
    assert compiled > 0
    assert (found_again, compiled_again) == (compiled, 0)
  finally:
    compilation_cache.reset_cache()
    jax.config.update("jax_compilation_cache_dir", None)
    jax.config.update("jax_persistent_cache_min_compile_time_secs", 1.0)
