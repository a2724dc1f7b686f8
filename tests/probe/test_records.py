import dataclasses
import json
import re

import pytest
from probe.made import (
  CONCENTRATION,
  classes_record,
  dense_record,
  diagnostics_record,
  probe_record,
  retrieval_record,
  robustness_record,
  spectrum_record,
)
from runtime.test_trackers import read_scalars

from jssl.probe import record_file
from jssl.probe.accuracy import accuracy_table, tables, transfer_table
from jssl.probe.record_file import RecordFile
from jssl.probe.records import NotMeasuredRecord

NOT_MEASURED = NotMeasuredRecord(
  part="probe", step=20, dataset="digits", features="backbone", reason="gaps"
)


def test_every_type_is_read_as_it_was_written(tmp_path):
  file = RecordFile(tmp_path)
  assert file.read() == []
  everything = [
    probe_record(probe="knn", chosen={"k": [1, 2]}),
    classes_record(),
    retrieval_record(),
    robustness_record(),
    dense_record(),
    spectrum_record(10, 0.75),
    diagnostics_record(10, "projector", missing=("lidar",)),
    CONCENTRATION,
    NOT_MEASURED,
  ]
  file.replace(everything[:3])
  for record in everything[3:]:
    file.replace([record])
  assert file.read() == everything


def test_records_are_added_and_replaced_by_features(tmp_path):
  file = RecordFile(tmp_path)
  file.replace([probe_record(), probe_record(probe="knn")])
  file.replace([probe_record(step=20)])
  file.replace([probe_record(step=20, dataset="birds")])
  file.replace([probe_record(test_accuracy=0.7)])
  assert file.done("probe") == {
    ("backbone", 10, "cluttered_digits"),
    ("backbone", 20, "cluttered_digits"),
    ("backbone", 20, "birds"),
  }
  assert len((tmp_path / "probe.jsonl").read_text().splitlines()) == 3
  assert [p.name for p in tmp_path.iterdir()] == ["probe.jsonl"]


def test_parts_are_replaced_apart(tmp_path):
  file = RecordFile(tmp_path)
  measured = diagnostics_record(10, "backbone")
  for record in (probe_record(), measured, probe_record(test_accuracy=0.7)):
    file.replace([record])
  assert file.read() == [measured, probe_record(test_accuracy=0.7)]
  key = {("backbone", 10, "cluttered_digits")}
  assert file.done("probe") == file.done("diagnostics") == key
  assert file.done("diagnostics", views=8) == key
  assert file.done("diagnostics", views=9) == set()


def test_two_probes_of_one_run_keep_each_others_records(tmp_path):
  one, two = RecordFile(tmp_path), RecordFile(tmp_path)
  one.replace([probe_record(dataset="digits")])
  two.replace([probe_record(dataset="birds")])
  assert len(one.done("probe")) == 2


@pytest.mark.parametrize(
  "line", ['{"step": 4', "7", '{"step": 4}', '{"record": "probe", "step": 4}']
)
def test_lines_that_are_no_records_are_skipped(tmp_path, line, caplog):
  path = tmp_path / "probe.jsonl"
  path.write_text(record_file.to_json(CONCENTRATION) + "\n" + line + "\n")
  file = RecordFile(tmp_path)
  assert file.read() == [CONCENTRATION]
  assert re.search(rf"Skipped 1 .* {path}", caplog.text)
  file.replace([NOT_MEASURED])
  assert len(path.read_text().splitlines()) == 2


def test_fields_of_another_type_are_no_record(tmp_path):
  wrong = {"test_accuracy": "high", "step": 1.5, "chosen": {"k": 1}, "new": 0}
  for key, value in wrong.items():
    row = json.loads(record_file.to_json(probe_record())) | {key: value}
    (tmp_path / "probe.jsonl").write_text(json.dumps(row) + "\n")
    assert RecordFile(tmp_path).read() == [], key


def test_bytes_that_are_not_text_are_skipped(tmp_path):
  good = record_file.to_json(probe_record()).encode()
  bad = good.replace(b"cluttered", b"\xff\xfe")
  (tmp_path / "probe.jsonl").write_bytes(bad + b"\n" + good + b"\n")
  assert RecordFile(tmp_path).read() == [probe_record()]


