import numpy as np
import pytest

from jssl.diagnostics import rows


def test_blocks_are_all_rows_and_floats_are_float64(mesh):
  x = np.random.default_rng(0).normal(size=(37, 3, 2)).astype(np.float32)
  y = np.arange(37)
  blocks = list(rows.float64_blocks(x=x, y=y))
  assert len(blocks) == (1 if rows.BLOCK == 2**24 else 2)
  for index, array, dtype in ((0, x, np.float64), (1, y, np.int64)):
    parts = [block[index] for block in blocks]
    assert {part.dtype for part in parts} == {np.dtype(dtype)}
    np.testing.assert_array_equal(np.concatenate(parts), array)
  np.testing.assert_array_equal(rows.float64_rows(x=x), x)


def test_a_block_has_at_least_one_row(monkeypatch):
  monkeypatch.setattr(rows, "BLOCK", 2)
  assert len(list(rows.float64_blocks(x=np.ones((3, 5))))) == 3


@pytest.mark.parametrize("block", [2**24, 12])
def test_non_finite_rows_are_counted(block, monkeypatch):
  monkeypatch.setattr(rows, "BLOCK", block)
  x = np.ones((5, 2, 3), np.float32)
  x[[1, 4], 0, 1] = np.nan, np.inf
  with pytest.raises(ValueError, match="views: 2 of 5 rows have non-finite"):
    rows.float64_rows(views=x)
  with pytest.raises(ValueError, match="views: 2 of 5 rows"):
    list(rows.float64_blocks(features=np.ones((5, 1)), views=x))


def test_rows_of_any_size_have_norm_1_and_rows_of_zeros_stay():
  x = np.random.default_rng(0).normal(size=(4, 3, 5)).astype(np.float32)
  expected = x / np.linalg.norm(x, axis=-1, keepdims=True)
  for scale in (1, 1e25, 1e-25):
    unit = rows.unit_rows(x * np.float32(scale))
    assert unit.dtype == np.float64
    np.testing.assert_allclose(unit, expected, rtol=1e-5)
  x[1, 2] = 0
  np.testing.assert_array_equal(rows.unit_rows(x)[1, 2], 0)
