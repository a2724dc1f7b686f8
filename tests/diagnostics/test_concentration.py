import itertools

import numpy as np
import pytest
from diagnostics.cases import exact_distances, images

from jssl.diagnostics import concentration, pairs
from jssl.mesh import make_mesh


@pytest.mark.parametrize("devices", [1, 8])
@pytest.mark.parametrize("tile", [2**22, 36])
def test_augmented_distances_are_minima_over_views(devices, tile, monkeypatch):
  monkeypatch.setattr(pairs, "TILE", tile)
  views = images(n=11)
  mesh = make_mesh(4, 2) if devices == 8 else None
  distances = concentration.augmented_distances(views, mesh=mesh)
  assert distances.dtype == np.float32
  np.testing.assert_allclose(distances, exact_distances(views), rtol=1e-5)
  np.testing.assert_array_equal(distances, distances.T)
  pixels = views.reshape(11, 3, 2, 2, 1)
  np.testing.assert_array_equal(
    concentration.augmented_distances(pixels, mesh=mesh), distances
  )


@pytest.mark.parametrize("scale", [1e-2, 1e-4, 1e-6])
def test_near_duplicates_do_not_cancel(scale):
  # Three copies of two images that differ by `scale`: products of pixels in
  # float32 are off by 1e-7, so squared distances from them would be noise.
  views = np.repeat(images(n=2), 3, axis=0)
  views = np.concatenate([views, images(n=1, seed=1)])
  views[:6] += (scale * images(n=6, seed=2)).astype(np.float32)
  expected = exact_distances(views)
  assert np.sort(expected[expected > 0])[5] < 3 * scale
  np.testing.assert_allclose(
    concentration.augmented_distances(views), expected, rtol=1e-5
  )


def test_images_that_share_a_view_have_distance_zero():
  views = images()
  views[3, 2] = views[5, 0]
  distances = concentration.augmented_distances(views)
  assert distances[3, 5] == distances[5, 3] == 0
  assert np.count_nonzero(distances == 0) == len(views) + 2


def test_more_views_raise_neither_distances_nor_one_minus_sigma():
  views = images(n=12, m=6)
  labels = np.repeat([0, 1], 6)
  deltas = np.linspace(0.1, 1.2, 12)
  before = None
  for m in (2, 6):
    distances = concentration.augmented_distances(views[:, :m])
    curve = concentration.concentration_curve(
      views[:, :m], labels, deltas=deltas
    )
    if before is not None:
      assert np.all(distances <= before[0] + 1e-6)
      assert np.all(curve.one_minus_sigma <= before[1])
      assert curve.one_minus_sigma.sum() < before[1].sum()
    before = distances, curve.one_minus_sigma


def cluster(centre, n, diameter, m=3):
  """Returns n images evenly spaced on a segment, each with equal views."""
  offset = np.linspace(0, diameter, n)[:, None] * np.array([[1.0, 0, 0, 0]])
  return np.repeat((np.array([centre]) + offset)[:, None], m, 1)


def test_clusters_of_given_diameter_are_found_exactly():
  a = [
    cluster([0.2, 0.1, 0, 0], 10, 0.1),
    cluster([0.2, 0.9, 0, 0], 1, 0),
    cluster([0.2, 0.1, 0.9, 0], 1, 0),
  ]
  b = [
    cluster([0.5, 0.5, 0, 0], 7, 0.05),
    cluster([0.5, 0.5, 0, 0.4], 5, 0.02),
  ]
  views = np.concatenate([*a, *b]).astype(np.float32)
  labels = np.repeat([4, 2], 12)
  order = np.random.default_rng(0).permutation(24)
  curve = concentration.concentration_curve(
    views[order, :1], labels[order], deltas=[0.06, 0.11, 0.35, 0.45, 0.75, 1.3]
  )
  np.testing.assert_array_equal(curve.classes, [2, 4])
  # Class 2 must lose its smaller cluster, class 4 its two far images and, as
  # images are 0.1 / 9 apart, four of ten where the diameter is 0.06.
  expected = np.array([[5, 5, 5, 0, 0, 0], [6, 2, 2, 2, 2, 0]]) / 12
  np.testing.assert_allclose(curve.per_class, expected)
  np.testing.assert_allclose(curve.one_minus_sigma, expected.max(0))
  np.testing.assert_array_equal(
    curve.lower_bound <= curve.one_minus_sigma, True
  )


