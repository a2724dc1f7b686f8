import importlib.util
import json

import pytest

from jssl.probe import results
from jssl.probe.results import Log


def row(kind="backbone", step=10, dataset="digits", **more):
  return {
    "step": step,
    "dataset": dataset,
    "features": kind,
    "probe": "linear",
    "label_fraction": 1.0,
    "test_accuracy": 0.5,
    "test_accuracy_std": 0.01,
    "seeds": 3,
    **more,
  }


def test_rows_are_added_and_replaced_by_subject(tmp_path):
  log = Log(tmp_path)
  assert log.rows() == []
  log.put("probe", [row(step=10), row(step=10, probe="knn")])
  log.put("probe", [row(step=20)])
  log.put("probe", [row(step=20, dataset="birds")])
  log.put("probe", [row(step=10, test_accuracy=0.7)])
  assert log.done() == {
    ("backbone", 10, "digits"),
    ("backbone", 20, "digits"),
    ("backbone", 20, "birds"),
  }
  lines = (tmp_path / "probe.jsonl").read_text().splitlines()
  assert [json.loads(line) for line in lines] == log.rows()
  assert len(lines) == 3
  assert [p.name for p in tmp_path.iterdir()] == ["probe.jsonl"]


def test_parts_of_a_subject_are_replaced_apart(tmp_path):
  log = Log(tmp_path)
  measured = {**row(), "measure": "diagnostics", "values": {}}
  log.put("probe", [row()])
  log.put("diagnostics", [measured])
  log.put("probe", [row(test_accuracy=0.7)])
  assert [r["test_accuracy"] for r in log.rows()] == [0.5, 0.7]
  about = {("backbone", 10, "digits")}
  assert log.done("probe") == log.done("diagnostics") == about


def test_two_probes_of_one_run_keep_each_others_rows(tmp_path):
  one, two = Log(tmp_path), Log(tmp_path)
  one.put("probe", [row(dataset="digits")])
  two.put("probe", [row(dataset="birds")])
  assert len(one.done()) == 2


def test_the_table_has_baselines_first_and_a_column_for_each_probe():
  rows = [
    row(step=20, test_accuracy=0.812),
    row(step=20, label_fraction=0.01, test_accuracy=0.3),
    row(step=20, probe="knn"),
    row(kind="random", step=0, test_accuracy=0.2),
    row(kind="pixels", step=0),
    row(step=9),
    row(dataset="birds"),
    {"step": 20, "dataset": "digits", "features": "backbone", "measure": "s"},
  ]
  lines = results.table(rows, "digits").splitlines()
  assert lines[0].split("  ")[0] == "digits: test accuracy, %"
  names = ["raw pixels", "random backbone", "step 9", "step 20"]
  assert [line.split("  ")[0] for line in lines[1:]] == names
  assert "linear 1%" in lines[0]
  assert "81.2 ± 1.0" in lines[-1]
  assert len({len(line) for line in lines}) == 1


def test_the_summary_is_one_line():
  rows = [row(test_accuracy=0.876), row(probe="knn", test_accuracy=0.8)]
  assert results.summary(rows) == "linear 87.6%, knn 80.0%"


@pytest.mark.skipif(
  importlib.util.find_spec("tensorboard") is not None, reason="installed"
)
def test_without_tensorboard_nothing_is_written(tmp_path):
  results.write_events(tmp_path, [row()])
  assert not list(tmp_path.iterdir())
