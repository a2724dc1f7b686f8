"""The whole study, small, on the embedded set."""

import html
import json
import re
import subprocess
import sys
from xml.etree import ElementTree

import numpy as np
import pytest

from jssl.config.parse import parse
from jssl.kernel_regime.classifiers import kernel_accuracy
from jssl.kernel_regime.losses import Contrastive
from jssl.kernel_regime.psd import with_jitter
from jssl.kernel_regime.solvers import alpha_max, ridge_closed_form
from jssl.kernel_regime.study import dataset, evaluate, report, run
from jssl.kernel_regime.study.config import KernelStudy
from jssl.kernel_regime.study.experiments import Experiment
from jssl.kernel_regime.study.spirals import Spirals

CONFIG = """
from ml_collections import ConfigDict


def get_config():
  return ConfigDict({
    "data": {
      "name": "cluttered_digits", "batch_size": 40, "image_size_px": 32
    },
    "augment": {"crop_size_px": 32, "crop_min_area": 0.6},
    "kernel": {"name": "rbf"},
    "problem": {
      "images": 40, "views": 2, "test_images": 30, "folds": 2, "alpha": 0.01,
    },
    "sweep": {
      "views": (2,), "labels": (20, 40), "betas": (0.0, 0.4),
      "alphas": (0.0, 0.01),
    },
  })
"""


def config(**problem):
  values = {}
  exec(CONFIG, values)
  found = values["get_config"]()
  found.sweep.update(problem.pop("sweep", {}))
  found.problem.update(problem)
  return parse(found, KernelStudy)


@pytest.fixture(scope="module", autouse=True)
def no_spirals():
  """Maps that cost nothing; test_spirals.py has real ones."""

  def make_spirals(noise, *, seed):
    drawn = np.random.default_rng(seed)
    maps = drawn.normal(size=(2, 8, 8, 2))
    points, arm = drawn.uniform(size=(6, 2)), np.arange(6) % 2
    return Spirals(noise, points, arm, *maps, [0.5, 0.75], [0.5, 1.0], 0.0)

  with pytest.MonkeyPatch.context() as patched:
    patched.setattr(run, "make_spirals", make_spirals)
    yield


@pytest.fixture(scope="module")
def done(tmp_path_factory):
  """A workdir, the log lines of the study, and its text."""
  workdir, lines = tmp_path_factory.mktemp("study"), []
  text, succeeded = run.run(
    config(), workdir, command="again", log=lines.append
  )
  assert succeeded
  return workdir, lines, text


@pytest.fixture(scope="module")
def found(done):
  return json.loads((done[0] / "kernels.json").read_text())


def of(rows, features, **case):
  (row,) = (
    row
    for row in rows
    if row["experiment"]["features"] == features
    and case.items() <= row["experiment"].items()
  )
  return row


def test_numbers_are_those_of_the_kernels(done, found):
  """From the Gram matrix that was left, by direct calls."""
  gram = dataset.load(done[0] / "gram.npz")
  assert gram.k.shape == (120, 120)
  own, at = gram.image_rows(), gram.view_rows(2)
  raw = kernel_accuracy(
    "svm",
    gram.k[80:, 80:],
    gram.labels,
    gram.k_test[:, 80:],
    gram.labels_test,
    folds=2,
  )
  assert of(found["main"], "raw")["svm"] == raw._asdict()
  k, ids = with_jitter(gram.k[:80, :80], 1e-6), np.arange(80) // 2
  alpha = 0.01 * alpha_max(k, Contrastive(), ids)
  m = ridge_closed_form(k, Contrastive(), ids, alpha=alpha, d_out=40)
  z, z_test = gram.k[own][:, at] @ m.T, gram.k_test[:, at] @ m.T
  induced = kernel_accuracy(
    "svm", z @ z.T, gram.labels, z_test @ z.T, gram.labels_test, folds=2
  )
  row = of(found["main"], "contrastive", alpha=0.01)
  assert row["svm"] == induced._asdict()
  assert row["embedding"]["alpha"] == pytest.approx(alpha)


