"""Augmentations compared, on workdirs as the probe leaves them."""

import numpy as np
import pytest
from probe import made
from study.runs import CONFIG, diagnosed, single_spaced, write_run

from jssl.probe.record_file import RecordFile
from jssl.report.read import read
from jssl.study import concentration


def test_a_workdir_without_runs_is_told(tmp_path):
  with pytest.raises(ValueError, match="--workdir must be that of"):
    concentration.collect(tmp_path)


def test_runs_without_diagnostics_are_told(tmp_path):
  write_run(tmp_path, "crop", [(0.8, 0.6), (0.7, 0.71)])
  with pytest.raises(ValueError, match="probed without --diagnostics"):
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
  text = single_spaced(concentration.write(tmp_path, [crop, flipped]))
  lines = [line for line in text.splitlines() if line.startswith("| ")]
  assert [line.split(" | ")[0] for line in lines[1:]] == ["| crop", "| whole"]
  assert lines[1].endswith("| 20.0 | 0.500 | 60.0 |")
  # Neither could make all views of the other.
  np.testing.assert_array_equal(crop.nested, crop.curve.one_minus_sigma)
  assert "includes" not in text
  means = [stack.curve.one_minus_sigma.mean() for stack in (crop, flipped)]
  # Of two: the error of the first is the smaller one.
  sign = "+" if means[0] < means[1] else "-"
  assert f"- mean of the curve: {sign}1.00\n" in text
  # A third with an error between theirs, and the largest 1 - sigma.
  third = flipped._replace(
    curve=flipped.curve._replace(
      one_minus_sigma=flipped.curve.one_minus_sigma + 1
    ),
    values={**flipped.values, "nearest_mean_error": 0.3},
  )
  text = concentration.markdown([crop, flipped, third])
  assert f"- mean of the curve: {sign}0.50, p = 0.67\n" in text
  assert "crop" in (tmp_path / "concentration.svg").read_text()


def test_what_includes_another_concentrates_no_less_on_nested_views(tmp_path):
  both = {**CONFIG["augment"], "flip_probability": 0.5}
  terms = {"bound/rho": 2.25, "info_nce/alignment": -0.75}
  for name, augment in (("crop", CONFIG["augment"]), ("crop_flip", both)):
    config = {**CONFIG, "augment": augment}
    values = {"nearest_mean_error": 0.2, **terms}
    write_run(tmp_path, name, [(0.7, 0.6)], config, **values)
  crop, crop_flip = concentration.collect(tmp_path)
  assert (crop.included, crop_flip.included) == ((), ("crop",))
  less = crop_flip.nested
  assert np.all(less <= crop.curve.one_minus_sigma)
  assert np.all(less <= crop_flip.curve.one_minus_sigma)
  assert less.sum() < crop_flip.curve.one_minus_sigma.sum()
  text = single_spaced(concentration.markdown([crop, crop_flip]))
  assert "- crop_flip includes crop\n" in text
  assert "| augmentation | rho | InfoNCE L1 |" in text
  assert "| crop | 2.25 | -0.75 |" in text


def test_augmentations_of_different_images_are_told(tmp_path):
  for name, split in (("a", "train"), ("b", "train[:50%]")):
    config = {**CONFIG, "data": {**CONFIG["data"], "split": split}}
    write_run(tmp_path, name, [(0.7, 0.6)], config, nearest_mean_error=0.2)
  with pytest.raises(ValueError, match=r"b and a use different images"):
    concentration.collect(tmp_path)


def last(workdir, step, **changes):
  """Adds diagnostics to a run, and returns what is shown of it."""
  path = workdir / "crop" / "seed_0"
  changes = {"values": {"nearest_mean_error": step / 100}, **changes}
  added = diagnosed(step, **changes)
  made.write_records(path, [*RecordFile(path).read(), added])
  return concentration._last_measured("crop/seed_0", read(path))


POINTS = [(0.8, 0.5), (0.7, 0.6), (0.6, 0.7)]


def test_diagnostics_and_accuracies_are_of_one_step(tmp_path):
  write_run(tmp_path, "crop", POINTS)
  expected = {"nearest_mean_error": 0.2}, {"linear": 0.6}
  assert last(tmp_path, 20) == expected
  # A later one has no accuracy yet, another no error.
  assert last(tmp_path, 40) == expected
  lost = {"values": {}, "not_measured": {"nearest_mean_error": "one class"}}
  assert last(tmp_path, 30, **lost) == expected


def test_a_run_without_such_a_step_is_named(tmp_path):
  write_run(tmp_path, "crop", [])
  message = (
    r"crop/seed_0 has no step .* diagnostics at \[20\], accuracies at \[\]"
  )
  with pytest.raises(ValueError, match=message):
    last(tmp_path, 20)


def test_an_error_that_was_not_measured_says_why(tmp_path):
  write_run(tmp_path, "crop", POINTS)
  lost = {"values": {}, "not_measured": {"nearest_mean_error": "one class"}}
  with pytest.raises(ValueError, match=r"crop/seed_0 .* step 20: one class"):
    last(tmp_path, 20, **lost)
