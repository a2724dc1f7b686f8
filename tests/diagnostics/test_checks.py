import numpy as np
import pytest
from diagnostics.cases import features, unit

from jssl import diagnostics
from jssl.diagnostics import checks


def test_labels_are_returned_as_an_array():
  labels = checks.check_labels([0, 2, 1], 3)
  np.testing.assert_array_equal(labels, [0, 2, 1])
  assert checks.check_labels([0, 2, 1], 3, 3).dtype == np.int64


@pytest.mark.usefixtures("unchecked")
@pytest.mark.parametrize(
  ("labels", "error", "message"),
  [
    ([0, 1], ValueError, r"\[n\] = \(3,\), not \(2,\)"),
    ([0.0, 1.0, 2.0], TypeError, "must be integers, not float64"),
    ([0, -1, -1], ValueError, "2 of 3 rows have no label"),
    ([0, 1, 7], ValueError, "go up to 7, but num_classes=5"),
  ],
)
def test_bad_labels_are_errors(labels, error, message):
  with pytest.raises(error, match=message):
    checks.check_labels(labels, 3, 5)


def test_views_must_differ_unless_features_are_one_point():
  x = np.random.default_rng(0).normal(size=(4, 1, 3))
  copies = np.repeat(x, 2, axis=1)
  with pytest.raises(
    ValueError, match="h and x: all 3 views of each of 4 images"
  ):
    checks.check_views_differ(h=copies, x=x)
  checks.check_views_differ(h=copies, x=x + 1)
  checks.check_views_differ(h=np.ones((4, 2, 3)))
  # A program may return equal rows with different rounding.
  noise = np.random.default_rng(1).normal(size=copies.shape)
  with pytest.raises(ValueError, match="are equal up to rounding"):
    checks.check_views_differ(h=copies * (1 + 1e-7 * noise))
  checks.check_views_differ(h=copies * (1 + 1e-4 * noise))
  # For any number of images.
  for images in (4, 250):
    noise = np.random.default_rng(1).normal(size=(images, 10, 3))
    checks.check_views_differ(h=1 + 1e-7 * noise)
  copies[1, 0, 2] = np.inf
  with pytest.raises(ValueError, match="h: 1 of 4 rows"):
    checks.check_views_differ(h=copies)


@pytest.mark.usefixtures("unchecked")
def test_equal_views_are_an_error_in_all_measures():
  copies = unit(features(n=7, v=2))[:, :1].repeat(2, 1)
  for measure in (
    diagnostics.alignment,
    diagnostics.info_nce_split,
    diagnostics.barlow_split,
    diagnostics.lidar,
    lambda views: diagnostics.divergence_curve(views, [0.1]),
    lambda views: diagnostics.concentration_curve(views, np.arange(7) % 2),
  ):
    with pytest.raises(ValueError, match="all 2 views of each of 7 images"):
      measure(copies)
  # Copies of the images, without augmentation.
  diagnostics.concentration_curve(copies[:, :1], np.arange(7) % 2)


def test_pixels_are_flattened():
  views = np.random.default_rng(0).random((2, 3, 4, 5, 1))
  flat = checks.flat_pixels(views)
  np.testing.assert_array_equal(flat[1, 2], views[1, 2].ravel())
  np.testing.assert_array_equal(checks.flat_pixels(flat), flat)


@pytest.mark.usefixtures("unchecked")
def test_numbers_out_of_range_are_named():
  checks.check_positive(a=1, b=1e-9)
  for bad in (0, -1, np.nan):
    with pytest.raises(ValueError, match=f"b must be positive, not {bad}"):
      checks.check_positive(a=1, b=bad)
  assert checks.check_not_negative("t", [0, 2]).dtype == np.float64
  for bad in ([], [[1]], [-1], [np.nan], [np.inf]):
    with pytest.raises(ValueError, match="t must be"):
      checks.check_not_negative("t", bad)
