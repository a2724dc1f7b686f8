import numpy as np

from jssl.diagnostics import vertex_cover


def test_covers_of_larger_random_graphs_are_covers_and_never_grow():
  rng = np.random.default_rng(0)
  distances = np.triu(rng.random((60, 60)), 1)
  distances += distances.T
  deltas = np.linspace(0, 1, 21)
  upper, lower = vertex_cover.cover_shares(distances, deltas)
  assert np.all(np.diff(upper) <= 0)
  assert np.all(lower <= upper)
  np.testing.assert_allclose([upper[0], lower[0]], 59 / 60)
  for delta in deltas:
    far = distances > delta
    for find in (vertex_cover.matching, vertex_cover.by_degree):
      kept = ~vertex_cover.pruned(far, find(far))
      assert not far[np.ix_(kept, kept)].any()


def test_pruning_makes_the_cover_of_a_matching_the_smallest():
  # Five images far from seven others: a matching takes five of each.
  side = np.random.default_rng(0).permutation(12) < 5
  far = side[:, None] != side[None]
  matched = vertex_cover.matching(far)
  assert matched.sum() == 10
  np.testing.assert_array_equal(vertex_cover.pruned(far, matched), side)
