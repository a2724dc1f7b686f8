import numpy as np

from jssl.diagnostics import rows


def test_rows_of_any_size_have_norm_1_and_rows_of_zeros_stay():
  x = np.random.default_rng(0).normal(size=(4, 3, 5)).astype(np.float32)
  expected = x / np.linalg.norm(x, axis=-1, keepdims=True)
  for scale in (1, 1e25, 1e-25):
    scaled = x * np.float32(scale)
    np.testing.assert_allclose(rows.unit(scaled), expected, rtol=1e-5)
    unit = rows.unit_rows(scaled)
    assert unit.dtype == np.float64
    np.testing.assert_allclose(unit, expected, rtol=1e-5)
  x[1, 2] = 0
  for function in (rows.unit, rows.unit_rows):
    np.testing.assert_array_equal(function(x)[1, 2], 0)


def test_non_finite_entries_make_a_sum_nan():
  x = np.ones((3, 2), np.float32)
  assert rows.nan_unless_finite(x) == 0
  for bad in (np.nan, np.inf, -np.inf):
    x[1, 1] = bad
    assert np.isnan(rows.nan_unless_finite(x))
    assert np.isnan(rows.unit_rows(x)[1]).any()
