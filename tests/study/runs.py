"""Workdirs of finished runs, as the probe leaves them."""

import json

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
ABOUT = {"dataset": "cluttered_digits", "features": "backbone"}


def write_run(
  workdir, name, points, config=CONFIG, *, seed=0, dims=1, **values
):
  """Leaves (AUC, accuracy) at steps 10, 20 and so on."""
  path = workdir / name / f"seed_{seed}"
  path.mkdir(parents=True)
  (path / "config.json").write_text(json.dumps(config))
  rows = []
  for step, (auc, accuracy) in enumerate(points, 1):
    about = {**ABOUT, "step": 10 * step}
    rows.append(
      {
        **about,
        "measure": "spectrum",
        "singular_values": [1.0] * dims,
        "collapse_auc": auc,
      }
    )
    score = {"test_accuracy": accuracy, "test_accuracy_std": 0.0}
    rows += [
      {**about, "probe": "linear", "label_fraction": 1.0, **score},
      {**about, "probe": "linear", "label_fraction": 0.1, **score},
    ]
  if values:
    row = {"measure": "diagnostics", "at": "backbone", "values": values}
    empty = {"curves": {}, "not_measured": {}}
    rows.append({**ABOUT, "step": 10 * len(points), **row, **empty})
  (path / "probe.jsonl").write_text(
    "".join(json.dumps(row) + "\n" for row in rows)
  )