def test_closed_forms_reach_their_minimum(found):
  without = [row for row in found["main"] if row["experiment"]["alpha"] == 0]
  assert len(without) == 3
  for row in without:
    assert row["embedding"]["gap"] == pytest.approx(0, abs=1e-9)
  for name in ("contrastive", "non_contrastive"):
    assert of(found["main"], name, alpha=0.01)["embedding"]["gap"] > 1e-4


def test_sweeps_have_a_row_each(found):
  sweeps = {
    axis: sorted((row["value"], row["experiment"]["features"]) for row in rows)
    for axis, rows in found["sweeps"].items()
  }
  embedded = ["contrastive", "non_contrastive", "supervised"]
  every = ["raw", "raw_augmented", *embedded]
  assert sweeps == {
    "views": sorted((2, features) for features in every[1:]),
    "labels": sorted((labels, f) for labels in (20, 40) for f in every),
    "beta": [(beta, "non_contrastive") for beta in (0, 0.4)],
    "alpha": sorted((alpha, f) for alpha in (0, 0.01) for f in embedded),
  }
  for axis, rows in found["sweeps"].items():
    assert all(row["experiment"][axis] == row["value"] for row in rows)


def test_says_where_it_is_and_from_what(done, found):
  workdir, lines, _ = done
  # 8 of the main setting, 5 of 20 labels and 1 of beta.
  assert len((workdir / "results.jsonl").read_text().splitlines()) == 14
  assert re.match(
    r"Computed RBF\(bandwidth=\d.* of 120 points and 30 test", lines[0]
  )
  numbers = [line.split(" ")[0] for line in lines[1:]]
  assert numbers == [f"[{n}/14]" for n in range(1, 15)]
  assert found["command"] == "again"
  assert found["config"] == json.loads((workdir / "config.json").read_text())
  assert found["kernel"].startswith("RBF(bandwidth=")
  assert found["spirals"][0] == {
    "noise": "along",
    "raw_auc": [0.5, 0.75],
    "embedding_auc": [0.5, 1.0],
    "gap": 0.0,
  }
  assert found["seconds"]["experiments"] > 0


def test_tables(done, found):
  workdir, _, text = done
  assert (workdir / "kernels.md").read_text() == text
  table = text.split("## ")[1]
  accuracy = of(found["main"], "raw")["svm"]["test_accuracy"]
  assert re.search(rf"\| raw kernel +\| +{accuracy:.1%} \|", table)
  names = re.findall(r"^\| ([a-z][^|]*?) +\|", table, re.MULTILINE)
  # The one that is drawn comes last.
  assert names == [
    "raw kernel",
    "raw kernel, views added",
    "supervised-augmented, no ridge",
    "supervised-augmented",
    "non-contrastive, no ridge",
    "non-contrastive",
    "contrastive, no ridge",
    "contrastive",
  ]
  assert re.findall(r"^## (.*)$", text, re.MULTILINE) == [
    *("Accuracy", "Embeddings", "Sweeps", "Two spirals")
  ]


def test_the_page_needs_nothing_else(done):
  page = (done[0] / "kernels.html").read_text()
  drawings = re.findall(r"<svg.*?</svg>", page, re.DOTALL)
  # Each is a file besides.
  names = ("spectra", "gram", "sweeps", "spirals")
  files = [(done[0] / f"{name}.svg").read_text() for name in names]
  # Colours of a page follow its scheme, light or dark.
  drawings = [
    re.sub(r"var\(--[\w-]+, (#\w+)\)", r"\1", svg) for svg in drawings
  ]
  assert [svg.strip() for svg in files] == drawings
  labels = [re.search(r'aria-label="([^"]*)"', svg)[1] for svg in drawings]
  assert labels == [
    "Spectra of the induced kernels",
    "Kernels of the images, ordered by class",
    "Test accuracy of the sweeps",
    "Two spirals, and maps of the plane",
  ]
  texts = [
    {e.text for e in ElementTree.fromstring(svg).iter() if e.text}
    for svg in drawings
  ]
  assert {"raw kernel", "contrastive", "supervised-augmented"} <= texts[1]
  assert {"labelled images", "non-contrastive", "20", "40"} <= texts[2]
  assert {"views: along noise"} <= texts[3]
  # Three matrices and a colour bar; eight maps.
  assert [svg.count("<image") for svg in drawings][:3] == [0, 4, 0]
  assert drawings[3].count("<image") >= 8
  assert not re.search(r'(src|href)="(?!data:|#)', page)


