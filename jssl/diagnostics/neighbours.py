"""Exact nearest neighbours of features, block by block on the devices."""

from collections.abc import Callable, Iterator
from functools import partial
from typing import Literal, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jax.sharding import Mesh
from jaxtyping import Array, Bool, Float

from jssl.diagnostics import checks
from jssl.losses.rows import l2_normalize
from jssl.mesh import batch_sharding, make_mesh, replicated

Similarity = Literal["cosine", "dot"]

_BANK_ROWS = 16384
_QUERY_ROWS = 1024


class Neighbours(NamedTuple):
  """Similarities and rows of the bank [q, k], nearest first.

  Similarities are -inf, and rows meaningless, where there are fewer than k.
  """

  similarity: jax.Array | np.ndarray
  rows: jax.Array | np.ndarray


@partial(jax.jit, static_argnames="similarity")
def _merge(
  nearest: Neighbours,
  queries: Float[Array, "q d"],
  bank: Float[Array, "n d"],
  first: Array,
  counted: Bool[Array, "n"],
  similarity: Similarity,
) -> Neighbours:
  """Merges the counted rows of a block, from row `first`, into the nearest."""
  count = nearest.rows.shape[1]
  if similarity == "cosine":
    queries, bank = l2_normalize(queries), l2_normalize(bank)
  found = jnp.matmul(queries, bank.T, precision=jax.lax.Precision.HIGHEST)
  found = jnp.where(counted[None], found, -jnp.inf)
  values, index = jax.lax.top_k(found, min(count, len(bank)))
  # The earlier block comes first, so that the first of equal rows is nearer.
  values = jnp.concatenate([nearest.similarity, values], 1)
  merged = jnp.concatenate([nearest.rows, first + index], 1)
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


def search(
  queries: Float[np.ndarray, "q d"],
  bank: Float[np.ndarray, "n d"],
  counted: Bool[np.ndarray, "n"],
  *,
  count: int,
  mesh: Mesh,
  similarity: Similarity = "cosine",
  scale: Callable[[np.ndarray], np.ndarray] = np.asarray,
  bank_rows: int = _BANK_ROWS,
) -> list[Neighbours]:
  """Finds nearest neighbours block by block, never with [q, n] similarities.

  Only rows of the bank that are `counted` may be neighbours.

  Returns:
    Blocks of equal size; the last one is padded with queries of zeros.
  """
  query_rows = -(-min(_QUERY_ROWS, len(queries)) // mesh.size) * mesh.size
  # Blocks of equal size with the least padding.
  bank_rows = -(-len(bank) // -(-len(bank) // bank_rows))
  by_row = batch_sharding(mesh)
  blocks = [
    jax.device_put(scale(q), by_row) for _, q in _blocks(queries, query_rows)
  ]
  unknown = Neighbours(
    jnp.full((query_rows, count), -jnp.inf),
    jnp.zeros((query_rows, count), jnp.int32),
  )
  found = [jax.device_put(unknown, by_row)] * len(blocks)
  for rows, block in _blocks(bank, bank_rows):
    fill = (0, bank_rows - (rows.stop - rows.start))
    first, valid = np.int32(rows.start), np.pad(counted[rows], fill)
    # Once per block of the bank, not once per block of queries.
    on_devices = jax.device_put(scale(block), replicated(mesh))
    found = [
      _merge(known, q, on_devices, first, valid, similarity)
      for known, q in zip(found, blocks, strict=True)
    ]
  return found


def nearest_neighbours(
  queries: Float[np.ndarray, "q d"],
  bank: Float[np.ndarray, "n d"],
  *,
  k: int,
  similarity: Similarity = "cosine",
  mesh: Mesh | None = None,
) -> Neighbours:
  """The k rows of a bank that are most similar to each query, exactly.

  Blocks of queries and of the bank are compared on the devices, so that memory
  does not grow with q n.

  Example:
    >>> h = np.random.default_rng(0).normal(size=(100, 8)).astype("float32")
    >>> nearest_neighbours(h[:2], h, k=3).rows[:, 0]
    array([0, 1], dtype=int32)

  Args:
    queries: features of the queries, [q, d].
    bank: features to search, [n, d]; may be memory-mapped.
    k: number of neighbours, at most n.
    similarity: "cosine", or "dot" for the inner product of rows as they are.
    mesh: mesh whose devices share the queries; None for one device.

  Returns:
    Similarities and rows of the bank, [q, k], nearest first. Of equal rows the
    first comes first.
  """
  for name, rows in (("queries", queries), ("bank", bank)):
    checks.check_features(rows, name, rows=1)
    checks.check_finite(**{name: rows})
  if queries.shape[1] != bank.shape[1]:
    raise ValueError(
      f"queries of {queries.shape[1]} and a bank of {bank.shape[1]} columns: "
      "expected as many"
    )
  if not 1 <= k <= len(bank):
    raise ValueError(f"k={k}: expected 1 to {len(bank)}, the rows of the bank")
  found = search(
    queries,
    bank,
    np.ones(len(bank), bool),
    count=k,
    mesh=mesh or make_mesh(1, 1, jax.local_devices()[:1]),
    similarity=similarity,
  )
  return Neighbours(
    *(np.concatenate(part)[: len(queries)] for part in zip(*found, strict=True))
  )
