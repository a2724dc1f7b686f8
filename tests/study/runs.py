"""Workdirs of finished runs, as the probe leaves them."""

import dataclasses
import json
import re

from probe import made

CONFIG = {
  "seed": 0,
  "data": {"name": "cluttered_digits", "batch_size": 4, "image_size_px": 32},
  "augment": {"crop_size_px": 16, "crop_min_area": 0.5},
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
  "probe": {"diagnostic_images": 60, "diagnostic_views": 4},
}


def write_run(
  workdir, name, points, config=CONFIG, *, seed=0, dims=1, **values
):
  """Leaves (AUC, accuracy) at steps 10, 20 and so on."""
  path = workdir / name / f"seed_{seed}"
  path.mkdir(parents=True)
  (path / "config.json").write_text(json.dumps(config))
  records = []
  for number, (auc, accuracy) in enumerate(points, 1):
    step = 10 * number
    score = {"step": step, "test_accuracy": accuracy, "test_accuracy_std": 0.0}
    records += [
      made.spectrum_record(step, auc, singular_values=[1.0] * dims),
      made.probe_record(**score),
      made.probe_record(label_fraction=0.1, **score),
    ]
  if values:
    records.append(diagnosed(10 * len(points), values))
  made.write_records(path, records)


def diagnosed(step, values, **changes):
  """Returns diagnostics of a backbone that have nothing but `values`."""
  record = made.diagnostics_record(step, "backbone")
  return dataclasses.replace(
    record, **{"values": values, "curves": {}, "not_measured": {}, **changes}
  )


def single_spaced(text):
  """Tables without the spaces that align their columns."""
  return re.sub(" +", " ", text)
