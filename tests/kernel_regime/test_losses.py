import numpy as np
import pytest
from kernel_regime import oracle

from jssl.kernel_regime.losses import Contrastive, NonContrastive

LOSSES = [
  (Contrastive(), oracle.contrastive),
  (NonContrastive(0.3), lambda z, ids: oracle.non_contrastive(z, ids, 0.3)),
  (NonContrastive(0.0), lambda z, ids: oracle.non_contrastive(z, ids, 0.0)),
]


@pytest.mark.parametrize(("loss", "expected"), LOSSES)
def test_of_an_embedding_and_of_its_gram_matrix(loss, expected, image_ids):
  z = np.random.default_rng(0).normal(size=(12, 3)) + 1
  value = expected(z, image_ids)
  np.testing.assert_allclose(loss.value(z, image_ids), value, rtol=1e-12)
  np.testing.assert_allclose(
    loss.value_of_gram(z @ z.T, image_ids) + loss.gram_offset(3),
    value,
    rtol=1e-12,
  )
  np.testing.assert_allclose(
    loss.target_norm_sq(image_ids), np.sum(loss.target(image_ids) ** 2)
  )


@pytest.mark.parametrize(("loss", "expected"), LOSSES)
@pytest.mark.parametrize("d_out", [1, 3, 6, 12])
def test_minimum_is_the_loss_of_the_top(loss, expected, d_out, image_ids):
  top = loss.top_eigenpairs(image_ids, d_out)
  z = top.vectors * np.sqrt(top.values)
  np.testing.assert_allclose(
    loss.minimum(image_ids, d_out), expected(z, image_ids), atol=1e-11
  )
  # No neighbour is better.
  rng = np.random.default_rng(0)
  for _ in range(20):
    other = z + 0.05 * rng.normal(size=z.shape)
    assert expected(other, image_ids) >= loss.minimum(image_ids, d_out) - 1e-9


def test_non_contrastive_does_not_see_a_shift(image_ids):
  z = np.random.default_rng(0).normal(size=(12, 3))
  loss = NonContrastive(0.3)
  np.testing.assert_allclose(
    loss.value(z + 5, image_ids), loss.value(z, image_ids)
  )


@pytest.mark.usefixtures("unchecked")
def test_bad_input_is_refused(image_ids):
  with pytest.raises(ValueError, match=r"loss\.beta=-1"):
    NonContrastive(-1.0)
  with pytest.raises(ValueError, match=r"z must be \[12, d\]"):
    Contrastive().value(np.ones((3, 2)), image_ids)
