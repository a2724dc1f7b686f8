import itertools

import numpy as np
import pytest
from diagnostics import cases
from diagnostics.cases import cosine

from jssl.diagnostics import entropies

N, V, D, K = 21, 5, 6, 4


def draw(noise=0.6, offset=0.0):
  return cases.features(N, V, D, noise=noise, offset=offset)


def test_maximal_invariant_entropy():
  assert entropies.maximal_invariant_entropy(1) == 0
  assert entropies.maximal_invariant_entropy(np.int64(8)) == np.log(8)
  uniform = entropies.maximal_invariant_entropy(np.full(8, 1 / 8, np.float32))
  np.testing.assert_allclose(uniform, np.log(8))
  p = np.array([0.5, 0.25, 0.25, 0.0])
  np.testing.assert_allclose(
    entropies.maximal_invariant_entropy(p), 1.5 * np.log(2)
  )


@pytest.mark.usefixtures("unchecked")
@pytest.mark.parametrize(
  ("classes", "message"),
  [
    (0, "classes must be at least 1, not 0"),
    (np.array([0.5, 0.6]), r"sum to 1; got \(2,\), smallest 0.5, sum 1.1"),
    (np.array([1.5, -0.5]), "smallest -0.5"),
    (np.array([np.nan, 1.0]), "sum nan"),
    (np.ones((1, 1)), r"got \(1, 1\)"),
  ],
)
def test_invalid_probabilities_of_images_are_errors(classes, message):
  with pytest.raises(ValueError, match=message):
    entropies.maximal_invariant_entropy(classes)


def cross_entropy(views, centres, mean, scale):
  """Mean of -log q(image | view), one view at a time."""
  found = []
  for i, image in enumerate(views):
    for view in image:
      logits = [scale * cosine(view - mean, c - mean) for c in centres]
      found.append(np.log(sum(np.exp(logit - logits[i]) for logit in logits)))
  return np.mean(found)


@pytest.mark.parametrize("offset", [0.0, 100.0])
def test_conditional_entropy_is_that_of_a_predictor_selected_on_other_views(
  mesh, offset
):
  views = draw(offset=offset)
  wide = views.astype(np.float64)
  centres = [(image[0] + image[1]) / 2 for image in wide]
  mean = sum(centres) / N
  scales = [0, 1, 2, 4, 8, 16, 32, 64, 128, 256, 512]
  by_scale = [cross_entropy(wide[:, 2:3], centres, mean, s) for s in scales]
  scale = scales[int(np.argmin(by_scale))]
  assert 1 < scale < 512
  expected = cross_entropy(wide[:, 3:], centres, mean, scale)
  found = entropies.conditional_entropy(views, mesh=mesh)
  assert isinstance(found, float)
  assert 0 < found < np.log(N)
  np.testing.assert_allclose(found, expected, rtol=3e-5 if offset else 1e-5)


def test_conditional_entropy_of_invariant_random_and_collapsed_features():
  invariant = entropies.conditional_entropy(draw(noise=1e-3))
  assert 0 <= invariant < 1e-6
  limit = np.log(N)
  useless = np.random.default_rng(1).normal(size=(N, V, D)).astype(np.float32)
  assert 0.9 * limit < entropies.conditional_entropy(useless) <= limit
  collapsed = np.full((N, V, D), 1 / 3, np.float32)
  np.testing.assert_allclose(
    entropies.conditional_entropy(collapsed), limit, rtol=1e-6
  )


def test_conditional_entropy_is_an_upper_bound():
  # Pairs of images share their features: one bit is lost, however good the
  # predictor.
  views = draw(noise=1e-3)[: N // 2 * 2]
  views = np.repeat(views[::2], 2, axis=0)
  views = views + 1e-3 * np.random.default_rng(1).normal(size=views.shape)
  found = entropies.conditional_entropy(views.astype(np.float32))
  assert np.log(2) - 1e-3 < found < np.log(2) + 0.1


def softmax(logits):
  p = np.exp(logits - logits.max(-1, keepdims=True))
  return (p / p.sum(-1, keepdims=True)).astype(np.float32)


def test_assignment_entropies_equal_their_sums(mesh):
  rng = np.random.default_rng(0)
  p = softmax(2 * rng.normal(size=(N, 1, K)) + rng.normal(size=(N, V, K)))
  wide = p.astype(np.float64)

  def entropy(row):
    return -sum(x * np.log(x) for x in row)

  divergences = [
    sum(a * np.log(a / b) for a, b in zip(image[i], image[j], strict=True))
    for image in wide
    for i, j in itertools.permutations(range(V), 2)
  ]
  found = entropies.assignment_entropies(p)
  assert all(isinstance(x, float) for x in found)
  np.testing.assert_allclose(
    found,
    [
      entropy(wide.mean((0, 1))),
      np.mean([entropy(row) for image in wide for row in image]),
      np.mean(divergences),
    ],
    rtol=1e-5,
  )


def test_assignment_entropies_of_perfect_uniform_and_collapsed_ones():
  one_hot = np.eye(K, dtype=np.float32)
  perfect = np.repeat(one_hot[np.arange(2 * K) % K][:, None], V, axis=1)
  found = entropies.assignment_entropies(perfect)
  np.testing.assert_allclose(found, [np.log(K), 0, 0], atol=1e-6)
  uniform = np.full_like(perfect, 1 / K)
  found = entropies.assignment_entropies(uniform)
  np.testing.assert_allclose(found, [np.log(K), np.log(K), 0], rtol=1e-6)
  collapsed = np.broadcast_to(one_hot[0], perfect.shape)
  assert entropies.assignment_entropies(collapsed) == (0, 0, 0)
  # Contradicting one-hot views: large but finite.
  apart = perfect.copy()
  apart[:, 0] = np.roll(apart[:, 0], 1, axis=1)
  expected = 2 / V * -np.log(np.finfo(np.float32).tiny)
  np.testing.assert_allclose(
    entropies.assignment_entropies(apart).invariance, expected, rtol=1e-5
  )


def test_invalid_assignments_are_errors():
  p = softmax(np.random.default_rng(0).normal(size=(2 * K, V, K)))
  logits = p.copy()
  logits[1, 2] *= 1.1
  logits[2, 0] += [1, -1, 0, 0]
  with pytest.raises(ValueError, match="2 of 40 rows do not sum to 1"):
    entropies.assignment_entropies(logits)
  p[1, 0, 0] = np.nan
  with pytest.raises(ValueError, match="probabilities: 1 of 8 rows"):
    entropies.assignment_entropies(p)
  with pytest.raises(ValueError, match="probabilities has 1 views"):
    entropies.assignment_entropies(p[:, :1])


@pytest.mark.usefixtures("unchecked")
def test_bad_views_are_errors():
  views = draw()
  copies = np.repeat(views[:, :1], V, axis=1)
  with pytest.raises(ValueError, match="all 5 views of each of 21 images"):
    entropies.conditional_entropy(copies)
  with pytest.raises(ValueError, match="views has 1 rows"):
    entropies.conditional_entropy(views[:1])
  with pytest.raises(TypeError, match="must be floating, not int"):
    entropies.conditional_entropy(views.astype(int))
  for bad in (np.nan, np.inf):
    for view in (0, V - 1):
      x = views.copy()
      x[[3, 5], view, 2] = bad, -bad
      with pytest.raises(ValueError, match=r"views: 2 of \d+ rows"):
        entropies.conditional_entropy(x)


def test_too_few_views_are_errors():
  views = draw()
  with pytest.raises(ValueError, match=r"views has 2 views .* at least 3"):
    entropies.conditional_entropy(views[:, :2])
