"""Bounds on the smallest vertex cover of a graph, all deterministic.

Vertices are images; `far` [n, n] is the symmetric adjacency matrix of pairs
that are too far apart. A vertex cover contains an end of every edge, so the
remaining images are pairwise close. The smallest cover is NP-hard to find.
"""

import numpy as np
from jaxtyping import Bool, Float


def cover_shares(
  distances: Float[np.ndarray, "n n"], deltas: Float[np.ndarray, "t"]
) -> tuple[Float[np.ndarray, "t"], Float[np.ndarray, "t"]]:
  """Returns upper and lower bounds of the smallest cover's share, per distance.

  Pairs above delta are edges; deltas ascend, and neither bound increases.
  """
  cover = np.ones(len(distances), bool)
  upper, lower = [], []
  for delta in deltas:
    far = distances > delta
    matched = matching(far)
    # The cover of a smaller delta covers this graph too.
    cover = min(
      (pruned(far, c) for c in (cover, matched, by_degree(far))), key=np.sum
    )
    upper.append(cover.mean())
    cliques = clique_count(far) / len(far)
    lower.append(max(matched.mean() / 2, 1 - cliques))
  # A lower bound at a larger delta holds at all smaller ones.
  return np.array(upper), np.maximum.accumulate(lower[::-1])[::-1]


def matching(far: Bool[np.ndarray, "n n"]) -> Bool[np.ndarray, "n"]:
  """Returns the ends of a greedy matching, at most twice the optimum."""
  free = np.ones(len(far), bool)
  for vertex in range(len(far)):
    if free[vertex]:
      partners = far[vertex] & free
      partner = partners.argmax()
      if partners[partner]:
        free[[vertex, partner]] = False
  return ~free


def by_degree(far: Bool[np.ndarray, "n n"]) -> Bool[np.ndarray, "n"]:
  """Returns a greedy cover: repeatedly the vertex with most uncovered edges."""
  cover = np.zeros(len(far), bool)
  edges = far.sum(1)
  while edges[vertex := edges.argmax()] > 0:
    cover[vertex] = True
    edges -= far[vertex]
    edges[vertex] = 0
  return cover


def clique_count(far: Bool[np.ndarray, "n n"]) -> int:
  """Counts cliques of a greedy partition; a cover spares one vertex each."""
  free, count = np.ones(len(far), bool), 0
  while free.any():
    fits = free.copy()
    while fits[vertex := fits.argmax()]:
      free[vertex] = False
      fits &= far[vertex]
    count += 1
  return count


def pruned(
  far: Bool[np.ndarray, "n n"], cover: Bool[np.ndarray, "n"]
) -> Bool[np.ndarray, "n"]:
  """Removes redundant vertices from a cover, those of lowest degree first."""
  cover = cover.copy()
  members = np.flatnonzero(cover)
  edges = far[members].sum(1)
  for vertex in members[np.argsort(edges, kind="stable")]:
    cover[vertex] = bool(np.any(far[vertex] & ~cover))
  return cover
