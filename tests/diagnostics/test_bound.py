import numpy as np
import pytest
from diagnostics.cases import unit

from jssl.diagnostics import bound, concentration
from jssl.diagnostics import divergence as divergence_lib


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
  # A threshold that is missed by the worst pair alone.
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
def test_numbers_that_no_bound_has_are_refused(change, message):
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
  divergence = divergence_lib.divergence_curve(h, epsilons)
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
  # Neither at an end of what was tried.
  assert 0 < got.tolerance < 4 * (1 - got.outside / 2)
  assert got.rho < min(rhos[0], rhos[-1])
