import json

import numpy as np
import pytest

from jssl.probe.records import ProbeRecord, SpectrumRecord
from jssl.report.read import read


def append(path, text):
  path.write_text(path.read_text() + text)


def test_reads_every_row(workdir):
  run = read(workdir)
  np.testing.assert_array_equal(run.metrics["step"], [10, 20, 30])
  np.testing.assert_array_equal(run.metrics["loss"], [4, 3, 2])
  assert len(run.select(ProbeRecord)) == 4 * 5
  assert [s.step for s in run.select(SpectrumRecord)] == [0, 0, 20, 40]
  assert run.select(SpectrumRecord, features="pixels")[0].collapse_auc == 0.876
  assert run.steps_done == 30
  assert run.seconds == pytest.approx(15)


def test_finished_checkpoints_count_as_steps_done(workdir):
  checkpoint = workdir / "checkpoints" / "35"
  checkpoint.mkdir(parents=True)
  assert read(workdir).steps_done == 30
  (checkpoint / "manifest.json").write_text("{}")
  assert read(workdir).steps_done == 35


@pytest.mark.parametrize("tail", ['{"step": 4', '{"loss": 1.0}\n', "7\n", "\n"])
def test_passes_over_what_is_not_a_whole_row(workdir, tail):
  before = read(workdir)
  append(workdir / "metrics.jsonl", tail)
  after = read(workdir)
  np.testing.assert_equal(dict(after.metrics), dict(before.metrics))


def test_metric_that_a_row_lacks_is_nan(workdir):
  append(workdir / "metrics.jsonl", '{"step": 40, "loss": 1.0, "entropy": 2}\n')
  metrics = read(workdir).metrics
  np.testing.assert_array_equal(metrics["loss"], [4, 3, 2, 1])
  np.testing.assert_array_equal(metrics["entropy"], [np.nan] * 3 + [2])
  np.testing.assert_array_equal(np.isnan(metrics["learning_rate"])[-2:], [0, 1])


def test_step_is_the_best_probed_one_else_the_last(workdir):
  dataset = "cluttered_digits"
  assert read(workdir).step(dataset) == 20
  (workdir / "best.json").write_text('{"step": 30, "score": 0.5}')
  assert read(workdir).step(dataset) == 40
  (workdir / "best.json").unlink()
  assert read(workdir).step(dataset) == 40
  assert read(workdir).step("another") is None


def test_own_data_set_comes_first(workdir):
  rows = (workdir / "probe.jsonl").read_text()
  append(workdir / "probe.jsonl", rows.replace("cluttered_digits", "another"))
  assert read(workdir).datasets == ["cluttered_digits", "another"]


def test_records_of_another_version_are_skipped(workdir):
  before = read(workdir).records
  append(workdir / "probe.jsonl", '{"step": 20, "probe": "linear"}\n')
  assert read(workdir).records == before


@pytest.mark.parametrize(
  "text", ["", "[3]", '{"step": "x", "score": 1}', "\x00"]
)
def test_a_damaged_pin_does_not_count(workdir, text):
  (workdir / "best.json").write_text(text)
  assert read(workdir).step("cluttered_digits") == 40


def test_what_is_not_there_is_empty(workdir):
  for name in ("metrics.jsonl", "probe.jsonl", "best.json"):
    (workdir / name).unlink()
  run = read(workdir)
  assert (run.metrics, run.records) == ({}, [])
  assert (run.steps_done, run.seconds, run.datasets) == (0, 0, [])


def test_not_a_workdir(tmp_path):
  with pytest.raises(
    FileNotFoundError, match="--workdir must be the workdir of"
  ):
    read(tmp_path)


@pytest.mark.usefixtures("unchecked")
@pytest.mark.parametrize("text", ["", '{"data": {', "[1, 2]"])
def test_damaged_config(tmp_path, text):
  (tmp_path / "config.json").write_text(text)
  with pytest.raises(ValueError, match=r"config\.json is damaged"):
    read(tmp_path)


def test_config_of_something_else(tmp_path):
  (tmp_path / "config.json").write_text(json.dumps({"data": {}, "model": {}}))
  with pytest.raises(ValueError, match="not the config of a run"):
    read(tmp_path)
