"""The two analyses of finished runs, on workdirs as the probe leaves them."""

import json

import numpy as np
import pytest

from jssl import diagnostics
from jssl.study import concentration, forecast

CONFIG = {
  "seed": 0,
  "data": {"name": "cluttered_digits", "batch_size": 4, "image_size_px": 32},
  "augment": {"crop_size_px": 16, "crop_min_area": 0.5},
  "model": {"name": "vit", "width": 16},
  "objective": {"name": "simclr"},
  "train": {"steps": 40},
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


AUCS = {
  "wide": [(0.8, 0.6), (0.7, 0.71), (0.65, 0.74)],
  "narrow": [(0.85, 0.55), (0.8, 0.62), (0.88, 0.5), (0.9, 0.5)],
}


def test_the_forecast_is_that_of_all_checkpoints(tmp_path):
  for name, points in AUCS.items():
    write_run(tmp_path, name, points)
  points = forecast.collect(tmp_path)
  assert [(p.run, p.step) for p in points] == [
    *(("narrow/seed_0", 10 * i) for i in range(1, 5)),
    *(("wide/seed_0", 10 * i) for i in range(1, 4)),
  ]
  text = forecast.write(tmp_path, points)
  x, y = np.array([*AUCS["narrow"], *AUCS["wide"]]).T
  fit = diagnostics.fit_accuracy(x, y)
  assert f"{100 * fit.slope:+.1f} x AUC" in text
  assert f"R^2 = {fit.r_squared:.2f}" in text
  assert "| narrow/seed_0 | 0.850 | 0.900 | 50.0 | 20 |" in text
  assert "| wide/seed_0 | 0.800 | 0.650 | 74.0 | - |" in text
  left_out = diagnostics.leave_one_run_out(x, y, ["n"] * 4 + ["w"] * 3)
  error = 100 * left_out.mean_absolute_error
  assert f"mean absolute error {error:.1f} points" in text
  assert (tmp_path / "forecast.md").read_text() == text
  assert "narrow/seed_0" in (tmp_path / "forecast.svg").read_text()


def test_seeds_are_left_out_together_and_dimensions_compared_apart(tmp_path):
  for seed in (0, 1):
    shift = 0.01 * seed
    for number, (name, points) in enumerate(AUCS.items()):
      seen = [(auc + shift, accuracy) for auc, accuracy in points]
      write_run(tmp_path, name, seen, seed=seed, dims=1 + number)
  points = forecast.collect(tmp_path)
  text = forecast.markdown(points)
  x, y = [p.collapse_auc for p in points], [p.accuracy for p in points]
  # Narrow ones come first.
  left_out = diagnostics.leave_one_run_out(x, y, ["n"] * 8 + ["w"] * 6)
  error = 100 * left_out.mean_absolute_error
  assert f"Leaving one method out: mean absolute error {error:.1f}" in text
  assert text.count("Leaving one method out") == 1
  wide = text.split("Features of 1 dimensions alone:")[1]
  fit = diagnostics.fit_accuracy(x[8:], y[8:])
  assert "6 checkpoints of 2 runs" in wide
  assert f"R^2 = {fit.r_squared:.2f}" in wide.split("Features of 2")[0]


def test_one_method_is_fitted_without_a_forecast(tmp_path):
  write_run(tmp_path, "wide", AUCS["wide"])
  text = forecast.markdown(forecast.collect(tmp_path))
  assert "R^2" in text
  assert "Leaving one" not in text


def test_the_line_of_the_picture_is_the_fit(tmp_path):
  for name, points in AUCS.items():
    write_run(tmp_path, name, points)
  points = forecast.collect(tmp_path)
  (ax,) = forecast.draw(points).axes
  x, y = ax.get_lines()[-1].get_data()
  fit = diagnostics.fit_accuracy(
    [p.collapse_auc for p in points], [p.accuracy for p in points]
  )
  np.testing.assert_allclose(x, [0.65, 0.9])
  np.testing.assert_allclose(y, 100 * fit.predict(x))


@pytest.mark.parametrize("module", [forecast, concentration])
def test_a_workdir_without_runs_is_told(tmp_path, module):
  with pytest.raises(ValueError, match="--workdir must be that of"):
    module.collect(tmp_path)


def test_runs_without_diagnostics_are_told(tmp_path):
  write_run(tmp_path, "crop", AUCS["wide"])
  with pytest.raises(ValueError, match="crop was probed without --diagnostics"):
    concentration.collect(tmp_path)


def test_augmentations_are_compared_at_the_same_deltas(tmp_path):
  whole = {
    "crop_size_px": 16,
    "crop_min_area": 1.0,
    "crop_ratio_min": 1.0,
    "crop_ratio_max": 1.0,
    # Else all views are the same.
    "flip_probability": 0.5,
  }
  errors = {"crop": 0.2, "whole": 0.4}
  for name, augment in (("crop", CONFIG["augment"]), ("whole", whole)):
    for seed in (0, 1):
      write_run(
        tmp_path,
        name,
        [(0.7, 0.55 + 0.1 * seed)],
        {**CONFIG, "augment": augment},
        seed=seed,
        nearest_mean_error=errors[name] + 0.02 * (-1) ** seed,
        alignment=0.5,
      )
  crop, flipped = concentration.collect(tmp_path)
  np.testing.assert_array_equal(crop.curve.deltas, flipped.curve.deltas)
  text = concentration.write(tmp_path, [crop, flipped])
  lines = [line for line in text.splitlines() if line.startswith("| ")]
  assert [line.split(" | ")[0] for line in lines[1:]] == ["| crop", "| whole"]
  assert lines[1].endswith("| 20.0 | 0.500 | 60.0 |")
  means = [stack.curve.one_minus_sigma.mean() for stack in (crop, flipped)]
  # Of two: the error of the first is the smaller one.
  sign = "+" if means[0] < means[1] else "-"
  assert f"- mean of the curve: {sign}1.00" in text
  assert "crop" in (tmp_path / "concentration.svg").read_text()
