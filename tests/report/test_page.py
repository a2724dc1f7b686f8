import dataclasses
import html.parser
import json

import numpy as np
import pytest
from probe import made

from jssl.probe import features
from jssl.probe.record_file import RecordFile, to_json
from jssl.probe.records import ClassesRecord, NotMeasuredRecord, ProbeRecord
from jssl.report import page, samples
from jssl.report.read import read

VOID = {"meta", "link", "img", "br"}


class Page(html.parser.HTMLParser):
  """What a reader sees, and what a browser would fetch."""

  def __init__(self, text):
    super().__init__()
    self.links, self.ids, self.tags, self.rows = [], [], [], []
    self.open, self.visible = [], ""
    self.feed(text)
    self.close()
    # As a browser shows it.
    self.visible = " ".join(self.visible.split())
    assert not self.open

  def handle_starttag(self, tag, attributes):
    self.tags.append((tag, dict(attributes)))
    for name, value in attributes:
      if name in ("src", "href", "xlink:href", "data", "srcset", "action"):
        self.links.append(value)
      if name == "id":
        self.ids.append(value)
    if tag not in VOID:
      self.open.append(tag)
    if tag == "tr":
      self.rows.append([])

  def handle_startendtag(self, tag, attributes):
    self.handle_starttag(tag, attributes)
    if tag not in VOID:
      self.open.pop()

  def handle_endtag(self, tag):
    assert self.open.pop() == tag

  def handle_data(self, data):
    if self.open and self.open[-1] in ("td", "th"):
      self.rows[-1].append(data)
    if not {"style", "title"} & {*self.open}:
      self.visible += data


@pytest.fixture
def cheap(monkeypatch):
  """The parts that compile or iterate, replaced by small arrays."""
  images = np.zeros((8, 4, 4, 3), np.uint8)
  monkeypatch.setattr(
    samples, "augmented", lambda *_, **__: (images, np.stack([images] * 4))
  )
  monkeypatch.setattr(samples, "project_2d", lambda h: h[:, :2])
  drawn = [("images", images), ("PCA", images)]
  monkeypatch.setattr(samples, "token_maps", lambda *_, **__: drawn)


def rendered(workdir):
  return Page(page.render(read(workdir)))


def test_whole_page(workdir, cheap):
  found = rendered(workdir)
  accuracies = [f"{x} ± 1.2" for x in (0.2, 1.2, 2.2, 4.2, 3.2)]
  assert ["raw pixels", *accuracies] in found.rows
  assert ["pretrained, step 20", *[f"2{x}" for x in accuracies]] in found.rows
  for text in (
    "simclr on cluttered_digits",
    "At step 20, pretrained features classify 20.2% (linear), 21.2% (MLP), "
    "22.2% (kNN) of the test images of cluttered_digits correctly.",
    "Better than the random backbone by 10.0 points and raw pixels by 20.0",
    "30 of 40",
    "2,000",  # images/s, the median
    "pretrained, 30.2%",
    "pretrained, AUC 0.789",
    "random backbone, AUC 0.876",
    "60 test features of cluttered_digits at step 20",
    "2 starts, 20.0 s in total",
    "160.0 s passed between starts, and 3 steps were repeated.",
    "Until the first step: 3.2 s (programs compiled: 4, from the cache: 0), ",
  ):
    assert text in found.visible
  assert ["steps", "12.0 s", "60.0%"] in found.rows
  assert ["waiting for a batch", "2.0 s", "10.0%"] in found.rows
  # The probe's, beside it, of two starts.
  assert ["features", "14.0 s", "17.5%"] in found.rows
  assert ["classifiers", "24.0 s", "30.0%"] in found.rows
  assert ["waiting for a checkpoint", "20.0 s", "25.0%"] in found.rows
  assert ["crop_min_area", "0.5"] in found.rows
  assert ["name", '"vit"'] in found.rows
  assert "missing" not in [a.get("class") for _, a in found.tags]
  assert [tag for tag, _ in found.tags].count("svg") == 6