def test_the_table_has_baselines_first_and_a_column_for_each_probe():
  table = accuracy_table(
    [
      probe_record(step=2000, test_accuracy=0.812),
      probe_record(step=2000, label_fraction=0.05, label_fraction_used=0.0625),
      probe_record(step=2000, label_fraction=0.01, test_accuracy=0.3),
      probe_record(step=2000, probe="knn"),
      probe_record("random", 0, test_accuracy=0.2),
      probe_record("pixels", 0),
      probe_record(step=9),
      probe_record(dataset="birds", label_fraction=0.5),
      spectrum_record(2000, 0.5),
    ],
    "cluttered_digits",
  )
  few = ["linear (1% of labels)", "linear (6.25% of labels)"]
  assert table.headings[1:] == ["linear", "kNN", *few]
  assert table.rows == [
    ["raw pixels", "50.0 ± 1.0", "-", "-", "-"],
    ["random backbone", "20.0 ± 1.0", "-", "-", "-"],
    ["pretrained, step 9", "50.0 ± 1.0", "-", "-", "-"],
    [
      "pretrained, step 2,000",
      *("81.2 ± 1.0", "50.0 ± 1.0", "30.0 ± 1.0", "50.0 ± 1.0"),
    ],
  ]
  lines = str(table).splitlines()
  assert lines[0].startswith("cluttered_digits: test accuracy in %  ")
  assert lines[-1].startswith("pretrained, step 2,000  ")
  assert len({len(line) for line in lines}) == 1


def test_fractions_that_come_to_the_same_labels_share_a_column():
  # Four images a class, of which at least two are labelled.
  fractions = [
    probe_record(label_fraction=fraction, label_fraction_used=0.5)
    for fraction in (0.1, 0.01)
  ]
  table = accuracy_table([probe_record(), *fractions], "cluttered_digits")
  assert table.headings[1:] == ["linear", "linear (50% of labels)"]


def test_the_table_of_segmentation():
  found = [
    probe_record(),
    *(dense_record(probe=probe) for probe in ("linear", "knn")),
    dense_record("random", 0, mean_iou=0.125),
    dense_record(dataset="birds"),
  ]
  accuracy, segmentation = tables(found, "cluttered_digits")
  assert accuracy.headings[0] == "cluttered_digits: test accuracy in %"
  assert segmentation.headings == [
    "cluttered_digits: segmentation of patches in %",
    *("mean IoU, linear", "pixel accuracy, linear"),
    *("mean IoU, kNN", "pixel accuracy, kNN"),
  ]
  assert segmentation.rows == [
    ["random backbone", "12.5 ± 1.0", "90.0 ± 0.0", "-", "-"],
    ["pretrained, step 10", *2 * ["25.0 ± 1.0", "90.0 ± 0.0"]],
  ]
  (birds,) = tables(found, "birds")
  assert birds.headings[0] == "birds: segmentation of patches in %"


def test_the_table_of_classes_and_the_most_confused_pairs():
  record = classes_record(vectors="cls")
  found = [probe_record(), record, retrieval_record()]
  _, table = tables(found, "cluttered_digits")
  assert table.headings == [
    "cluttered_digits: linear probe and retrieval in %",
    *("class-balanced", "worst class", "calibration error"),
    *("mAP@100", "mAP@100, class-balanced"),
  ]
  assert table.rows == [
    ["pretrained, step 10, cls", "50.0 ± 1.0", "20.0", "4.0 ± 0.2", "-", "-"],
    ["pretrained, step 10", "-", "-", "-", "40.0", "37.5"],
  ]
  pairs = [("dog", "cat", 45), ("cat", "owl", 4), ("dog", "owl", 3)]
  assert record.most_confused(3) == pairs
  above = classes_record(confusion=[], confused=[[1, 0, 45], [0, 2, 4]])
  assert above.most_confused(1) == pairs[:1]


def test_the_table_of_several_data_sets():
  found = [
    *(probe_record(step=step, dataset="birds") for step in (10, 20)),
    probe_record("random", 0, dataset="birds"),
    probe_record(dataset="birds", step=20, label_fraction=0.1),
    probe_record(dataset="fish", step=20, probe="knn", test_accuracy=0.25),
    retrieval_record(dataset="birds", step=20),
    probe_record(dataset="fungi"),
  ]
  table = transfer_table(found, ["birds", "fish", "trees"], "backbone")
  assert table.headings[1:] == ["linear", "mAP@100", "kNN"]
  assert table.rows == [
    ["birds", "50.0 ± 1.0", "40.0", "-"],
    ["fish", "-", "-", "25.0 ± 1.0"],
    ["trees", "-", "-", "-"],
  ]


