"""The k-nearest-neighbour probe: cosine similarity and a vote.

The vote weighted by exp(similarity / T) is that of Wu et al. (CVPR 2018,
arXiv 1805.01978, section 3.4). Features are compared raw and standardised,
because a mean that all images share can dominate the cosine.
"""

import itertools
from collections.abc import Callable, Iterator
from functools import partial
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jax.sharding import Mesh
from jaxtyping import Array, Bool, Float, Int

from jssl.config.schema import Probe
from jssl.losses.rows import l2_normalize
from jssl.mesh import batch_sharding
from jssl.probe import splits
from jssl.probe.features import Features, scaling
from jssl.probe.splits import Result

_BANK_ROWS = 16384
_QUERY_ROWS = 1024


class Neighbours(NamedTuple):
  """Cosine similarity, -inf if there are too few, and class; nearest first."""

  similarity: Float[Array, "q n"]
  labels: Int[Array, "q n"]


@jax.jit
def _merge(
  nearest: Neighbours,
  queries: Float[Array, "q d"],
  bank: Float[Array, "n d"],
  labels: Int[Array, "n"],
  counted: Bool[Array, "n"],
) -> Neighbours:
  """Merges the counted rows of a block of the bank into the nearest."""
  count = nearest.labels.shape[1]
  similarity = jnp.matmul(
    l2_normalize(queries),
    l2_normalize(bank).T,
    precision=jax.lax.Precision.HIGHEST,
  )
  similarity = jnp.where(counted[None], similarity, -jnp.inf)
  values, index = jax.lax.top_k(similarity, min(count, len(labels)))
  values = jnp.concatenate([nearest.similarity, values], 1)
  merged = jnp.concatenate([nearest.labels, labels[index]], 1)
  values, index = jax.lax.top_k(values, count)
  return Neighbours(values, jnp.take_along_axis(merged, index, 1))


def _blocks(
  h: Float[np.ndarray, "n d"], rows: int
) -> Iterator[tuple[slice, Float[np.ndarray, "{rows} d"]]]:
  """Yields the range of each block, and the block padded with zeros."""
  for start in range(0, len(h), rows):
    block = h[start : start + rows]
    fill = ((0, rows - len(block)), (0, 0))
    yield slice(start, start + len(block)), np.pad(block, fill)


def nearest(
  queries: Float[np.ndarray, "q d"],
  bank: Features,
  counted: Bool[np.ndarray, "n"],
  *,
  count: int,
  mesh: Mesh,
  scale: Callable[[np.ndarray], np.ndarray] = np.asarray,
  bank_rows: int = _BANK_ROWS,
) -> list[Neighbours]:
  """Finds nearest neighbours block by block, never with [q, n] similarities.

  Only rows of the bank that are `counted` may be neighbours.

  Returns:
    Blocks of equal size; the last one is padded with queries of zeros.
  """
  query_rows = -(-_QUERY_ROWS // mesh.size) * mesh.size
  # Blocks of equal size with the least padding.
  bank_rows = -(-len(bank.h) // -(-len(bank.h) // bank_rows))
  by_row = batch_sharding(mesh)
  blocks = [
    jax.device_put(scale(q), by_row) for _, q in _blocks(queries, query_rows)
  ]
  unknown = Neighbours(
    jnp.full((query_rows, count), -jnp.inf),
    jnp.zeros((query_rows, count), jnp.int32),
  )
  found = [jax.device_put(unknown, by_row)] * len(blocks)
  for rows, block in _blocks(bank.h, bank_rows):
    fill = (0, bank_rows - (rows.stop - rows.start))
    labels = np.pad(bank.labels[rows], fill)
    valid = np.pad(counted[rows], fill)
    found = [
      _merge(known, q, scale(block), labels, valid)
      for known, q in zip(found, blocks, strict=True)
    ]
  return found


@partial(jax.jit, static_argnums=(1, 2, 3))
def vote(
  nearest: Neighbours,
  neighbours: tuple[int, ...],
  temperatures: tuple[float, ...],
  num_classes: int,
) -> Int[Array, "m q"]:
  """Returns the winning classes, the first one of ties.

  For each number of neighbours, in ascending order, the majority vote comes
  first, then the vote weighted by each temperature.
  """
  known = jnp.isfinite(nearest.similarity)
  # Relative to the nearest neighbour, whose weight does not underflow.
  gap = jnp.where(known, nearest.similarity - nearest.similarity[:, :1], 0)
  weights = jnp.stack(
    [jnp.ones_like(gap), *(jnp.exp(gap / t) for t in temperatures)]
  )
  weights = jnp.where(known[None], weights, 0)
  votes, winners = jnp.zeros(()), []
  for start, stop in itertools.pairwise((0, *neighbours)):
    labels = nearest.labels[:, start:stop, None]
    hit = labels == jnp.arange(num_classes)[None, None]
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
        np.asarray(vote(block, ks, temperatures, train.num_classes))
        for block in nearest(
          queries.h, train, counted, count=ks[-1], mesh=mesh, scale=scale
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
