import numpy as np
import pytest

from jssl.diagnostics import rows, spectrum


def features(n=1000, d=24, offset=0.0, smallest=0.02):
  rng = np.random.default_rng(0)
  scale = np.geomspace(1, smallest, d)
  x = rng.normal(size=(n, d)) * scale @ rng.normal(size=(d, d)) + offset
  return x.astype(np.float32)


@pytest.mark.parametrize("offset", [0.0, 100.0])
@pytest.mark.parametrize("block_rows", [7, 1000, 4096])
def test_moments_do_not_depend_on_blocks_or_on_a_large_mean(
  block_rows, offset, monkeypatch
):
  monkeypatch.setattr(rows, "BLOCK", 24 * block_rows)
  x = features(offset=offset)
  wide = x.astype(np.float64)
  moment = spectrum.second_moment(x)
  assert moment.rows == len(x)
  np.testing.assert_allclose(moment.mean, wide.mean(0), atol=1e-12)
  np.testing.assert_allclose(moment.std, wide.std(0), rtol=1e-9)
  centred = wide - wide.mean(0)
  expected = centred.T @ centred
  np.testing.assert_allclose(
    moment.scatter, expected, atol=1e-11 * np.abs(expected).max()
  )


def test_sums_are_float64():
  # In float32 the sum of many equal rows stops growing.
  x = np.tile(np.array([[1.0, 0.0], [-1.0, 1e-3]], np.float32), (50_000, 1))
  moment = spectrum.second_moment(x)
  wide = x.astype(np.float64)
  np.testing.assert_allclose(moment.std, wide.std(0), rtol=1e-9)


@pytest.mark.parametrize("offset", [0.0, 100.0])
@pytest.mark.parametrize("smallest", [0.5, 1e-3, 1e-7])
def test_singular_values_equal_those_of_the_full_svd(offset, smallest):
  x = features(offset=offset, smallest=smallest)
  expected = np.linalg.svd(x - x.mean(0, dtype=np.float64), compute_uv=False)
  values = spectrum.singular_values(x)
  np.testing.assert_allclose(
    values / values[0], expected / expected[0], rtol=0, atol=1e-8
  )
  np.testing.assert_allclose(values[0], expected[0], rtol=1e-10)
  np.testing.assert_allclose(
    spectrum.collapse_auc(values), spectrum.collapse_auc(expected), atol=1e-8
  )


def test_values_of_features_that_are_not_centred():
  x = features(offset=1.0)
  np.testing.assert_allclose(
    spectrum.singular_values(x, centre=False),
    np.linalg.svd(x.astype(np.float64), compute_uv=False),
    rtol=1e-9,
  )


@pytest.mark.parametrize("n", [2, 5, 12])
def test_a_spectrum_needs_more_rows_than_columns(n):
  with pytest.raises(ValueError, match=f"{n} rows of 12 columns"):
    spectrum.singular_values(features(n=n, d=12))
  assert spectrum.singular_values(features(n=13, d=12)).shape == (12,)


def test_rows_equal_up_to_rounding_are_one_point():
  rng = np.random.default_rng(0)
  towards = rng.choice(np.float32([0, 6]), (500, 64))
  x = np.nextafter(np.full((500, 64), 3, np.float32), towards)
  assert np.ptp(x) > 0
  values = spectrum.singular_values(x)
  np.testing.assert_array_equal(values, 0)
  assert spectrum.collapse_auc(values) == 1


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


def oracle_rank_me(x, epsilon=1e-7):
  """Exponential of the entropy from the SVD of the matrix, term by term."""
  values = np.linalg.svd(x, compute_uv=False)
  entropy = 0.0
  for value in values:
    p = value / sum(values) + epsilon
    entropy -= p * np.log(p)
  return np.exp(entropy)


def test_rank_me_is_that_of_the_paper():
  x = features(offset=1.0).astype(np.float64)
  values = spectrum.singular_values(x, centre=False)
  np.testing.assert_allclose(
    spectrum.rank_me(values), oracle_rank_me(x), rtol=1e-9
  )


@pytest.mark.parametrize("rank", [1, 5, 16])
def test_ranks_count_equal_directions(rank):
  values = np.where(np.arange(16) < rank, 3.0, 0.0)
  np.testing.assert_allclose(spectrum.rank_me(values), rank, rtol=1e-4)
  np.testing.assert_allclose(spectrum.stable_rank(values), rank)


def test_stable_rank_is_the_ratio_of_the_norms():
  x = features()
  centred = x - x.mean(0, dtype=np.float64)
  expected = (np.linalg.norm(centred) / np.linalg.norm(centred, 2)) ** 2
  np.testing.assert_allclose(
    spectrum.stable_rank(spectrum.singular_values(x)), expected, rtol=1e-9
  )


@pytest.mark.parametrize("alpha", [0.5, 1.0, 2.3])
def test_alpha_req_of_a_power_law_is_its_exponent(alpha):
  values = np.arange(1, 201.0) ** (-alpha / 2)
  np.testing.assert_allclose(spectrum.alpha_req(values), alpha, rtol=1e-9)


def test_alpha_req_is_the_weighted_line_of_the_logarithms():
  values = spectrum.singular_values(features(d=40))
  first, last = 3, 20
  # The normal equations of sum_j (log l_j - b + a log j)^2 / j.
  normal, right = np.zeros((2, 2)), np.zeros(2)
  for j in range(first, last + 1):
    row = np.array([-np.log(j), 1.0])
    normal += np.outer(row, row) / j
    right += row * np.log(values[j - 1] ** 2) / j
  np.testing.assert_allclose(
    spectrum.alpha_req(values, first=first, last=last),
    np.linalg.solve(normal, right)[0],
    rtol=1e-9,
  )


def test_alpha_req_ignores_values_at_rounding_level():
  values = np.r_[np.arange(1, 21.0) ** -0.5, np.full(30, 1e-9)]
  np.testing.assert_allclose(spectrum.alpha_req(values), 1.0, rtol=1e-9)
  with pytest.raises(ValueError, match="only 20 of 50 are above rounding"):
    spectrum.alpha_req(values, first=20)


@pytest.mark.usefixtures("unchecked")
@pytest.mark.parametrize("shape", [(0, 3), (4,), (4, 0)])
def test_non_matrices_are_errors(shape):
  with pytest.raises(ValueError, match="features"):
    spectrum.second_moment(np.zeros(shape, np.float32))


def test_rows_that_are_not_finite_are_counted():
  x = features()
  x[[3, 700, 800], 5] = np.nan, np.inf, -np.inf
  with pytest.raises(ValueError, match="3 of 1000 rows"):
    spectrum.singular_values(x)


@pytest.mark.usefixtures("unchecked")
def test_integer_features_are_errors():
  with pytest.raises(TypeError, match="must be floating, not int64"):
    spectrum.singular_values(np.zeros((4, 2), np.int64))


@pytest.mark.usefixtures("unchecked")
@pytest.mark.parametrize(
  "values", [np.ones((2, 2)), np.array([1.0, 2.0]), np.array([np.nan]), []]
)
def test_invalid_singular_values_are_errors(values):
  with pytest.raises(ValueError, match="singular_values must be"):
    spectrum.collapse_auc(np.asarray(values))


def test_ranks_of_constant_features_are_errors():
  for measure in (spectrum.rank_me, spectrum.stable_rank):
    with pytest.raises(ValueError, match="all singular values are 0"):
      measure(np.zeros(4))
