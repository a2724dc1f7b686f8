"""A queue of projections, for methods that keep those of earlier batches."""

from typing import NamedTuple

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float, Int

from jssl.models.heads import unit
from jssl.typing import Key


class Queue(NamedTuple):
  """The last q rows, unit vectors, as a ring.

  Attributes:
    rows: [q, d].
    cursor: of the oldest row.
  """

  rows: Float[Array, "q d"]
  cursor: Int[Array, ""]


def full(key: Key, size: int, dim: int) -> Queue:
  """Returns a queue of random directions, as MoCo's begins."""
  return Queue(
    unit(jax.random.normal(key, (size, dim))), jnp.zeros((), jnp.int32)
  )


def push(queue: Queue, z: Float[Array, "b d"]) -> Queue:
  """Returns the queue with b rows in the place of its oldest.

  Raises:
    ValueError: q is not a multiple of b.
  """
  size, b = len(queue.rows), len(z)
  if size % b:
    raise ValueError(
      f"objective.queue_size={size} must be a multiple of the {b} images of a "
      "batch (data.batch_size)"
    )
  new = unit(z).astype(queue.rows.dtype)
  rows = jax.lax.dynamic_update_slice_in_dim(
    queue.rows, new, queue.cursor, axis=0
  )
  return Queue(rows, (queue.cursor + b) % size)