def test_page_needs_nothing_else(workdir, cheap):
  text = page.render(read(workdir))
  found = Page(text)
  assert all(link.startswith(("data:", "#")) for link in found.links)
  assert len(found.ids) == len({*found.ids})
  assert {link for link in found.links if link.startswith("#")} <= {
    f"#{name}" for name in found.ids
  }
  for outside in ("@import", "url(http", "url(/", "<script", "<iframe"):
    assert outside not in text
  tags = [tag for tag, _ in found.tags]
  assert tags.count("h1") == 1
  assert tags.count("figcaption") == tags.count("figure") == 15
  for tag, attributes in found.tags:
    if tag == "img":
      assert attributes["alt"]
    if tag == "svg":
      assert attributes["role"] == "img"
      assert attributes["aria-label"]


@pytest.mark.parametrize(
  ("lost", "sentence"),
  [
    ("probe.jsonl", "The run has not been probed yet"),
    ("probe.jsonl", "No checkpoint has been probed yet"),
    ("probe.jsonl", "No spectrum has been measured yet"),
    ("metrics.jsonl", "The training has not logged a step yet"),
    ("features", "This workdir has no cached test features"),
    ("goodput.jsonl", "No time of the training was recorded"),
    ("probe_goodput.jsonl", "No time of the probe was recorded"),
  ],
)
def test_missing_piece_leaves_a_sentence(workdir, cheap, lost, sentence):
  (workdir / lost).rename(workdir / "elsewhere")
  assert sentence in rendered(workdir).visible


def test_new_workdir(tmp_path, config, cheap):
  (tmp_path / "config.json").write_text(json.dumps(config))
  found = rendered(tmp_path)
  assert "0 of 40" in found.visible
  assert f"--workdir={tmp_path}" in found.visible


def test_baselines_alone(workdir, cheap):
  lines = (workdir / "probe.jsonl").read_text().splitlines()
  kept = [line for line in lines if '"features": "backbone"' not in line]
  (workdir / "probe.jsonl").write_text("\n".join(kept))
  found = rendered(workdir)
  assert [row[0] for row in found.rows].count("raw pixels") == 1
  assert "No checkpoint has been probed yet" in found.visible


def test_data_set_that_is_not_here(workdir, config):
  config["data"]["name"] = "not_prepared"
  config["data"]["data_dir"] = str(workdir / "none")
  (workdir / "config.json").write_text(json.dumps(config))
  found = rendered(workdir)
  assert "The views cannot be drawn" in found.visible
  assert "python -m jssl.data.prepare" in found.visible


def test_collapsed_features(workdir, cheap):
  path = workdir / "features" / "cluttered_digits-test-step20-0a1b.npy"
  h, labels, _ = features.cached(path, num_classes=0)
  features.write(path, len(h), [(np.ones_like(h), labels)])
  assert "they have collapsed" in rendered(workdir).visible


def test_another_data_set_has_a_table_of_its_own(workdir, cheap):
  path = workdir / "probe.jsonl"
  rows = path.read_text()
  path.write_text(rows + rows.replace("cluttered_digits", "fashion"))
  heads = [row[0] for row in rendered(workdir).rows if row[1:2] == ["linear"]]
  assert heads == [
    f"{name}: test accuracy in %" for name in ("cluttered_digits", "fashion")
  ]


def test_segmentation_has_a_table_of_its_own(workdir, cheap):
  made.write_records(workdir, [made.probe_record(), made.dense_record()])
  heads = [row[0] for row in rendered(workdir).rows if row[1:2]]
  assert "cluttered_digits: segmentation of patches in %" in heads


def test_names_are_escaped(workdir, config, cheap):
  name = '<b>$title & "x" \' ${'
  config["data"]["name"] = name
  config["data"]["data_dir"] = "<script>alert(1)</script>"
  (workdir / "config.json").write_text(json.dumps(config))
  rows = (workdir / "probe.jsonl").read_text().splitlines()
  rows = [json.loads(row) | {"dataset": name} for row in rows]
  (workdir / "probe.jsonl").write_text("\n".join(map(json.dumps, rows)))
  found = rendered(workdir)
  assert not {"b", "i", "script"} & {tag for tag, _ in found.tags}
  assert f"simclr on {name}" in found.visible
  assert ["data_dir", '"<script>alert(1)</script>"'] in found.rows
  assert [f"{name}: test accuracy in %", "linear", "MLP", "kNN"] in [
    row[:4] for row in found.rows
  ]


