"""Vertex covers of the graph of images that are too far apart.

`far` is the symmetric matrix of its edges, False on the diagonal. A cover has
an end of every edge, so that no two of what it leaves are far apart. The
smallest one is hard to find; here are covers, and what none is below. All is
deterministic.
"""

import numpy as np
from jaxtyping import Bool, Float


def cover_shares(
  distances: Float[np.ndarray, "n n"], deltas: Float[np.ndarray, "t"]
) -> tuple[Float[np.ndarray, "t"], Float[np.ndarray, "t"]]:
  """Bounds the share that a smallest cover has, at each distance.

  Args:
    distances: symmetric, 0 on the diagonal; further apart than delta is far.
    deltas: ascending.

  Returns:
    Upper bounds, of covers that were found, and lower bounds. Neither rises.
  """
  cover = np.ones(len(distances), bool)
  upper, lower = [], []
  for delta in deltas:
    far = distances > delta
    matched = matching(far)
    cover = min(
      (pruned(far, c) for c in (cover, matched, by_degree(far))), key=np.sum
    )
    upper.append(cover.mean())
    cliques = clique_count(far) / len(far)
    lower.append(max(matched.mean() / 2, 1 - cliques))
  # What a larger delta needs, all smaller ones do.
  return np.array(upper), np.maximum.accumulate(lower[::-1])[::-1]


def matching(far: Bool[np.ndarray, "n n"]) -> Bool[np.ndarray, "n"]:
  """The ends of a maximal matching: each cover has one of every pair."""
  free = np.ones(len(far), bool)
  for vertex in range(len(far)):
    if free[vertex]:
      partners = far[vertex] & free
      partner = partners.argmax()
      if partners[partner]:
        free[[vertex, partner]] = False
  return ~free


def by_degree(far: Bool[np.ndarray, "n n"]) -> Bool[np.ndarray, "n"]:
  """Takes the vertex with most edges that are not covered, until all are."""
  cover = np.zeros(len(far), bool)
  edges = far.sum(1)
  while edges[vertex := edges.argmax()] > 0:
    cover[vertex] = True
    edges -= far[vertex]
    edges[vertex] = 0
  return cover


def clique_count(far: Bool[np.ndarray, "n n"]) -> int:
  """Cliques of a greedy partition: each cover has all but one of every."""
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
  """Drops vertices, fewest edges first, all of whose neighbours it has."""
  cover = cover.copy()
  members = np.flatnonzero(cover)
  edges = far[members].sum(1)
  for vertex in members[np.argsort(edges, kind="stable")]:
    cover[vertex] = bool(np.any(far[vertex] & ~cover))
  return cover