def test_what_is_done_is_not_done_again(done, monkeypatch, tmp_path, caplog):
  workdir = tmp_path / "W"
  workdir.mkdir()
  for name in ("config.json", "gram.npz", "results.jsonl"):
    (workdir / name).write_bytes((done[0] / name).read_bytes())
  ran = []

  def evaluated(grams, experiment, config):
    ran.append(experiment)
    return rows[experiment]

  lines = (workdir / "results.jsonl").read_text().splitlines()
  rows = {
    Experiment(**row["experiment"]): row for row in map(json.loads, lines)
  }
  monkeypatch.setattr(evaluate, "evaluate", evaluated)
  monkeypatch.setattr(dataset, "compute_grams", None)
  # Drawn anew, at a second each.
  monkeypatch.setattr(report, "draw_figures", lambda results: {})
  monkeypatch.setattr(report, "to_html", lambda results, figures: "")
  assert run.run(config(), workdir, command="again") == (done[2], True)
  assert not ran
  # A line that a kill has cut off, and damaged ones, are done again.
  wrong = {**json.loads(lines[1]), "svm": {"test_accuracy": "high"}}
  damaged = [lines[0][:-40], json.dumps(wrong), "[1, 2]", *lines[2:]]
  results = "\n".join(damaged).encode() + b"\n\xff\n"
  (workdir / "results.jsonl").write_bytes(results)
  run.run(config(), workdir, command="again")
  assert f"Skipped 3 damaged rows of {workdir / 'results.jsonl'}" in caplog.text
  assert "Skipped 1 damaged results of" in caplog.text
  assert ran == [
    Experiment(**json.loads(line)["experiment"]) for line in lines[:2]
  ]
  ran.clear()
  run.run(config(), workdir, command="again")
  assert not ran


def test_what_cannot_be_done_leaves_the_rest(done, tmp_path):
  """Of a kernel of views that isn't positive semidefinite."""
  workdir = tmp_path / "W"
  workdir.mkdir()
  (workdir / "config.json").write_bytes((done[0] / "config.json").read_bytes())
  gram = dataset.load(done[0] / "gram.npz")
  k = gram.k.copy()
  # Of two images, neither of which is among the first 20.
  k[50, 70] = k[70, 50] = 5.0
  dataset.save(workdir / "gram.npz", gram._replace(k=k))
  lines = []
  text, succeeded = run.run(
    config(), workdir, command="again", log=lines.append
  )
  assert not succeeded
  found = json.loads((workdir / "kernels.json").read_text())
  whole = json.loads((done[0] / "kernels.json").read_text())
  assert of(found["main"], "raw")["svm"] == of(whole["main"], "raw")["svm"]
  failed = of(found["main"], "contrastive", alpha=0.01)
  reason = failed["failure"]
  assert re.match(
    r"The Gram matrix of N=80 points is not .* jitter=\S+ would", reason
  )
  assert failed["svm"] is failed["embedding"] is None
  # Those of 20 labels are of other points.
  supervised = of(found["sweeps"]["labels"], "supervised", labels=20)
  assert (
    supervised["svm"]
    == (of(whole["sweeps"]["labels"], "supervised", labels=20)["svm"])
  )
  line = f"contrastive, labels=40, views=2, alpha=0.01: failed: {reason}"
  assert f"- {line}\n" in text
  row = r"\| contrastive \(failed\) +\| +- \| +- \|"
  assert re.search(row, text)
  for end in ("md", "html"):
    text = html.unescape((workdir / f"kernels.{end}").read_text())
    assert f"failed: {reason}" in text
  assert any(line in words for words in lines)
  # The raw kernel, and a colour bar.
  assert (workdir / "gram.svg").read_text().count("<image") == 2
  assert not (workdir / "spectra.svg").exists()
  kept = (workdir / "results.jsonl").read_text().splitlines()
  assert 0 < len(kept) < 14
  assert all(json.loads(row)["failure"] is None for row in kept)
  # With a kernel that will do they are tried again.
  dataset.save(workdir / "gram.npz", gram)
  run.run(config(), workdir, command="again")
  found = json.loads((workdir / "kernels.json").read_text())
  mended = of(found["main"], "contrastive", alpha=0.01)
  assert mended["failure"] is None
  assert mended["svm"] == of(whole["main"], "contrastive", alpha=0.01)["svm"]


