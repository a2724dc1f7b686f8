"""Verdicts on made-up records, and on real runs of each kind."""

import os
import subprocess
import sys

import numpy as np
import pytest
from ml_collections import ConfigDict
from probe import made
from report.conftest import records, write_lines

from jssl.checkpoint import Checkpoints
from jssl.report.read import read
from jssl.report.verdict import verdict


def verdict_of(workdir, found, step=40):
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
  kind, text = verdict_of(workdir, found + SPECTRUM)
  assert kind == "good"
  assert text == (
    "Better than the random backbone by 25.1 points and raw pixels by 10.1 "
    "points (linear probe, step 40); no longer improving (+0.1 points since "
    "step 30); not collapsed."
  )


def test_undertrained(workdir):
  found = accuracies({20: 0.7, 40: 0.8}, random=0.6, pixels=0.85)
  kind, text = verdict_of(workdir, found + SPECTRUM)
  assert kind == "undertrained"
  assert text == (
    "Better than the random backbone by 20.0 points, worse than raw pixels by "
    "5.0 points (linear probe, step 40); still improving, by 10.0 points since "
    "step 20; not collapsed."
  )


def test_getting_worse(workdir):
  found = accuracies({20: 0.9, 40: 0.8}, random=0.6)
  kind, text = verdict_of(workdir, found, step=20)
  assert kind == "good"
  assert "step 20); worse at the last step 40, by 10.0 points." in text


@pytest.mark.parametrize("auc", [0.995, 1.0])
def test_collapsed(workdir, auc):
  found = accuracies({40: 0.5}, random=0.6)
  kind, text = verdict_of(workdir, [*found, made.spectrum_record(40, auc)])
  assert kind == "collapsed"
  assert f"(collapse AUC {auc:.3f}, at most 1)" in text


@pytest.mark.parametrize(
  ("deviations", "expected"),
  [
    ((0.5, 0.9, 0.3), "collapsed"),
    ((0.5, 0.9, 0.6), "random"),
    # Untrained backbones may have less than this.
    ((0.16, 0.16, 0.16), "random"),
    ((0.0, 0.0, 0.0), "random"),
    ((np.nan, 0.5, 0.1), "collapsed"),
  ],
)
def test_features_that_become_alike(workdir, deviations, expected):
  rows = [
    {"step": step, "loss": 1.0, "feature_deviation": deviation}
    for step, deviation in zip((10, 20, 40), deviations, strict=True)
  ]
  write_lines(workdir / "metrics.jsonl", rows)
  at_chance = accuracies({40: 0.6}, random=0.6)
  kind, text = verdict_of(workdir, at_chance)
  assert kind == expected
  reason = f"(deviation {deviations[-1]:.2f}, once {max(deviations[1:]):.2f})"
  assert (reason in text) == (expected == "collapsed")
  # This alone is no collapse, nor is it one without the baseline.
  better = accuracies({40: 0.8}, random=0.6)
  assert verdict_of(workdir, better).kind == "good"
  assert verdict_of(workdir, accuracies({40: 0.6})).kind == "unprobed"
  (workdir / "probe.jsonl").unlink()
  assert verdict(read(workdir), made.DATASET, None).kind == "unprobed"


def test_collapse_is_denied_only_if_it_was_measured(workdir):
  found = accuracies({20: 0.8, 40: 0.8}, random=0.6)
  assert "collapse" not in verdict_of(workdir, found).text
  assert "; not collapsed." in verdict_of(workdir, found + SPECTRUM).text


@pytest.mark.parametrize(
  ("pixels", "expected"), [(0.79, "good"), (0.805, "good"), (0.83, "weak")]
)
def test_below_raw_pixels(workdir, pixels, expected):
  found = accuracies({20: 0.8, 40: 0.8}, random=0.6, pixels=pixels)
  kind, text = verdict_of(workdir, found)
  assert kind == expected
  assert ("worse than raw pixels by 3.0 points" in text) == (kind == "weak")


@pytest.mark.parametrize(
  ("accuracy", "words"),
  [
    (0.55, "Worse than the random backbone by 5.0 points"),
    (0.609, "No better than the random backbone (+0.9 points)"),
    (0.615, "No better than the random backbone (+1.5 points)"),
  ],
)
def test_no_better_than_random(workdir, accuracy, words):
  kind, text = verdict_of(
    workdir, accuracies({20: 0.5, 40: accuracy}, random=0.6)
  )
  assert kind == "random"
  assert text.startswith(words)


