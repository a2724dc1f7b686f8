import re

import numpy as np
import pytest

from jssl.kernel_regime.psd import with_jitter


def symmetric(smallest, n=20):
  q = np.linalg.qr(np.random.default_rng(0).normal(size=(n, n)))[0]
  k = (q * np.linspace(smallest, 2, n)) @ q.T
  return (k + k.T) / 2


def test_jitter_is_relative_to_the_mean_of_the_diagonal():
  k = symmetric(0.5)
  np.testing.assert_allclose(
    with_jitter(k, 1e-3), k + 1e-3 * np.trace(k) / 20 * np.eye(20), rtol=1e-14
  )
  np.testing.assert_array_equal(with_jitter(k, 0.0), k)


@pytest.mark.parametrize("smallest", [-0.3, -1e-5, 0.0])
def test_what_is_not_psd_is_told_with_the_jitter_that_would_do(smallest):
  k = symmetric(smallest)
  if not smallest:  # Rows that repeat.
    k[1], k[:, 1] = k[0], k[:, 0]
    k[1, 1] = k[0, 0]
  with pytest.raises(ValueError, match="not positive definite") as raised:
    with_jitter(k, 0.0)
  told = re.search(
    r"eigenvalue is (\S+), .*jitter=(\S+) would", str(raised.value)
  )
  expected = np.linalg.eigvalsh(k)[0]
  np.testing.assert_allclose(float(told[1]), expected, rtol=0.01, atol=1e-14)
  with_jitter(k, float(told[2]))
  # And not much more than needed.
  assert float(told[2]) <= 2.3 * max(-smallest, 1e-12) / np.mean(np.diag(k))


def test_psd_within_jitter_passes():
  with_jitter(symmetric(-1e-7), 1e-6)
  with pytest.raises(ValueError, match="smallest eigenvalue is -1e-05"):
    with_jitter(symmetric(-1e-5), 1e-6)


@pytest.mark.usefixtures("unchecked")
@pytest.mark.parametrize(
  ("k", "error", "message"),
  [
    (np.ones((2, 3)), ValueError, r"must be \[n, n\]"),
    (np.eye(2, dtype=int), TypeError, "floating"),
    (np.array([[1.0, 0.5], [0.4, 1.0]]), ValueError, "symmetric.* by 0.1"),
    (
      np.array([[1.0, np.inf], [np.inf, 1.0]]),
      ValueError,
      "2 non-finite values",
    ),
    (np.zeros((3, 3)), ValueError, r"tr\(K\) / N = 0"),
  ],
)
def test_what_is_no_gram_matrix_is_refused(k, error, message):
  with pytest.raises(error, match=message):
    with_jitter(k)


def test_a_negative_jitter_is_refused():
  with pytest.raises(ValueError, match=r"jitter=-1"):
    with_jitter(np.eye(2), -1.0)
