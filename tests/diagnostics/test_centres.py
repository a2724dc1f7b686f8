import numpy as np
import pytest
from diagnostics.cases import cosine, labelled, rows_of

from jssl.diagnostics import centres

N, D, K = 45, 6, 5


@pytest.mark.parametrize("offset", [0.0, 100.0])
@pytest.mark.parametrize("normalise", [True, False])
def test_class_means_and_measures_of_them(mesh, normalise, offset):
  views, labels = labelled(offset=offset)
  x = views[:, 0]
  wide = rows_of(x, normalise)
  # Class 5 has no rows.
  means = centres.class_means(x, labels, K + 1, normalise=normalise)
  counts, expected = np.zeros(K + 1), []
  for k in range(K):
    members = [
      row for row, label in zip(wide, labels, strict=True) if label == k
    ]
    counts[k] = len(members)
    expected.append(np.mean(members, axis=0))
  np.testing.assert_array_equal(means.counts, counts)
  np.testing.assert_allclose(means.seen, expected, rtol=1e-6, atol=1e-6)
  assert np.isnan(means.means[K]).all()
  square = np.mean([row @ row for row in wide])
  np.testing.assert_allclose(means.radius**2, square, rtol=1e-6)

  products = [
    expected[k] @ expected[j] for k in range(K) for j in range(K) if k != j
  ]
  divergence = centres.centre_divergence(means)
  np.testing.assert_allclose(
    divergence, [np.max(products), np.mean(products)], rtol=1e-5, atol=1e-6
  )
  smallest = min(mu @ mu for mu in expected)
  np.testing.assert_allclose(
    centres.centre_shrinkage(means), 1 - smallest / square, atol=1e-6
  )
  np.testing.assert_allclose(
    centres.centre_shrinkage(means, radius=50.0),
    1 - smallest / 2500,
    rtol=1e-5,
  )

  wrong = 0
  others = views[:, 1]
  for row, label in zip(rows_of(others, normalise), labels, strict=True):
    distances = [np.sum((row - mu) ** 2) for mu in expected]
    wrong += int(np.argmin(distances) != label)
  assert 0 < wrong < N
  error = centres.nearest_mean_error(others, labels, means, normalise=normalise)
  assert isinstance(error, float)
  assert error == wrong / N


def test_centres_of_a_simplex_and_collapsed_ones():
  labels = np.arange(N) % K
  simplex = np.eye(K) - 1 / K
  x = simplex[labels].astype(np.float32)
  means = centres.class_means(x, labels, K)
  np.testing.assert_allclose(
    centres.centre_divergence(means), [-1 / (K - 1)] * 2, atol=1e-6
  )
  assert abs(centres.centre_shrinkage(means)) < 1e-6
  assert centres.nearest_mean_error(x, labels, means) == 0
  x = np.ones((N, K), np.float32)
  means = centres.class_means(x, labels, K)
  np.testing.assert_allclose(centres.centre_divergence(means), [1, 1])
  assert centres.nearest_mean_error(x, labels, means) == (K - 1) / K


@pytest.mark.usefixtures("unchecked")
def test_rows_of_classes_without_a_mean_are_left_out(mesh):
  views, labels = labelled()
  x = views[:, 0]
  some = labels < 3
  means = centres.class_means(x[some], labels[some], K)
  expected = centres.nearest_mean_error(x[some], labels[some], means)
  assert 0 < expected < 1
  assert centres.nearest_mean_error(x, labels, means) == expected
  with pytest.raises(ValueError, match="no row of 18 is of the 3 classes"):
    centres.nearest_mean_error(x[~some], labels[~some], means)


@pytest.mark.usefixtures("unchecked")
def test_bad_labels_are_errors():
  views, labels = labelled()
  x = views[:, 0]
  means = centres.class_means(x, labels, K)
  for measure in (
    lambda y: centres.class_means(x, y, K),
    lambda y: centres.nearest_mean_error(x, y, means),
  ):
    with pytest.raises(ValueError, match="9 of 45 rows have no label"):
      measure(np.where(labels == 2, -1, labels))
    with pytest.raises(ValueError, match="go up to 14, but num_classes=5"):
      measure(labels + 10)
    with pytest.raises(ValueError, match="labels must be"):
      measure(labels[1:])
    with pytest.raises(TypeError, match="labels must be integers"):
      measure(labels.astype(np.float32))
  with pytest.raises(ValueError, match="all 45 rows are of class 4; this"):
    centres.class_means(x, np.full(N, 4), K)
  with pytest.raises(ValueError, match="as wide as means"):
    centres.nearest_mean_error(x[:, 1:], labels, means)
  x[4, 1] = np.nan
  with pytest.raises(ValueError, match="features: 1 of 45 rows"):
    centres.class_means(x, labels, K)
  with pytest.raises(ValueError, match="features: 1 of 45 rows"):
    centres.nearest_mean_error(x, labels, means)


def test_shrinkage_of_zero_features_is_an_error():
  means = centres.class_means(np.zeros((N, D), np.float32), np.arange(N) % K, K)
  with pytest.raises(ValueError, match="radius must be positive, not 0"):
    centres.centre_shrinkage(means)


@pytest.mark.parametrize("tile", [2**22, 12])
def test_simplex_distance_is_that_of_the_cosines(tile, monkeypatch):
  monkeypatch.setattr(centres, "TILE", tile)
  k = 8
  means = np.random.default_rng(0).normal(size=(k, D)) + 5
  centred = means - sum(means) / k
  gap = target = 0.0
  for i in range(k):
    for j in range(k):
      of_simplex = 1 if i == j else -1 / (k - 1)
      gap += (cosine(centred[i], centred[j]) - of_simplex) ** 2
      target += of_simplex**2
  found = centres.simplex_distance(means)
  np.testing.assert_allclose(found.distance, np.sqrt(gap / target), rtol=1e-12)
  norms = np.linalg.norm(centred, axis=1)
  np.testing.assert_allclose(found.norm_variation, norms.std() / norms.mean())
  assert found.distance >= np.sqrt((k - 1) / D - 1)


def test_simplex_distance_of_simplices_tight_frames_and_a_point():
  rotation = np.linalg.qr(np.random.default_rng(0).normal(size=(4, 4)))[0]
  simplex = 3 * np.eye(4) @ rotation + 7
  np.testing.assert_allclose(
    centres.simplex_distance(simplex), [0, 0], atol=1e-12
  )
  longer = np.random.default_rng(0).normal(size=(2, D))
  np.testing.assert_allclose(
    centres.simplex_distance(longer), [0, 0], atol=1e-12
  )
  # More than d + 1 points: the closest to a simplex is a tight frame.
  frame = np.concatenate([np.eye(D), -np.eye(D)])
  np.testing.assert_allclose(
    centres.simplex_distance(frame), [np.sqrt((2 * D - 1) / D - 1), 0]
  )
  point = np.full((4, D), 1 / 3)
  np.testing.assert_allclose(centres.simplex_distance(point), [1, 0])
  # One point up to rounding, and centres that are close but distinct.
  apart = np.random.default_rng(0).normal(size=(4, D))
  found = centres.simplex_distance(point * (1 + 1e-7 * apart))
  np.testing.assert_allclose(found, [1, 0])
  assert centres.simplex_distance(point * (1 + 1e-4 * apart)).distance < 1


def test_bad_means_are_errors():
  with pytest.raises(ValueError, match="means has 1 rows"):
    centres.simplex_distance(np.ones((1, D)))
  with pytest.raises(ValueError, match="means: 1 of 2 rows"):
    centres.simplex_distance(np.array([[1.0, 2.0], [np.nan, 1.0]]))