def test_views_join_clusters():
  # One view of each image of the second cluster lies in the first.
  first = cluster([0.2, 0.2, 0, 0], 6, 0.05)
  second = cluster([0.2, 0.8, 0, 0], 6, 0.05)
  labels = np.zeros(12, int)
  deltas = [0.06]
  apart = np.concatenate([first, second]).astype(np.float32)
  joined = apart.copy()
  joined[6:, 2] = joined[:6, 0]
  for views, expected in ((apart[:, :1], 0.5), (joined, 0.0)):
    curve = concentration.concentration_curve(views, labels, deltas=deltas)
    np.testing.assert_allclose(curve.one_minus_sigma, [expected])


def smallest_cover(far):
  pairs = np.argwhere(np.triu(far))
  for size in range(len(far)):
    for cover in itertools.combinations(range(len(far)), size):
      if np.isin(pairs, cover).any(1).all():
        return size
  raise AssertionError


@pytest.mark.parametrize("seed", range(4))
def test_covers_bracket_the_smallest_and_never_grow(seed):
  views = images(n=7, seed=seed + 10)
  exact = exact_distances(views)
  deltas = np.quantile(exact[np.triu_indices(7, 1)], np.linspace(0, 1, 9))
  deltas += 1e-4
  curve = concentration.concentration_curve(views, np.full(7, 3), deltas=deltas)
  truth = np.array([smallest_cover(exact > d) for d in deltas]) / 7
  assert np.all(curve.lower_bound <= truth + 1e-12)
  assert np.all(curve.one_minus_sigma >= truth - 1e-12)
  assert np.all(curve.one_minus_sigma <= 2 * curve.lower_bound + 1e-12)
  assert np.all(np.diff(curve.one_minus_sigma) <= 0)
  assert np.all(np.diff(curve.lower_bound) <= 0)
  assert curve.one_minus_sigma[-1] == 0


def test_default_deltas_span_the_distances_within_classes():
  views, labels = images(), np.array([0, 1, 0, 1, 0, 1, 0])
  exact = exact_distances(views)
  within = np.concatenate(
    [
      exact[np.ix_(labels == k, labels == k)][np.triu_indices(n, 1)]
      for k, n in ((0, 4), (1, 3))
    ]
  )
  curve = concentration.concentration_curve(views, labels)
  expected = np.quantile(within, np.linspace(0, 1, 33))
  np.testing.assert_allclose(curve.deltas, np.unique(expected), rtol=1e-5)
  assert curve.one_minus_sigma[0] > 0
  assert curve.one_minus_sigma[-1] == 0
  assert curve.per_class.shape == (2, len(curve.deltas))


@pytest.mark.usefixtures("unchecked")
@pytest.mark.parametrize(
  ("change", "message"),
  [
    ({"labels": np.zeros(6, int)}, r"labels must be \[n\] = \(7,\)"),
    (
      {"labels": np.array([0, 0, -1, 1, 1, -1, 1])},
      "2 of 7 rows have no label",
    ),
    ({"labels": np.arange(7)}, "each of the 7 classes has one image"),
    ({"deltas": [0.2, 0.1]}, "ascending"),
    ({"deltas": [-0.1]}, "not negative"),
    ({"deltas": [np.nan]}, "finite"),
    ({"max_bytes": 99}, r"7 images need 100 bytes.*max_bytes=99; 6 images"),
    ({"views": np.ones((7, 3, 4), np.float32)}, "all 9 augmented distances"),
    ({"views": np.ones((7, 3), np.float32)}, r"not \(7, 3\)"),
  ],
)
def test_inputs_without_a_curve_are_errors(change, message):
  arguments = {"views": images(), "labels": np.array([0, 1, 0, 1, 0, 1, 0])}
  with pytest.raises(ValueError, match=message):
    concentration.concentration_curve(**arguments | change)


@pytest.mark.parametrize("bad", [np.nan, np.inf])
def test_views_that_are_not_finite_are_counted(bad):
  views = images()
  views[[1, 4], 2, 0] = bad
  with pytest.raises(ValueError, match="views: 2 of 7 rows"):
    concentration.augmented_distances(views)


@pytest.mark.usefixtures("unchecked")
def test_integers_are_refused_as_views_and_floats_as_labels():
  with pytest.raises(
    TypeError, match=r"pixels in \[0, 1\] must be floating, not uint8"
  ):
    concentration.augmented_distances(np.zeros((3, 2, 4), np.uint8))
  with pytest.raises(TypeError, match="labels must be integers"):
    concentration.concentration_curve(images(), np.zeros(7))
