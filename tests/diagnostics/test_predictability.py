import numpy as np
import pytest
from diagnostics import cases

from jssl.diagnostics import linear_predictability

N, V, D = 21, 5, 6


def draw(noise=0.6, offset=0.0):
  return cases.features(N, V, D, noise=noise, offset=offset)


def oracle_ridge(train, test, l2):
  """Ridge regression of one-hot images by least squares on all rows."""
  n, v, d = train.shape
  x = train.astype(np.float64).reshape(-1, d)
  y = np.repeat(np.eye(n), v, axis=0)
  mean = x.mean(0)
  variance = np.mean(np.sum((x - mean) ** 2, axis=1)) / d
  ridge = np.sqrt(len(x) * l2 * variance) * np.eye(d)
  left = np.concatenate([x - mean, ridge])
  right = np.concatenate([y - y.mean(0), np.zeros((d, n))])
  weights = np.linalg.lstsq(left, right, rcond=None)[0]
  hits = [
    np.argmax((view - mean) @ weights) == i
    for i, image in enumerate(test.astype(np.float64))
    for view in image
  ]
  return np.mean(hits)


@pytest.mark.parametrize("offset", [0.0, 100.0])
def test_linear_predictability_is_that_of_ridge_regression(mesh, offset):
  views = draw(offset=offset) * np.geomspace(1, 0.1, D, dtype=np.float32)
  for l2 in (1e-3, 1.0):
    expected = oracle_ridge(views[:, :2], views[:, 2:], l2)
    assert 0.1 < expected < 0.9
    found = linear_predictability(views[:, :2], views[:, 2:], l2=l2, mesh=mesh)
    assert isinstance(found, float)
    np.testing.assert_allclose(found, expected)


def test_linear_predictability_of_a_simplex_a_line_and_a_point():
  rng = np.random.default_rng(0)

  def predictability(images):
    noise = 1e-3 * rng.normal(size=(N, V, images.shape[1]))
    views = (images[:, None] + noise).astype(np.float32)
    return linear_predictability(views[:, :2], views[:, 2:])

  assert predictability(np.eye(N)) == 1
  # On a line, a linear map finds only the two ends.
  np.testing.assert_allclose(
    predictability(np.arange(N)[:, None] ** 2 * np.eye(D)[:1]), 2 / N, atol=1e-7
  )
  point = np.full((N, V, D), 1 / 3, np.float32)
  found = linear_predictability(point[:, :2], point[:, 2:])
  np.testing.assert_allclose(found, 1 / N)


def both(views):
  return linear_predictability(views[:, :2], views[:, 2:])


@pytest.mark.usefixtures("unchecked")
def test_bad_views_are_errors():
  views = draw()
  copies = np.repeat(views[:, :1], V, axis=1)
  with pytest.raises(ValueError, match="all 5 views of each of 21 images"):
    both(copies)
  with pytest.raises(ValueError, match="views has 1 rows"):
    both(views[:1])
  with pytest.raises(TypeError, match="must be floating, not int"):
    both(views.astype(int))
  for bad in (np.nan, np.inf):
    for view in (0, V - 1):
      x = views.copy()
      x[[3, 5], view, 2] = bad, -bad
      with pytest.raises(ValueError, match=r"views: 2 of \d+ rows"):
        both(x)


@pytest.mark.usefixtures("unchecked")
def test_views_of_other_images_are_errors():
  views = draw()
  with pytest.raises(ValueError, match="test_views has 0 views"):
    linear_predictability(views, views[:, :0])
  for other in (views[1:], views[..., 1:]):
    with pytest.raises(ValueError, match="must be of the same images"):
      linear_predictability(views, other)
  with pytest.raises(ValueError, match="l2 must be positive, not 0"):
    linear_predictability(views, views, l2=0)
