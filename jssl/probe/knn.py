"""The k-nearest-neighbour probe: cosine similarity and a vote.

The vote weighted by exp(similarity / T) is that of Wu et al. (CVPR 2018,
arXiv 1805.01978, section 3.4). Features are compared raw and standardised,
because a mean that all images share can dominate the cosine.
"""

import itertools
from functools import partial
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax.sharding import Mesh
from jaxtyping import Array, Bool, Float, Int

from jssl.config.schema import Probe
from jssl.diagnostics import neighbours
from jssl.probe import splits
from jssl.probe.features import Features, scaling
from jssl.probe.splits import Result


@partial(jax.jit, static_argnums=(2, 3, 4))
def vote(
  similarity: Float[Array, "q n"],
  labels: Int[Array, "q n"],
  neighbours: tuple[int, ...],
  temperatures: tuple[float, ...],
  num_classes: int,
) -> Int[Array, "m q"]:
  """Returns the winning classes of neighbours, the first one of ties.

  Neighbours come nearest first; similarities of missing ones are -inf.
  For each number of neighbours, in ascending order, the majority vote comes
  first, then the vote weighted by each temperature.
  """
  known = jnp.isfinite(similarity)
  # Relative to the nearest neighbour, whose weight does not underflow.
  gap = jnp.where(known, similarity - similarity[:, :1], 0)
  weights = jnp.stack(
    [jnp.ones_like(gap), *(jnp.exp(gap / t) for t in temperatures)]
  )
  weights = jnp.where(known[None], weights, 0)
  votes, winners = jnp.zeros(()), []
  for start, stop in itertools.pairwise((0, *neighbours)):
    hit = labels[:, start:stop, None] == jnp.arange(num_classes)[None, None]
    part = weights[:, :, start:stop, None]
    votes = votes + jnp.where(hit[None], part, 0).sum(2)
    winners.append(votes.argmax(2))
  return jnp.concatenate(winners)


def probe(
  train: Features, test: Features, settings: Probe, *, mesh: Mesh
) -> Result:
  """Chooses scaling, k and vote on held-out rows, evaluates test once."""
  temperatures = settings.knn_temperatures
  held_out = splits.hold_out_each(train.labels, settings)
  rows = int((~held_out).sum(1).min())
  ks = tuple(sorted({min(k, rows) for k in settings.knn_neighbours}))
  scales: dict[str, Any] = {
    "none": np.asarray,
    "standardised": scaling(train.h),
  }
  votes = ("majority", *(f"exp(s / {t})" for t in temperatures))
  candidates = [
    {"scale": scale, "neighbours": k, "vote": vote}
    for scale, k, vote in itertools.product(scales, ks, votes)
  ]

  def accuracies(
    queries: Features, counted: Bool[np.ndarray, "n"]
  ) -> Float[np.ndarray, "m"]:
    found = []
    for scale in scales.values():
      # Sequentially, because concurrent programs with collectives can deadlock
      # on several CPU devices.
      winners = [
        np.asarray(
          vote(
            block.similarity,
            train.labels[np.asarray(block.rows)],
            ks,
            temperatures,
            train.num_classes,
          )
        )
        for block in neighbours.search(
          queries.h, train.h, counted, count=ks[-1], mesh=mesh, scale=scale
        )
      ]
      padded = np.concatenate(winners, 1)
      right = padded[:, : len(queries.labels)] == queries.labels
      found.append(right.mean(1))
    return np.concatenate(found)

  validation = np.stack(
    [
      accuracies(
        Features(train.h[held], train.labels[held], train.num_classes), ~held
      )
      for held in held_out
    ]
  )
  everywhere = np.ones(len(train.labels), bool)
  found = accuracies(test, everywhere)[splits.best(validation)]
  return splits.result(candidates, validation, found)
