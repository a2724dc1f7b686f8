"""A made-up workdir: two checkpoints probed, one of them best."""

import json

import numpy as np
import pytest
from probe import made

from jssl.probe import features

CONFIG = {
  "seed": 3,
  "data": {"name": "cluttered_digits", "batch_size": 4, "image_size_px": 32},
  "augment": {"crop_size_px": 24, "crop_min_area": 0.5},
  "model": {
    **{"name": "vit", "patch_size_px": 8, "width": 16},
    **{"depth": 1, "num_heads": 2},
  },
  "objective": {
    **{"name": "simclr", "temperature": 0.2},
    **{"projector": {"hidden_dims": (), "out_dim": 8}},
  },
  "optim": {"name": "adamw", "learning_rate": 1e-3},
  "train": {"steps": 40},
  "checkpoint": {"every_steps": 20},
}


def metrics_row(step):
  return {
    "step": step,
    "loss": 5 - step / 10,
    "gradient_norm": 1.5,
    "learning_rate": 1e-3,
    "images_per_second": 100.0 * step,
    "seconds_per_step": 0.5,
    "mfu": 0.25,
    "seconds": 0.5 * step,
    "time": 1e9,
  }


def life_row(first, last):
  return {
    "from_step": first,
    "to_step": last,
    # Each life but the first begins 100 s after the one before.
    "began": 1e9 + 10.0 * first,
    "seconds": 10.0,
    "restore": 0.5,
    "compile": 2.0,
    "step": 6.0,
    "input": 1.0,
    "checkpoint": 0.1,
    "other": 0.4,
    "until_first_step": 3.25,
    "programs_found": first,
    "programs_compiled": 4,
  }


def probe_life_row(features):
  return {
    "began": 1e9,
    "seconds": 40.0,
    "wait": 10.0,
    "restore": 1.0,
    "features": features,
    "spectrum": 0.5,
    "probe": 12.0,
    "diagnostics": 3.5,
    "compile": 2.0,
    "other": 11.0 - features,
  }


def records():
  found = []
  kinds = [("linear", 1.0), ("mlp", 1.0), ("knn", 1.0)]
  kinds += [("linear", 0.1), ("linear", 0.01)]
  encoders = [("pixels", 0), ("random", 0), ("backbone", 20), ("backbone", 40)]
  for i, (encoder, step) in enumerate(encoders):
    auc = 0.789 if encoder == "backbone" else 0.876
    found.append(made.spectrum_record(step, auc, features=encoder))
    found += [
      made.probe_record(
        encoder,
        step,
        probe,
        label_fraction=fraction,
        test_accuracy=(10 * i + j + 0.25) / 100,
        test_accuracy_std=0.0123,
      )
      for j, (probe, fraction) in enumerate(kinds)
    ]
  found += [made.diagnostics_record(step, "backbone") for step in (20, 40)]
  return [*found, made.CONCENTRATION]


def write_lines(path, rows):
  path.write_text("".join(json.dumps(row) + "\n" for row in rows))


def write_features(workdir, step, n=60, d=6):
  rng = np.random.default_rng(0)
  labels = np.arange(n) % 10
  h = rng.normal(size=(10, d))[labels] + 0.1 * rng.normal(size=(n, d))
  (workdir / "features").mkdir(exist_ok=True)
  path = workdir / "features" / f"cluttered_digits-test-step{step}-0a1b.npy"
  features.write(path, n, [(h.astype(np.float32), labels)])


@pytest.fixture
def config():
  return json.loads(json.dumps(CONFIG))


@pytest.fixture
def workdir(tmp_path, config):
  (tmp_path / "config.json").write_text(json.dumps(config))
  write_lines(
    tmp_path / "metrics.jsonl", [metrics_row(s) for s in (10, 20, 30)]
  )
  write_lines(tmp_path / "goodput.jsonl", [life_row(0, 20), life_row(17, 30)])
  write_lines(
    tmp_path / "probe_goodput.jsonl", [probe_life_row(6.0), probe_life_row(8.0)]
  )
  made.write_records(tmp_path, records())
  (tmp_path / "best.json").write_text('{"step": 20, "score": 0.5}')
  write_features(tmp_path, 20)
  return tmp_path
