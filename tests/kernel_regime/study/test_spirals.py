import numpy as np
import pytest

from jssl.kernel_regime.study import spirals


@pytest.fixture(scope="module")
def toys():
  return {
    noise: spirals.make_spirals(noise, seed=0, grid=8)
    for noise in spirals.NOISES
  }


def test_points_lie_on_two_arms(toys):
  """r = angle / last; a half turn apart."""
  points, arm = toys["along"].points, toys["along"].arm
  assert points.shape == (240, 2)
  np.testing.assert_array_equal(np.bincount(arm), [120, 120])
  turned = np.where(arm == 0, 1, -1)[:, None] * points
  radius = np.linalg.norm(points, axis=1)
  angle = np.arctan2(turned[:, 1], turned[:, 0])
  turns = (radius * 2.5 * np.pi - angle) / (2 * np.pi)
  np.testing.assert_allclose(turns, np.rint(turns), atol=1e-9)
  # Isotropic noise leaves the arms.
  radius = np.linalg.norm(toys["isotropic"].points, axis=1)
  assert not np.allclose(np.sort(radius), np.sort(radius.clip(0.2, 1)))


def test_views_along_the_arms_tell_them_apart(toys):
  along, isotropic = toys["along"], toys["isotropic"]
  assert max(along.raw_auc) < 0.7
  assert along.embedding_auc[1] > 0.99
  assert max(isotropic.embedding_auc) < max(along.embedding_auc)


def test_the_closed_form_reaches_its_minimum(toys):
  for toy in toys.values():
    np.testing.assert_allclose(toy.gap, 0, atol=1e-10)
    assert toy.raw.shape == toy.embedding.shape == (8, 8, 2)
    assert np.isfinite(toy.raw).all()
    assert np.isfinite(toy.embedding).all()