def test_diverged(workdir):
  with Checkpoints(
    workdir / "broken", keep_last=2, keep_every_steps=None
  ) as broken:
    broken.save(33, {"progress": {"seconds": np.zeros(())}})
  kind, text = verdict_of(workdir, records())
  assert kind == "diverged"
  assert "by step 33 of 40" in text


def test_unprobed(workdir):
  (workdir / "probe.jsonl").unlink()
  kind, text = verdict(read(workdir), made.DATASET, None)
  assert kind == "unprobed"
  assert f"jssl probe --workdir={workdir}" in text


def test_without_the_random_backbone(workdir):
  kind, text = verdict_of(workdir, accuracies({40: 0.5}, pixels=0.4))
  assert kind == "unprobed"
  assert text.startswith("50.0% accuracy (linear probe, step 40), without that")
  assert 'probe.baselines=("pixels", "random")' in text


def test_one_checkpoint(workdir):
  kind, text = verdict_of(workdir, accuracies({40: 0.5}, random=0.3))
  assert kind == "good"
  assert "too few checkpoints are probed to say if it still improves" in text


CLUTTERED = {
  "data": {"name": "cluttered_digits", "batch_size": 128, "image_size_px": 32},
  "augment": {
    **{"crop_size_px": 32, "crop_min_area": 0.4, "jitter_probability": 0.8},
    **{"brightness": 0.4, "contrast": 0.4, "saturation": 0.4, "hue": 0.1},
    "grayscale_probability": 0.2,
  },
  "model": {
    **{"name": "vit", "patch_size_px": 8, "width": 64, "depth": 2},
    **{"num_heads": 4, "zero_init_residual": True},
    **{"mean": (0.4,), "std": (0.25,)},
  },
  "objective": {
    **{"name": "simclr", "temperature": 0.2},
    "projector": {"hidden_dims": (256,), "out_dim": 128},
  },
  "optim": {
    **{"name": "adamw", "learning_rate": 3e-3, "warmup_steps": 10},
    **{"weight_decay": 0.05, "b2": 0.98},
  },
  "train": {"steps": 40},
  "checkpoint": {"every_steps": 20, "keep_last": 4},
  "log": {"every_steps": 10},
  "probe": {"label_fractions": (), "probes": ("linear",)},
}


@pytest.mark.slow
@pytest.mark.parametrize(
  ("kind", "changes"),
  [
    ("good", {"train.steps": 160, "checkpoint.every_steps": 40}),
    ("undertrained", {"optim.end_fraction": 1.0}),
    (
      "collapsed",
      {
        "train.steps": 80,
        "objective": {
          **{"name": "simsiam", "stop_gradient": False},
          "projector": {"hidden_dims": (256,), "out_dim": 128},
          "predictor": {"hidden_dims": (64,), "out_dim": 128},
        },
      },
    ),
    ("random", {"optim.learning_rate": 1e-9}),
    ("diverged", {"optim.learning_rate": 1e30, "optim.warmup_steps": 0}),
    ("unprobed", {"train.steps": 20}),
  ],
)
def test_real_runs(kind, changes, tmp_path):
  config = ConfigDict(CLUTTERED)
  config.update_from_flattened_dict(changes)
  file, workdir = tmp_path / "config.py", tmp_path / "run"
  file.write_text(
    "from ml_collections import ConfigDict\n"
    f"def get_config(arg=''):\n  return ConfigDict({config.to_dict()!r})\n"
  )

  def status(command, *flags):
    return subprocess.run(
      [sys.executable, "-m", command, f"--workdir={workdir}", *flags],
      # With several CPU devices the collectives of the probe can deadlock.
      env={**os.environ, "JAX_NUM_CPU_DEVICES": "1"},
      check=False,
    ).returncode

  diverges = kind == "diverged"
  assert status("jssl.train", f"--config={file}") == diverges
  if kind not in ("diverged", "unprobed"):
    assert status("jssl.probe") == 0
  run = read(workdir)
  found = verdict(run, made.DATASET, run.step(made.DATASET))
  print(found.text, run.metrics.get("feature_deviation"))
  assert found.kind == kind
