"""Whether the AUC tells the accuracy, on workdirs as the probe leaves them."""

import os
import subprocess
import sys

import numpy as np
import pytest
from study.runs import single_spaced, write_run

from jssl import diagnostics
from jssl.study import forecast

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
  table = single_spaced(text)
  assert "| narrow/seed_0 | 0.850 | 0.900 | 50.0 | 20 |" in table
  assert "| wide/seed_0 | 0.800 | 0.650 | 74.0 | - |" in table
  left_out = diagnostics.leave_one_run_out(x, y, ["n"] * 4 + ["w"] * 3)
  error = 100 * left_out.mean_absolute_error
  assert f"mean absolute error {error:.1f} points" in text
  assert (tmp_path / "forecast.md").read_text() == text
  assert ">narrow<" in (tmp_path / "forecast.svg").read_text()


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


def test_a_line_of_the_picture_has_means_over_the_runs_of_a_method(tmp_path):
  write_run(tmp_path, "wide", [(0.7, 0.6), (0.8, 0.5)])
  write_run(tmp_path, "wide", [(0.9, 0.8), (0.8, 0.7)], seed=1)
  (ax,) = forecast.draw(forecast.collect(tmp_path)).axes
  x, y = ax.get_lines()[0].get_data()
  np.testing.assert_allclose(x, [0.8, 0.8])
  np.testing.assert_allclose(y, [70, 60])


def test_a_workdir_without_runs_is_told(tmp_path):
  with pytest.raises(ValueError, match="--workdir must be that of"):
    forecast.collect(tmp_path)


@pytest.mark.parametrize(
  ("points", "reason"),
  [
    # A method left out leaves one point to the line.
    ({"a": [(0.7, 0.6)], "b": [(0.8, 0.5)]}, "1 points, but at least 2"),
    ({"a": [(0.7, 0.6)]}, "1 points, but at least 2"),
    ({"a": [(0.7, 0.6), (0.8, 0.6)]}, "all 2 accuracies are 0.6"),
    ({"a": [(0.7, 0.6), (0.7, 0.5)]}, "all 2 aucs are 0.7"),
  ],
)
def test_what_can_not_be_fitted_leaves_its_reason(tmp_path, points, reason):
  for name, own in points.items():
    write_run(tmp_path, name, own)
  found = forecast.collect(tmp_path)
  text = forecast.write(tmp_path, found)
  assert "not defined (" in text
  assert reason in text
  assert "| a/seed_0 | 0.700 |" in single_spaced(text)
  assert (tmp_path / "forecast.md").read_text() == text
  assert (tmp_path / "forecast.svg").exists()


def test_the_command_prints_names_that_are_not_ascii(tmp_path):
  for name, points in AUCS.items():
    write_run(tmp_path, f"{name}, ± 日", points)
  done = subprocess.run(
    [
      *(sys.executable, "-m", "jssl.study", "forecast"),
      f"--workdir={tmp_path}",
    ],
    env={**os.environ, "PYTHONIOENCODING": "ascii"},
    capture_output=True,
    check=False,
  )
  assert done.returncode == 0, done.stderr
  assert rb"wide, +- \u65e5/seed_0" in done.stdout
  text = (tmp_path / "forecast.md").read_text(encoding="utf-8")
  assert "wide, ± 日/seed_0" in text
