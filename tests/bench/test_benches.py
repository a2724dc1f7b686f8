"""Each benchmark at a tiny size."""

import argparse
import importlib

import pytest
from data.damage import prepare_set

from jssl.bench import harness, losses

SMALL_RUN = [
  "--config.data.batch_size=8",
  "--config.model.width=32",
  "--config.model.depth=1",
]


def run(name, **arguments):
  bench = importlib.import_module(f"jssl.bench.{name}")
  defaults = {flag: default for flag, (default, _) in bench.FLAGS.items()}
  return bench.run(argparse.Namespace(**{**defaults, **arguments}))


def test_losses(monkeypatch):
  # One with a kernel and one without.
  prototypes, nearest = (losses.OPERATIONS[i] for i in (2, 6))
  monkeypatch.setattr(
    losses,
    "OPERATIONS",
    [
      prototypes._replace(
        here=[(16, 8), (24, 8)], small=[(128, 128), (128, 128)]
      ),
      nearest._replace(here=[(32, 8)]),
    ],
  )
  rows = run("losses", rounds=1, only="prototypes,nearest").rows
  assert [row["case"] for row in rows] == [
    *("reference", "tiled", "reference", "tiled", "pallas_tpu"),
    *("reference", "tiled"),
  ]
  assert rows[0]["shapes"] == "16x8 24x8"
  assert all(row["working MiB"] > 0 for row in rows)
  assert run("losses", only="gram").rows == []


@pytest.mark.slow
def test_augment():
  sizes = {"batch_size": 2, "image_size_px": 32, "view_size_px": 24}
  rows = run("augment", rounds=2, **sizes).rows
  assert [row["case"] for row in rows] == [
    "crop and flip",
    "crop and flip, colour",
    "crop and flip, colour, blur",
  ]
  assert rows[0]["images/s"] > 0


@pytest.mark.slow
def test_step():
  report = run(
    "step", rounds=2, config="configs/quickstart.py", overrides=SMALL_RUN
  )
  (row,) = report.rows
  assert row["state and batch MiB"] > 0.1
  assert [timing["items"] for timing in row["rounds"]] == [8, 8]


@pytest.mark.slow
def test_loop():
  report = run(
    "loop",
    rounds=3,
    steps=4,
    config="configs/quickstart.py",
    overrides=SMALL_RUN,
  )
  assert report.rows[0]["of a step"] == "100.00%"
  assert len(report.about["rounds with a checkpoint"].split(", ")) == 3


def test_loop_needs_enough_steps():
  with pytest.raises(ValueError, match=r"train\.steps=240: expected more than"):
    run("loop", steps=100, config="configs/quickstart.py", overrides=SMALL_RUN)


def test_probe():
  rows = run("probe", rows=600, seeds=1).rows
  assert [row["case"] for row in rows] == ["scikit-learn", "jssl"]
  assert all(50 < row["mean %"] < 90 for row in rows)


def test_embed(tmp_path, monkeypatch):
  monkeypatch.setattr(harness, "in_process", lambda call, *args: call(*args))
  rows = run(
    "embed",
    rounds=1,
    dataset="photos",
    data_dir=prepare_set(tmp_path),
    images=16,
    memory_images="8",
    image_size_px=16,
    width=16,
    depth=1,
    batch_size=8,
  ).rows
  assert [row["case"] for row in rows] == [
    *("probe", "embed"),
    "embed 8 images alone",
  ]
  assert rows[1]["images/s"] > 0
  assert rows[2]["peak MiB"] > 0


def test_kernel_regime():
  rows = run(
    "kernel_regime", points=40, images=2, image_size_px=6, d_out=4
  ).rows
  assert len(rows) == 7
  assert rows[2]["relative gap to the minimum"] < 1e-6
  assert rows[4]["rank"] >= 1
