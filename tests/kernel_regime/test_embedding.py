import numpy as np
import pytest
from kernel_regime import oracle

from jssl.kernel_regime import embedding
from jssl.kernel_regime.dense import RBF
from jssl.kernel_regime.embedding import Embedding
from jssl.kernel_regime.gram import gram
from jssl.kernel_regime.losses import NonContrastive
from jssl.kernel_regime.solvers import closed_form


@pytest.fixture
def embedded(image_ids):
  x = np.random.default_rng(0).normal(size=(12, 3))
  kernel = RBF(1.0)
  k = gram(kernel, x)
  m = closed_form(k, NonContrastive(0.3).top_eigenpairs(image_ids, 3))
  return x, k, m, Embedding(kernel, x, m)


def test_induced_kernel_at_the_points_is_k_b_k(embedded):
  x, k, m, f = embedded
  z = f(x)
  np.testing.assert_allclose(
    embedding.induced_kernel(z), k @ m.T @ m @ k, atol=1e-10
  )


def test_out_of_sample_equals_a_loop(embedded):
  x, _, m, f = embedded
  new = np.random.default_rng(1).normal(size=(5, 3))
  across = np.array(
    [[np.exp(-np.sum((a - b) ** 2) / 2) for b in x] for a in new]
  )
  np.testing.assert_allclose(f(new), across @ m.T, atol=1e-10)
  np.testing.assert_allclose(f(new, block_rows=2), f(new), atol=1e-12)
  k = gram(f.kernel, x)
  np.testing.assert_allclose(
    embedding.induced_kernel(f(new), f(x)), across @ (m.T @ m) @ k, atol=1e-10
  )


def test_measures_equal_their_definitions(embedded, image_ids):
  _, k, m, _ = embedded
  z = k @ m.T + 1
  kernel = z @ z.T
  same = oracle.adjacency(image_ids) > 0
  other = image_ids[:, None] != image_ids[None]
  within, between = embedding.within_between(z, image_ids)
  np.testing.assert_allclose(within, kernel[same].mean())
  np.testing.assert_allclose(between, kernel[other].mean())
  np.testing.assert_allclose(
    embedding.induced_spectrum(z), np.linalg.eigvalsh(kernel)[::-1][:3]
  )
  np.testing.assert_allclose(
    embedding.ridge_penalty(m, k), np.trace(m.T @ m @ k)
  )
  target = np.eye(12) + same
  np.testing.assert_allclose(
    embedding.kernel_alignment(kernel, target),
    np.trace(kernel @ target)
    / np.sqrt(np.trace(kernel @ kernel) * np.trace(target @ target)),
  )
  np.testing.assert_allclose(
    embedding.kernel_alignment(target, 3 * target), 1.0
  )


@pytest.mark.usefixtures("unchecked")
def test_bad_input_is_refused(embedded, image_ids):
  x, k, m, _ = embedded
  with pytest.raises(ValueError, match=r"M must be \[d, 12\]"):
    Embedding(RBF(1.0), x, m[:, :5])
  with pytest.raises(ValueError, match=r"z must be \[12, d\]"):
    embedding.within_between(np.ones((3, 2)), image_ids)
  with pytest.raises(ValueError, match="the same shape"):
    embedding.kernel_alignment(k, k[:5, :5])
  with pytest.raises(ValueError, match="zeros"):
    embedding.kernel_alignment(k, 0 * k)
