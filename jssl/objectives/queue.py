"""Queue of projections of earlier batches."""

from typing import NamedTuple

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float, Int

from jssl.losses.rows import l2_normalize
from jssl.typing import Key


class Queue(NamedTuple):
  """Ring buffer of the last q unit vectors; `cursor` is at the oldest."""

  rows: Float[Array, "q d"]
  cursor: Int[Array, ""]


def full(key: Key, size: int, dim: int) -> Queue:
  """Returns a queue of random directions, as in MoCo."""
  return Queue(
    l2_normalize(jax.random.normal(key, (size, dim))), jnp.zeros((), jnp.int32)
  )


def push(queue: Queue, z: Float[Array, "b d"]) -> Queue:
  """Returns the queue with its b oldest rows replaced by the rows of z."""
  size, b = len(queue.rows), len(z)
  if size % b:
    raise ValueError(
      f"objective.queue_size={size} must be a multiple of data.batch_size={b}"
    )
  new = l2_normalize(z).astype(queue.rows.dtype)
  rows = jax.lax.dynamic_update_slice_in_dim(
    queue.rows, new, queue.cursor, axis=0
  )
  return Queue(rows, (queue.cursor + b) % size)
