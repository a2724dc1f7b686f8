import itertools

import numpy as np
import pytest
from diagnostics.cases import features, images, unit

from jssl.diagnostics import bound, concentration, rows


def test_divergence_is_the_share_of_images_with_distant_views(monkeypatch):
  monkeypatch.setattr(rows, "BLOCK", 60)
  x = features(n=11, v=3)
  wide = x.astype(np.float64)
  widest = np.array(
    [max(np.linalg.norm(a - b) for a in v for b in v) for v in wide]
  )
  epsilons = np.append(np.sort(widest)[::2] + 1e-5, [0.0, 100.0])
  curve = bound.divergence_curve(x, epsilons)
  np.testing.assert_allclose(curve, [(widest > e).mean() for e in epsilons])
  assert curve[-2] == 1
  assert curve[-1] == 0


def test_divergence_of_a_balanced_sample_is_weighted():
  """The full set has one class three times as large as the other."""
  rare, common = features(n=5, v=3), 2 * features(n=5, v=3)
  balanced = np.concatenate([rare, common])
  whole = np.concatenate([rare, *[common] * 3])
  epsilons = np.linspace(0, 3, 13)
  expected = bound.divergence_curve(whole, epsilons)
  assert np.any(bound.divergence_curve(balanced, epsilons) != expected)
  weights = np.repeat([0.05, 0.15], 5)
  found = bound.divergence_curve(balanced, epsilons, weights=weights)
  np.testing.assert_allclose(found, expected, atol=1e-6)


@pytest.mark.usefixtures("unchecked")
@pytest.mark.parametrize("weights", [np.ones(6), np.zeros(7), -np.ones(7)])
def test_invalid_weights_are_errors(weights):
  with pytest.raises(ValueError, match="weights must be"):
    bound.divergence_curve(features(), [0.1], weights=weights)


def test_divergence_is_bounded_by_the_alignment_loss():
  x = features(n=11, v=2)
  wide = x.astype(np.float64)
  align = np.mean(np.sum((wide[:, 0] - wide[:, 1]) ** 2, 1))
  epsilons = np.linspace(0.05, 2, 10)
  curve = bound.divergence_curve(x, epsilons)
  assert np.all(curve <= np.sqrt(align) / epsilons)
  assert np.all(np.diff(curve) <= 0)


def test_lipschitz_is_the_steepest_pair_of_views(monkeypatch):
  monkeypatch.setattr(rows, "BLOCK", 60)
  x = images(n=11)
  x[4, 1] = x[4, 0]
  matrix = np.random.default_rng(0).normal(size=(4, 5))
  f = (x @ matrix).astype(np.float32)
  ratios = [
    np.linalg.norm(f[i, a] - f[i, b]) / np.linalg.norm(x[i, a] - x[i, b])
    for i, a, b in itertools.product(range(11), range(3), range(3))
    if np.any(x[i, a] != x[i, b])
  ]
  steepest = bound.lipschitz_at_least(x.reshape(11, 3, 2, 2, 1), f)
  np.testing.assert_allclose(steepest, max(ratios), rtol=1e-5)
  assert steepest <= np.linalg.norm(matrix, 2)


@pytest.mark.usefixtures("unchecked")
def test_lipschitz_of_equal_views_is_an_error():
  x, f = images(), features(v=3)
  with pytest.raises(ValueError, match="3 views of each of 7 images are iden"):
    bound.lipschitz_at_least(np.repeat(x[:, :1], 3, 1), f)
  with pytest.raises(ValueError, match="first two dimensions differ"):
    bound.lipschitz_at_least(x[:6], f)
  f[2] = np.nan
  with pytest.raises(ValueError, match="features: 1 of 7 rows"):
    bound.lipschitz_at_least(x, f)
  x[[0, 3], 1] = np.nan
  with pytest.raises(ValueError, match="views: 2 of 7 rows"):
    bound.lipschitz_at_least(x, f)