def test_what_could_not_be_probed_says_why(workdir, cheap):
  lost = NotMeasuredRecord(
    part="probe",
    step=30,
    dataset="cluttered_digits",
    features="backbone",
    reason="2 of 9 rows of features are not <finite>",
  )
  RecordFile(workdir).replace([lost])
  found = rendered(workdir)
  why = "backbone, step 30: probe: 2 of 9 rows of features are not <finite>"
  assert why in found.visible


def test_the_lead_says_where_pretraining_loses(workdir, cheap):
  changed = {("pixels", "knn"): 0.5, ("pixels", "mlp"): 0.22}
  made.write_records(
    workdir,
    [
      dataclasses.replace(record, test_accuracy=changed[key])
      if isinstance(record, ProbeRecord)
      and (key := (record.features, record.probe)) in changed
      else record
      for record in read(workdir).records
    ],
  )
  # The MLP is within the noise.
  assert " Worse than raw pixels with kNN by 27.7 points." in (
    rendered(workdir).visible
  )


def test_a_set_without_labels_has_a_spectrum(workdir, cheap):
  path = workdir / "probe.jsonl"
  lines = path.read_text().splitlines()
  kept = [line for line in lines if '"record": "probe"' not in line]
  path.write_text("\n".join(kept) + "\n")
  found = rendered(workdir)
  assert "No spectrum has been measured yet" not in found.visible
  assert "The collapse AUC is 0.789 at step 40" in found.visible


def test_a_teacher_is_the_headline_and_its_student_beside_it(
  workdir, config, cheap
):
  config["objective"] = {
    "name": "byol",
    "projector": {"hidden_dims": (), "out_dim": 8},
    "predictor": {"hidden_dims": (), "out_dim": 8},
  }
  (workdir / "config.json").write_text(json.dumps(config))
  found = rendered(workdir)
  assert "of an earlier version of jssl, which evaluated" in found.visible
  made.write_records(
    workdir,
    [
      made.probe_record("student", 20, backbone="student", test_accuracy=0.6),
      made.probe_record(step=20, backbone="teacher", test_accuracy=0.7),
    ],
  )
  found = rendered(workdir)
  assert "earlier version" not in found.visible
  assert "classify 70.0% (linear)" in found.visible
  assert "features of the averaged backbone (teacher)" in found.visible
  for text in ("pretrained (student), 60.0%", "pretrained (teacher), 70.0%"):
    assert text in found.visible
  rows = [row for row in found.rows if row[0].startswith("pretrained")]
  assert rows == [
    ["pretrained (student), step 20", "60.0 ± 1.0"],
    ["pretrained (teacher), step 20", "70.0 ± 1.0"],
  ]


def test_classes_from_the_worst_and_their_confusions(workdir, cheap):
  record = ClassesRecord(
    dataset=made.DATASET,
    features="backbone",
    backbone="student",
    step=20,
    probe="linear",
    vectors="pooled",
    seeds=2,
    balanced_accuracy=0.75,
    balanced_accuracy_std=0.0,
    calibration_error=0.1,
    calibration_error_std=0.0,
    names=["cat", "dog", "unseen"],
    images=[8, 4, 0],
    accuracy=[1.0, 0.5, 0.0],
    confusion=[[16, 0, 0], [3, 4, 1], [0, 0, 0]],
    confused=[],
  )
  with (workdir / "probe.jsonl").open("a") as file:
    file.write(to_json(record) + "\n")
  rows = rendered(workdir).rows
  start = rows.index(["class", "test images", "accuracy in %"])
  assert rows[start + 1 : start + 10] == [
    ["dog", "4", "50.0"],
    ["cat", "8", "100.0"],
    ["class", "cat", "dog", "unseen"],
    ["cat", "100", "0", "0"],
    ["dog", "38", "50", "12"],
    ["unseen", "0", "0", "0"],
    ["class", "predicted", "test images"],
    ["dog", "cat", "1.5"],
    ["dog", "unseen", "0.5"],
  ]
