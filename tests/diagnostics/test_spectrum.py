import numpy as np
import pytest

from jssl.diagnostics import spectrum


def features(n=1000, d=24, offset=0.0):
  rng = np.random.default_rng(0)
  scale = np.geomspace(1, 0.02, d)
  x = rng.normal(size=(n, d)) * scale @ rng.normal(size=(d, d)) + offset
  return x.astype(np.float32)


@pytest.mark.parametrize("offset", [0.0, 100.0])
@pytest.mark.parametrize("block_rows", [7, 1000, 4096])
def test_moments_do_not_depend_on_blocks_or_on_a_large_mean(block_rows, offset):
  x = features(offset=offset)
  wide = x.astype(np.float64)
  moment = spectrum.second_moment(x, block_rows=block_rows)
  assert moment.rows == len(x)
  np.testing.assert_allclose(moment.mean, wide.mean(0), rtol=1e-7, atol=1e-7)
  np.testing.assert_allclose(moment.std, wide.std(0), rtol=1e-5)
  centred = wide - wide.mean(0)
  expected = centred.T @ centred
  np.testing.assert_allclose(
    moment.scatter, expected, atol=1e-6 * np.abs(expected).max()
  )


def test_sums_over_blocks_are_float64():
  # In float32 the sum of many equal blocks stops growing.
  x = np.tile(np.array([[1.0, 0.0], [-1.0, 1e-3]], np.float32), (50_000, 1))
  moment = spectrum.second_moment(x, block_rows=64)
  wide = x.astype(np.float64)
  np.testing.assert_allclose(moment.std, wide.std(0), rtol=1e-7)


@pytest.mark.parametrize("offset", [0.0, 100.0])
def test_singular_values_equal_those_of_the_full_svd(offset):
  x = features(offset=offset)
  centred = x - x.mean(0, dtype=np.float64)
  expected = np.linalg.svd(centred, compute_uv=False)
  np.testing.assert_allclose(
    spectrum.singular_values(x), expected, rtol=1e-4, atol=1e-4 * expected[0]
  )


def test_fewer_rows_than_dimensions_give_zeros():
  values = spectrum.singular_values(features(n=5, d=12))
  assert values.shape == (12,)
  assert values[3] > 0
  np.testing.assert_allclose(values[4:] / values[0], 0, atol=1e-3)


def test_memory_mapped_features(tmp_path):
  x = features()
  np.save(tmp_path / "x.npy", x)
  mapped = np.load(tmp_path / "x.npy", mmap_mode="r")
  np.testing.assert_array_equal(
    spectrum.singular_values(mapped), spectrum.singular_values(x)
  )


def test_auc_is_the_mean_of_the_cumulative_shares():
  values = np.sort(np.random.default_rng(0).random(9))[::-1]
  expected = np.mean([values[: j + 1].sum() / values.sum() for j in range(9)])
  np.testing.assert_allclose(spectrum.collapse_auc(values), expected)


@pytest.mark.parametrize(
  ("values", "expected"),
  [([2.0] * 8, 9 / 16), ([3.0] + [0.0] * 7, 1.0), ([0.0] * 8, 1.0)],
)
def test_auc_of_isotropic_rank_one_and_constant_features(values, expected):
  np.testing.assert_allclose(spectrum.collapse_auc(np.array(values)), expected)


def test_auc_of_rank_one_features_is_near_one():
  rng = np.random.default_rng(0)
  x = rng.normal(size=(5000, 1)) * rng.normal(size=(1, 64)) + 3
  values = spectrum.singular_values(x.astype(np.float32))
  assert spectrum.collapse_auc(values) > 0.998


@pytest.mark.parametrize("shape", [(0, 3), (4,)])
def test_what_is_not_a_matrix_with_rows_is_refused(shape):
  with pytest.raises(ValueError, match="features must be"):
    spectrum.second_moment(np.zeros(shape, np.float32))