def test_the_table_of_corruptions():
  found = [robustness_record(), robustness_record("pixels", 0)]
  (table,) = tables(found, "cluttered_digits")
  assert table.headings == [
    "cluttered_digits: linear probe on corrupted images in %",
    *("clean", "corrupted", "fog", "zoom\nblur"),
  ]
  assert table.rows == [
    [name, "75.0", "50.0", "36.0", "64.0"]
    for name in ("raw pixels", "pretrained, step 10")
  ]
  assert len(str(table).splitlines()) == 5


def test_the_table_of_one_checkpoint():
  table = accuracy_table(
    [probe_record(step=10), probe_record(step=20), probe_record("pixels", 0)],
    "cluttered_digits",
    step=10,
  )
  assert [row[0] for row in table.rows] == ["raw pixels", "pretrained, step 10"]


def test_the_table_says_which_features_are_not_pooled():
  several = {"vectors": "cls of 4 blocks", "backbone": "teacher"}
  table = accuracy_table(
    [
      probe_record("pixels", 0),
      probe_record("random", 0, vectors="cls of 4 blocks"),
      probe_record(step=10, test_accuracy=0.6, backbone="teacher"),
      probe_record(step=10, probe="knn", **several),
      probe_record("student", step=10, backbone="student", vectors="mean"),
    ],
    "cluttered_digits",
  )
  assert table.rows == [
    ["raw pixels", "50.0 ± 1.0", "-"],
    ["random backbone, cls of 4 blocks", "50.0 ± 1.0", "-"],
    ["pretrained (student), step 10, mean", "50.0 ± 1.0", "-"],
    ["pretrained (teacher), step 10", "60.0 ± 1.0", "-"],
    ["pretrained (teacher), step 10, cls of 4 blocks", "-", "50.0 ± 1.0"],
  ]


def test_what_was_not_measured_is_done_for_its_settings(tmp_path):
  file, settings = RecordFile(tmp_path), {"vectors": "cls"}
  file.replace([dataclasses.replace(NOT_MEASURED, settings=settings)])
  assert len(file.done("probe", backbone="", vectors="cls")) == 1
  assert file.done("probe", vectors="pooled") == set()
  # Those of earlier versions have no settings.
  file.replace([NOT_MEASURED])
  assert len(file.done("probe")) == 1
  assert file.done("probe", vectors="cls") == set()


def test_the_summary_is_one_line():
  found = [
    probe_record(test_accuracy=0.876),
    probe_record(probe="knn", test_accuracy=0.8),
    classes_record(),
    retrieval_record(),
    robustness_record(),
    dense_record(),
    spectrum_record(10, 0.75),
    diagnostics_record(10, "projector", missing=("lidar",)),
    NOT_MEASURED,
  ]
  assert ", ".join(record.summary for record in found) == (
    "linear 87.6%, kNN 80.0%, linear class-balanced 50.0%, "
    "mAP@100 40.0%, "
    "linear 50.0% on corrupted images, 75.0% on clean ones, "
    "linear mean IoU 25.0%, collapse AUC 0.750, "
    "9 diagnostics of projector (1 not measured), probe not measured: gaps"
  )


@pytest.fixture
def write(tmp_path):
  """Writes rows, and returns the (name, step, value) that came of them."""

  def written(rows):
    record_file.write_events(tmp_path, rows)
    return read_scalars(tmp_path / "probe")

  return written


def test_events_have_names_steps_and_values(write):
  rows = [
    probe_record(step=10, test_accuracy=0.75),
    probe_record(step=20, test_accuracy=0.5, label_fraction=0.01),
    diagnostics_record(20, "projector", values={"lidar": 3}),
    # These have no scalars over steps.
    spectrum_record(20, 0.5),
    CONCENTRATION,
    NOT_MEASURED,
  ]
  name = "cluttered_digits/backbone"
  written = write(rows)
  assert written[:2] == [
    (f"probe/{name}/linear", 10, 0.75),
    # TensorBoard allows no spaces or parentheses in a tag.
    (f"probe/{name}/linear__1__of_labels_", 20, 0.5),
  ]
  assert (f"diagnostics/{name}/projector/lidar", 20, 3.0) in written
  assert len(written) == 2 + 10
