import importlib.util
import json
import sys
import types

import pytest

from jssl.probe import records
from jssl.probe.records import Log


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
  lines = records.table(rows, "digits").splitlines()
  assert lines[0].split("  ")[0] == "digits: test accuracy, %"
  names = ["raw pixels", "random backbone", "step 9", "step 20"]
  assert [line.split("  ")[0] for line in lines[1:]] == names
  assert "linear 1%" in lines[0]
  assert "81.2 ± 1.0" in lines[-1]
  assert len({len(line) for line in lines}) == 1


def test_the_summary_is_one_line():
  rows = [row(test_accuracy=0.876), row(probe="knn", test_accuracy=0.8)]
  assert records.summary(rows) == "linear 87.6%, knn 80.0%"


EVENTS = all(map(importlib.util.find_spec, ("tensorboard", "tensorflow")))


class Recorder:
  """In place of clu's writer, which needs TensorFlow."""

  def __init__(self, logdir, *, just_logging, asynchronous):
    assert (just_logging, asynchronous) == (False, False)
    self.logdir, self.written, self.closed = logdir, [], False

  def write_scalars(self, step, scalars):
    assert not self.closed
    assert all(type(value) is float for value in scalars.values())
    self.written += [(name, step, value) for name, value in scalars.items()]

  def close(self):
    self.closed = True


def events_of(logdir):
  """Reads what TensorBoard would show."""
  from tensorboard.backend.event_processing import event_accumulator
  from tensorboard.util import tensor_util

  read = event_accumulator.EventAccumulator(
    str(logdir), size_guidance={event_accumulator.TENSORS: 0}
  ).Reload()
  return [
    (name, event.step, tensor_util.make_ndarray(event.tensor_proto).item())
    for name in read.Tags()["tensors"]
    for event in read.Tensors(name)
  ]


@pytest.fixture
def write(tmp_path, monkeypatch):
  """Writes rows, and returns the (name, step, value) that came of them."""
  if EVENTS:

    def events(rows):
      records.write_events(tmp_path, rows)
      return events_of(tmp_path / "probe")

    return events
  made = []

  def create(*arguments, **keywords):
    made.append(Recorder(*arguments, **keywords))
    return made[-1]

  clu_writers = types.ModuleType("clu.metric_writers")
  clu_writers.create_default_writer = create
  monkeypatch.setitem(sys.modules, clu_writers.__name__, clu_writers)
  monkeypatch.setattr(importlib.util, "find_spec", lambda name: name)

  def recorded(rows):
    records.write_events(tmp_path, rows)
    (writer,) = made
    assert writer.closed
    assert writer.logdir == str(tmp_path / "probe")
    return writer.written

  return recorded


def test_events_have_names_steps_and_values(write):
  about = {"step": 20, "dataset": "digits", "features": "backbone"}
  rows = [
    row(step=10, test_accuracy=0.75),
    row(step=20, test_accuracy=0.5, probe="knn", label_fraction=0.01),
    {
      **about,
      "measure": "diagnostics",
      "at": "backbone",
      "values": {"alignment": 0.25, "rank_me": 3, "uniformity": -2.5},
      "not_measured": {"lidar": "one view"},
    },
    {
      **about,
      "measure": "diagnostics",
      "at": "projector",
      "values": {"alignment": 0.125},
      "not_measured": {},
    },
    # Of these nothing is a scalar over steps.
    {**about, "measure": "spectrum", "collapse_auc": 0.5},
    {**about, "measure": "probe", "not_measured": "labels have gaps"},
  ]
  assert sorted(write(rows)) == [
    ("diagnostics/digits/backbone/backbone/alignment", 20, 0.25),
    ("diagnostics/digits/backbone/backbone/rank_me", 20, 3.0),
    ("diagnostics/digits/backbone/backbone/uniformity", 20, -2.5),
    ("diagnostics/digits/backbone/projector/alignment", 20, 0.125),
    ("probe/digits/backbone/knn 1%", 20, 0.5),
    ("probe/digits/backbone/linear", 10, 0.75),
  ]


@pytest.mark.skipif(
  importlib.util.find_spec("tensorboard") is not None, reason="installed"
)
def test_without_tensorboard_nothing_is_written(tmp_path):
  records.write_events(tmp_path, [row()])
  assert not list(tmp_path.iterdir())