def test_a_workdir_belongs_to_its_config(done):
  with pytest.raises(ValueError, match=r"problem\.jitter: was 1e-06, now"):
    run.run(config(jitter=1e-4), done[0], command="again")


@pytest.mark.parametrize(
  ("changed", "message"),
  [
    (
      {"memory_limit_gib": 1e-4},
      r"problem\.images=40 .*problem\.memory_limit_gib\) needs",
    ),
    ({"views": 1}, r"problem\.views=1"),
    ({"d_out": 81}, r"d_out=81 .*, 80"),
  ],
)
def test_a_bad_config_leaves_nothing(changed, message, tmp_path):
  with pytest.raises(ValueError, match=message):
    run.run(config(**changed), tmp_path / "W", command="again")
  assert not (tmp_path / "W").exists()


def test_too_few_labels_leave_the_workdir_to_the_next_try(
  done, tmp_path, monkeypatch
):
  kept = dataset.load(done[0] / "gram.npz")
  monkeypatch.setattr(dataset, "compute_grams", lambda config: kept)
  changed = config(sweep={"labels": (11, 40)})
  with pytest.raises(
    ValueError, match=r"sweep\.labels: a class has 1 of 11 label"
  ):
    run.run(changed, tmp_path / "W", command="again")
  assert not (tmp_path / "W").exists()


# ---- Command -----------------------------------------------------------------


def command(*arguments):
  return subprocess.run(
    [sys.executable, "-m", "jssl.study", *arguments],
    capture_output=True,
    text=True,
    check=False,
  )


@pytest.fixture
def config_file(tmp_path):
  path = tmp_path / "config.py"
  path.write_text(CONFIG)
  return f"--config={path}"


def test_wrong_flags_of_the_command(config_file, tmp_path):
  workdir = f"--workdir={tmp_path / 'W'}"
  wrong = command("kernels", config_file, workdir, "--seeds=2")
  assert "--seeds is a flag of `methods`" in wrong.stderr
  assert wrong.returncode == 1


@pytest.mark.slow
def test_the_command(config_file, tmp_path, done):
  w = tmp_path / "W"
  arguments = ("kernels", config_file, f"--workdir={w}")
  wrong = command(*arguments, "--config.problem.view=3")
  assert wrong.returncode == 1
  assert "did you mean 'views'" in wrong.stderr
  assert "Traceback" not in wrong.stderr
  ran = command(*arguments, "--config.sweep.labels=(20,)")
  assert ran.returncode == 0, ran.stderr
  assert ran.stdout == (w / "kernels.md").read_text()
  one, two = (
    json.loads((d / "kernels.json").read_text()) for d in (w, done[0])
  )
  assert of(one["main"], "raw")["svm"] == of(two["main"], "raw")["svm"]
  # Again: nothing is left to do.
  again = command(*arguments, "--config.sweep.labels=(20,)")
  assert again.returncode == 0, again.stderr
  assert "SVM" not in again.stderr
  assert again.stdout == ran.stdout