def test_terms_of_the_bound_are_those_of_the_paper():
  means = np.array([[1.8, 0.0], [-0.9, 1.2], [0.0, -1.6]])
  terms = bound.generalisation_bound(
    means,
    one_minus_sigma=0.02,
    delta=0.01,
    divergence=0.003,
    epsilon=0.04,
    lipschitz=1.5,
    radius=2.0,
    min_share=0.3,
  )
  rho = 2 * 0.02 + 0.003 / 0.3 + 0.98 * (1.5 * 0.01 / 2 + 2 * 0.04 / 2)
  spread = 1 - 1.5**2 / 4
  threshold = 4 * (1 - rho - np.sqrt(2 * rho) - spread / 2)
  np.testing.assert_allclose(
    terms,
    [
      *(0.04, 0.01, 0.98 * 1.5 * 0.01 / 2, 0.98 * 0.04, rho),
      *(spread, threshold, max(-0.9 * 1.8, 0.0, -1.2 * 1.6)),
      *(True, 0.023),
    ],
  )
  assert all(type(term) is float for term in terms[:8])
  assert terms.holds is True


def test_the_condition_holds_for_a_simplex_and_not_for_equal_means():
  perfect = dict(
    one_minus_sigma=0.0,
    delta=0.0,
    divergence=0.0,
    epsilon=0.0,
    lipschitz=1.0,
    radius=1.0,
    min_share=0.25,
  )
  simplex = unit(np.eye(4) - 0.25)
  terms = bound.generalisation_bound(simplex, **perfect)
  np.testing.assert_allclose(
    [terms.rho, terms.spread, terms.threshold, terms.max_inner],
    [0, 0, 1, -1 / 3],
    atol=1e-12,
  )
  assert terms.holds
  assert terms.bound == 0
  equal = np.tile(simplex[:1], (4, 1))
  assert not bound.generalisation_bound(equal, **perfect).holds
  # Only the worst pair misses the threshold.
  near = simplex.copy()
  near[1] = unit(near[0] + 0.01 * near[1])
  terms = bound.generalisation_bound(
    near, **perfect | {"one_minus_sigma": 0.01}
  )
  assert terms.max_inner > 0.99
  assert not terms.holds


@pytest.mark.parametrize(
  ("change", "message"),
  [
    ({"class_means": np.ones((1, 3))}, "class_means has 1 rows"),
    ({"class_means": np.array([[1.0], [np.nan]])}, "class_means: 1 of 2 rows"),
    ({"one_minus_sigma": 1.1}, r"one_minus_sigma=1.1 must be in \[0, 1\]"),
    ({"divergence": np.nan}, "divergence=nan"),
    ({"delta": -1.0}, "must be finite and not negative"),
    ({"min_share": 0.6}, r"min_share=0.6 must be in \(0, 1/2\]"),
    ({"min_share": 0.0}, "min_share=0.0"),
    ({"radius": 0.5}, "radius=0.5 must be .* norm 1"),
  ],
)
def test_numbers_out_of_range_are_errors(change, message):
  arguments = dict(
    class_means=np.eye(2),
    one_minus_sigma=0.1,
    delta=1.0,
    divergence=0.1,
    epsilon=0.1,
    lipschitz=1.0,
    radius=1.0,
    min_share=0.5,
  )
  with pytest.raises(ValueError, match=message):
    bound.generalisation_bound(**arguments | change)


def test_the_tightest_bound_is_the_best_of_all():
  rng = np.random.default_rng(0)
  labels = np.arange(30) % 2
  views = rng.random((30, 4, 6)) + labels[:, None, None]
  h = unit(rng.normal(size=(30, 4, 5)) + 9 * labels[:, None, None])
  means = np.stack([h[labels == k].mean((0, 1)) for k in range(2)])
  curve = concentration.concentration_curve(views, labels)
  epsilons = np.linspace(0, 2, 21)
  divergence = bound.divergence_curve(h, epsilons)
  others = {"lipschitz": 0.3, "radius": 1.0, "min_share": 0.5}
  every = [
    bound.generalisation_bound(
      means,
      one_minus_sigma=outside,
      delta=delta,
      divergence=diverging,
      epsilon=epsilon,
      **others,
    )
    for delta, outside in zip(curve.deltas, curve.one_minus_sigma, strict=True)
    for epsilon, diverging in zip(epsilons, divergence, strict=True)
  ]
  rhos = [terms.rho for terms in every]
  got = bound.tightest_bound(means, curve, epsilons, divergence, **others)
  assert got == every[int(np.argmin(rhos))]
  # Both optima are inside of the grid.
  assert 0 < got.tolerance < 4 * (1 - got.outside / 2)
  assert got.rho < min(rhos[0], rhos[-1])
