import numpy as np
import pytest
from kernel_regime import oracle

from jssl.kernel_regime import targets
from jssl.kernel_regime.losses import Contrastive, NonContrastive

UNEVEN = [7, 3, 7, 0, 3, 9, 7, 0, 3, 7, 9, 4]
EVEN = [0, 0, 0, 1, 1, 1, 2, 2, 2]


@pytest.mark.parametrize("ids", [UNEVEN, EVEN])
def test_matrices_equal_loops(ids):
  n, ids = len(ids), np.array(ids)
  a, lap = oracle.adjacency(ids), oracle.laplacian(ids)
  np.testing.assert_array_equal(targets.adjacency(ids), a)
  np.testing.assert_array_equal(targets.laplacian(ids), lap)
  np.testing.assert_array_equal(Contrastive().target(ids), np.eye(n) + a)
  c = np.eye(n) - np.ones((n, n)) / n
  np.testing.assert_allclose(targets.centring(n), c)
  np.testing.assert_allclose(NonContrastive(0.7).target(ids), c - 0.35 * lap)


@pytest.mark.parametrize("beta", [None, 0.0, 0.3, 0.55, 3.0])
@pytest.mark.parametrize("ids", [UNEVEN, EVEN])
@pytest.mark.parametrize("d_out", [1, 2, 4, 7, 9])
def test_eigenpairs_are_those_of_a_solver(ids, d_out, beta):
  ids = np.array(ids)
  loss = Contrastive() if beta is None else NonContrastive(beta)
  target = loss.target(ids)
  pairs = loss.top_eigenpairs(ids, d_out)
  exact = np.linalg.eigvalsh(target)[::-1][:d_out]
  np.testing.assert_allclose(pairs.values, np.maximum(exact, 0), atol=1e-12)
  np.testing.assert_allclose(
    target @ pairs.vectors, pairs.vectors * pairs.values, atol=1e-12
  )
  positive = pairs.values > 1e-12
  np.testing.assert_allclose(
    pairs.vectors.T @ pairs.vectors, np.diag(positive), atol=1e-12
  )
  # And the solver's own, where no eigenvalue ties at d_out.
  solved = targets.top_eigenpairs(target, d_out)
  np.testing.assert_allclose(solved.values, pairs.values, atol=1e-12)
  if d_out == len(ids):
    np.testing.assert_allclose(solved.matrix(), pairs.matrix(), atol=1e-12)


@pytest.mark.usefixtures("unchecked")
@pytest.mark.parametrize(
  ("ids", "error", "message"),
  [
    ([1, 1, 1], ValueError, "3 points belong to 1 images"),
    ([1, 2, 3], ValueError, "3 points belong to 3 images"),
    ([[1, 1]], ValueError, r"must be \[n\]"),
    ([0.5, 0.5], TypeError, "integers"),
  ],
)
def test_ids_that_teach_nothing_are_refused(ids, error, message):
  with pytest.raises(error, match=message):
    targets.view_groups(np.array(ids))


@pytest.mark.parametrize("d_out", [0, 10])
def test_too_many_dimensions_are_refused(d_out):
  for function in (
    Contrastive().top_eigenpairs,
    NonContrastive(1.0).top_eigenpairs,
    lambda ids, d: targets.top_eigenpairs(Contrastive().target(ids), d),
  ):
    with pytest.raises(ValueError, match=f"d_out={d_out}"):
      function(np.array(EVEN), d_out)


def test_views_that_are_all_identical_are_refused():
  ids = np.array([5, 5, 2, 2, 8])
  x = np.arange(3.0)[[0, 0, 1, 1, 2]][:, None] * np.ones((1, 4))
  with pytest.raises(ValueError, match="in each of the 2 images"):
    targets.check_views(x, ids)
  x[3, 1] += 1
  targets.check_views(x, ids)
