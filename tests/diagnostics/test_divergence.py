import itertools

import numpy as np
import pytest
from diagnostics.cases import features, images

from jssl.diagnostics import blocks, divergence
from jssl.mesh import make_mesh


@pytest.mark.parametrize("devices", [1, 8])
def test_divergence_is_the_share_of_images_with_distant_views(
  devices, monkeypatch
):
  monkeypatch.setattr(blocks, "BLOCK_ROWS", 16)
  x = features(n=11, v=3)
  wide = x.astype(np.float64)
  widest = np.array(
    [max(np.linalg.norm(a - b) for a in v for b in v) for v in wide]
  )
  epsilons = np.append(np.sort(widest)[::2] + 1e-5, [0.0, 100.0])
  curve = divergence.divergence_curve(
    x, epsilons, mesh=make_mesh(4, 2) if devices == 8 else None
  )
  np.testing.assert_allclose(curve, [(widest > e).mean() for e in epsilons])
  assert curve[-2] == 1
  assert curve[-1] == 0


def test_divergence_of_a_balanced_sample_is_weighted():
  """Of a set with a class three times as large as the other."""
  rare, common = features(n=5, v=3), 2 * features(n=5, v=3)
  balanced = np.concatenate([rare, common])
  whole = np.concatenate([rare, *[common] * 3])
  epsilons = np.linspace(0, 3, 13)
  expected = divergence.divergence_curve(whole, epsilons)
  assert np.any(divergence.divergence_curve(balanced, epsilons) != expected)
  weights = np.repeat([0.05, 0.15], 5)
  found = divergence.divergence_curve(balanced, epsilons, weights=weights)
  np.testing.assert_allclose(found, expected, atol=1e-6)


@pytest.mark.parametrize("weights", [np.ones(6), np.zeros(7), -np.ones(7)])
def test_weights_that_say_nothing_are_refused(weights):
  with pytest.raises(ValueError, match="weights must be"):
    divergence.divergence_curve(features(), [0.1], weights=weights)


def test_divergence_is_bounded_by_the_alignment_loss():
  x = features(n=11, v=2)
  wide = x.astype(np.float64)
  align = np.mean(np.sum((wide[:, 0] - wide[:, 1]) ** 2, 1))
  epsilons = np.linspace(0.05, 2, 10)
  curve = divergence.divergence_curve(x, epsilons)
  assert np.all(curve <= np.sqrt(align) / epsilons)
  assert np.all(np.diff(curve) <= 0)


@pytest.mark.parametrize("devices", [1, 8])
def test_lipschitz_is_the_steepest_pair_of_views(devices, monkeypatch):
  monkeypatch.setattr(blocks, "BLOCK_ROWS", 12)
  mesh = make_mesh(4, 2) if devices == 8 else None
  x = images(n=11)
  x[4, 1] = x[4, 0]
  matrix = np.random.default_rng(0).normal(size=(4, 5))
  f = (x @ matrix).astype(np.float32)
  ratios = [
    np.linalg.norm(f[i, a] - f[i, b]) / np.linalg.norm(x[i, a] - x[i, b])
    for i, a, b in itertools.product(range(11), range(3), range(3))
    if np.any(x[i, a] != x[i, b])
  ]
  steepest = divergence.lipschitz_at_least(
    x.reshape(11, 3, 2, 2, 1), f, mesh=mesh
  )
  np.testing.assert_allclose(steepest, max(ratios), rtol=1e-5)
  assert steepest <= np.linalg.norm(matrix, 2)


def test_lipschitz_of_what_has_none_is_refused():
  x, f = images(), features(v=3)
  with pytest.raises(ValueError, match="3 views of each of 7 images are iden"):
    divergence.lipschitz_at_least(np.repeat(x[:, :1], 3, 1), f)
  with pytest.raises(ValueError, match="first two dimensions differ"):
    divergence.lipschitz_at_least(x[:6], f)
  f[2] = np.nan
  with pytest.raises(ValueError, match="features: 1 of 7 rows"):
    divergence.lipschitz_at_least(x, f)
  x[[0, 3], 1] = np.nan
  with pytest.raises(ValueError, match="views: 2 of 7 rows"):
    divergence.lipschitz_at_least(x, f)
