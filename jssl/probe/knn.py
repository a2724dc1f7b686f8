"""The nearest-neighbour probe: cosine similarity and a vote, nothing fitted.

The vote weighted by exp(similarity / T) is that of Wu et al. (CVPR 2018,
arXiv 1805.01978, section 3.4). Features are compared as they are, and as the
linear probe sees them, standardised: a mean that all images share says nothing
and can fill most of a cosine. Which of the two, how many neighbours and which
vote is chosen on rows held out of train.
"""

import itertools
from collections.abc import Iterator
from functools import partial
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jax.sharding import Mesh
from jaxtyping import Array, Bool, Float, Int

from jssl.mesh import batch_sharding
from jssl.probe import splits
from jssl.probe.features import Features, Scaling, scaling
from jssl.probe.splits import Result

_BANK_ROWS = 16384
_QUERY_ROWS = 1024


class Neighbours(NamedTuple):
  """The nearest rows of the bank, nearest first.

  Attributes:
    similarity: cosine; -inf where there are fewer than asked for.
    labels: their classes.
  """

  similarity: Float[Array, "q n"]
  labels: Int[Array, "q n"]


def _normalise(h: Float[Array, "n d"]) -> Float[Array, "n d"]:
  norms = jnp.linalg.norm(h, axis=1, keepdims=True)
  return h / jnp.maximum(norms, jnp.finfo(h.dtype).tiny)


@jax.jit
def _merge(
  nearest: Neighbours,
  queries: Float[Array, "q d"],
  bank: Float[Array, "n d"],
  labels: Int[Array, "n"],
  counted: Bool[Array, "n"],
) -> Neighbours:
  """Returns the nearest among those known and the counted rows of a block."""
  count = nearest.labels.shape[1]
  similarity = jnp.matmul(
    _normalise(queries),
    _normalise(bank).T,
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
  """Yields where each block comes from, and the block filled up with zeros."""
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
  scale: Scaling | None = None,
  bank_rows: int = _BANK_ROWS,
) -> list[Neighbours]:
  """Finds the nearest counted rows of the bank, never [q, n] at once.

  Args:
    queries: split over the mesh.
    bank: read once, in memory or memory-mapped.
    counted: rows of the bank that may be neighbours.
    count: neighbours of each query.
    mesh: of devices.
    scale: of the features before they are compared; None leaves them.
    bank_rows: rows of the bank that are compared at once, at most.

  Returns:
    Blocks of equal size; the queries of the last are filled up with zeros.
  """
  query_rows = -(-_QUERY_ROWS // mesh.size) * mesh.size
  # Blocks of one size, with as little to fill up as may be.
  bank_rows = -(-len(bank.h) // -(-len(bank.h) // bank_rows))
  by_row = batch_sharding(mesh)

  def scaled(h: Float[np.ndarray, "n d"]) -> Float[np.ndarray, "n d"]:
    return h if scale is None else scale(h)

  blocks = [
    jax.device_put(scaled(q), by_row) for _, q in _blocks(queries, query_rows)
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
      _merge(known, q, scaled(block), labels, valid)
      for known, q in zip(found, blocks, strict=True)
    ]
  return found


@partial(jax.jit, static_argnames=("neighbours", "temperatures", "num_classes"))
def vote(
  nearest: Neighbours,
  *,
  neighbours: tuple[int, ...],
  temperatures: tuple[float, ...],
  num_classes: int,
) -> Int[Array, "m q"]:
  """Returns the classes that win; of equals the first.

  Args:
    nearest: at least max(neighbours) of each query.
    neighbours: how many have a vote, ascending.
    temperatures: T of each weighted vote.
    num_classes: k.

  Returns:
    For each number of neighbours the plain majority, then the weighted ones.
  """
  known = jnp.isfinite(nearest.similarity)
  weights = jnp.stack(
    [
      known.astype(jnp.float32),
      *(jnp.exp((nearest.similarity - 1) / t) for t in temperatures),
    ]
  )
  votes, winners = jnp.zeros(()), []
  for start, stop in itertools.pairwise((0, *neighbours)):
    labels = nearest.labels[:, start:stop, None]
    hit = labels == jnp.arange(num_classes)[None, None]
    part = weights[:, :, start:stop, None]
    votes = votes + jnp.where(hit[None], part, 0).sum(2)
    winners.append(votes.argmax(2))
  return jnp.concatenate(winners)


def probe(
  train: Features,
  test: Features,
  *,
  mesh: Mesh,
  seeds: int,
  neighbours: tuple[int, ...],
  temperatures: tuple[float, ...],
  validation_fraction: float,
) -> Result:
  """Chooses scale, k and vote on rows held out of train, reads test once.

  Args:
    train: the bank.
    test: the queries.
    mesh: queries are split over it.
    seeds: number of splits; nothing else is random.
    neighbours: k to choose from; more than there are rows is all rows.
    temperatures: of the weighted votes; there is a plain one besides.
    validation_fraction: of train that is held out to choose.
  """
  held_out = [
    splits.hold_out(train.labels, fraction=validation_fraction, seed=seed)
    for seed in range(seeds)
  ]
  rows = min(int((~held).sum()) for held in held_out)
  ks = tuple(sorted({min(k, rows) for k in neighbours}))
  scales = {"none": None, "standardised": scaling(train.h)}
  votes = ("majority", *(f"exp(s / {t})" for t in temperatures))
  grid = list(itertools.product(scales, ks, votes))

  def right(
    queries: Features, counted: Bool[np.ndarray, "n"], scale: Scaling | None
  ) -> Bool[np.ndarray, "m q"]:
    found = nearest(
      queries.h, train, counted, count=ks[-1], mesh=mesh, scale=scale
    )
    # One after the other: on several CPU devices, programs with collectives
    # that are under way at the same time can wait for each other for ever.
    winners = [
      np.asarray(
        vote(
          block,
          neighbours=ks,
          temperatures=temperatures,
          num_classes=train.num_classes,
        )
      )
      for block in found
    ]
    predicted = np.concatenate(winners, 1)[:, : len(queries.labels)]
    return predicted == queries.labels

  def accuracies(
    queries: Features, counted: Bool[np.ndarray, "n"]
  ) -> Float[np.ndarray, "m"]:
    return np.concatenate(
      [right(queries, counted, scale).mean(1) for scale in scales.values()]
    )

  validation = np.stack(
    [
      accuracies(
        Features(train.h[held], train.labels[held], train.num_classes), ~held
      )
      for held in held_out
    ]
  )
  best = splits.best(validation)
  everywhere = np.ones(len(train.labels), bool)
  scale, k, winner = zip(*(grid[i] for i in best), strict=True)
  return Result(
    test_accuracy=accuracies(test, everywhere)[best],
    validation_accuracy=validation.max(1),
    chosen={"scale": [*scale], "neighbours": [*k], "vote": [*winner]},
  )
