"""Verdicts on made-up records, and on runs that were made to deserve them."""

import numpy as np
import pytest
from probe import made
from report.conftest import records, write_lines

from jssl.checkpoint import Checkpoints
from jssl.report.read import read
from jssl.report.verdict import verdict


def judged(workdir, found, step=40):
  made.write_records(workdir, found)
  run = read(workdir)
  return verdict(run, made.DATASET, step)


def accuracies(by_step, **baselines):
  found = [
    made.probe_record("backbone", step, test_accuracy=accuracy)
    for step, accuracy in by_step.items()
  ]
  return found + [
    made.probe_record(kind, 0, test_accuracy=accuracy)
    for kind, accuracy in baselines.items()
  ]


SPECTRUM = [made.spectrum_record(40, 0.8)]


def test_good(workdir):
  found = accuracies({20: 0.8, 30: 0.85, 40: 0.851}, random=0.6, pixels=0.75)
  kind, text = judged(workdir, found + SPECTRUM)
  assert kind == "good"
  assert text == (
    "Better than the random backbone by 25.1 points and raw pixels by 10.1 "
    "points (linear probe, step 40); no longer improving (+0.1 points since "
    "step 30); not collapsed."
  )


def test_undertrained(workdir):
  found = accuracies({20: 0.7, 40: 0.8}, random=0.6, pixels=0.85)
  kind, text = judged(workdir, found + SPECTRUM)
  assert kind == "undertrained"
  assert text == (
    "Better than the random backbone by 20.0 points, worse than raw pixels by "
    "5.0 points (linear probe, step 40); still improving, by 10.0 points since "
    "step 20; not collapsed."
  )


def test_getting_worse(workdir):
  found = accuracies({20: 0.9, 40: 0.8}, random=0.6)
  kind, text = judged(workdir, found, step=20)
  assert kind == "good"
  assert "step 20); getting worse, by 10.0 points since step 20" in text


@pytest.mark.parametrize("auc", [0.995, 1.0])
def test_collapsed(workdir, auc):
  found = accuracies({40: 0.5}, random=0.6)
  kind, text = judged(workdir, [*found, made.spectrum_record(40, auc)])
  assert kind == "collapsed"
  assert f"(collapse AUC {auc:.3f}, at most 1)" in text


@pytest.mark.parametrize(
  ("deviation", "expected"), [(0.1, "collapsed"), (0.3, "random")]
)
def test_features_that_hardly_vary(workdir, deviation, expected):
  row = {"step": 40, "loss": 1.0, "feature_deviation": deviation}
  write_lines(workdir / "metrics.jsonl", [row])
  kind, text = judged(workdir, accuracies({40: 0.6}, random=0.6))
  assert kind == expected
  assert (f"(deviation {deviation:.2f}, about 1" in text) == (deviation < 0.2)
  # A low deviation alone is no collapse.
  assert judged(workdir, accuracies({40: 0.8}, random=0.6)).kind == "good"


@pytest.mark.parametrize(
  ("accuracy", "words"),
  [
    (0.55, "Worse than the random backbone by 5.0 points"),
    (0.609, "No better than the random backbone (+0.9 points)"),
    (0.615, "No better than the random backbone (+1.5 points)"),
  ],
)
def test_no_better_than_random(workdir, accuracy, words):
  kind, text = judged(workdir, accuracies({20: 0.5, 40: accuracy}, random=0.6))
  assert kind == "random"
  assert text.startswith(words)


def test_diverged(workdir):
  with Checkpoints(
    workdir / "broken", keep_last=2, keep_every_steps=None
  ) as broken:
    broken.save(33, {"progress": {"seconds": np.zeros(())}})
  kind, text = judged(workdir, records())
  assert kind == "diverged"
  assert "by step 33 of 40" in text


def test_unprobed(workdir):
  (workdir / "probe.jsonl").unlink()
  kind, text = verdict(read(workdir), made.DATASET, None)
  assert kind == "unprobed"
  assert f"jssl probe --workdir={workdir}" in text


def test_without_baselines_and_with_one_checkpoint(workdir):
  kind, text = judged(workdir, accuracies({40: 0.5}))
  assert kind == "good"
  assert text.startswith("50.0% accuracy, without a baseline to compare with")
  assert "too few checkpoints are probed to say if it still improves" in text
