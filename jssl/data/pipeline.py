"""The one chain of batches, from step numbers to arrays on the devices.

    step -> rows of the global batch -> rows of this host
         -> fetch and decode -> onto the devices -> prefetch

The rows of a step are a pure function of the seed and the step. Each epoch is
a permutation of its own, cut into batches, less the remainder: no batch is of
two epochs. A host takes its rows out of a batch that all hosts agree on, so
neither the examples nor their order depend on the number of hosts.
"""

import atexit
import contextlib
import functools
import operator
import sys
import weakref
from collections.abc import Iterator

import grain
import jax
import numpy as np
from jax.sharding import Sharding

from jssl.data.sources import Rows, Source
from jssl.typing import Batch


# Two, because the batches ahead may be of the next epoch.
@functools.lru_cache(maxsize=2)
def _permutation(seed: int, epoch: int, images: int) -> Rows:
  """Returns the order of an epoch.

  All at once: grain's shuffle works index by index, 20 us for each image of
  the global batch, and every host would pay it at every step. Raw bits are
  what NumPy promises never to change; its own `permutation` may.
  """
  bits = np.random.Philox([seed, epoch]).random_raw(images)
  return np.argsort(bits, kind="stable")


def shuffled_rows(
  step: int, *, seed: int, images: int, batch_size: int
) -> Rows:
  """Returns the rows of the global batch of a step.

  Args:
    step: from 0.
    seed: of the order, not negative.
    images: in the set.
    batch_size: images in a global batch.
  """
  epoch, batch = divmod(step, images // batch_size)
  start = batch * batch_size
  return _permutation(seed, epoch, images)[start : start + batch_size]


def local_rows(sharding: Sharding, batch_size: int) -> Rows:
  """Returns which rows of a global batch lie on the devices of this host."""
  parts = sharding.addressable_devices_indices_map((batch_size,)).values()
  return np.unique(np.concatenate([np.arange(batch_size)[p] for p in parts]))


def _fetched(
  rows: grain.MapDataset, source: Source, workers: int
) -> grain.IterDataset:
  """Fetches each element of `rows`, in `workers` processes."""
  # Not the default of 500 elements ahead: these are whole batches.
  no_read_ahead = grain.ReadOptions(num_threads=0, prefetch_buffer_size=0)
  return (
    rows.map(source.fetch)
    .to_iter_dataset(no_read_ahead)
    .mp_prefetch(grain.MultiprocessingOptions(num_workers=workers))
  )


def _close_at_exit(iterator: grain.DatasetIterator) -> None:
  """Stops the thread of an iterator that nobody closed.

  The interpreter aborts if a thread is inside JAX when it ends.
  """
  reference = weakref.ref(iterator)

  def close() -> None:
    if (alive := reference()) is not None:
      alive.close()

  atexit.register(close)


def _on_devices(
  batches: grain.IterDataset, sharding: Sharding, prefetch_batches: int
) -> grain.DatasetIterator:
  """Puts batches on the devices in a thread, ahead of their use."""
  # Not `grain.experimental.device_put`: with several hosts it takes the rows
  # of this one for the whole batch.
  put = functools.partial(jax.make_array_from_process_local_data, sharding)
  iterator = iter(
    grain.experimental.ThreadPrefetchIterDataset(
      batches.map(put), prefetch_buffer_size=prefetch_batches
    )
  )
  _close_at_exit(iterator)
  return iterator


def host_batches(
  source: Source, *, seed: int, batch_size: int, rows: Rows, workers: int = 0
) -> grain.IterDataset:
  """Returns one host's part of an endless, shuffled run over a source.

  Args:
    source: where the images are.
    seed: of the order, not negative.
    batch_size: images in a global batch.
    rows: the rows of each global batch that are wanted.
    workers: processes that fetch and decode; 0 does it in this one.
  """
  order = functools.partial(
    shuffled_rows, seed=seed, images=len(source), batch_size=batch_size
  )
  steps = grain.MapDataset.range(sys.maxsize)
  return _fetched(
    steps.map(order).map(operator.itemgetter(rows)), source, workers
  )


def train_batches(
  source: Source,
  *,
  seed: int,
  batch_size: int,
  sharding: Sharding,
  workers: int = 0,
  prefetch_batches: int = 2,
) -> grain.DatasetIterator:
  """Returns an endless iterator of shuffled batches on the devices.

  `get_state` is the position after the batch that was handed out last, however
  many are prepared ahead; it is plain JSON, the same on every host, and
  `set_state` needs the same set, `seed`, `batch_size` and `workers`. The
  iterator itself is a checkpointable of Orbax; `close` stops its thread.

  Args:
    source: where the images are.
    seed: of the order, not negative.
    batch_size: images in a global batch.
    sharding: how the batch dimension lies on the devices of all hosts.
    workers: processes that fetch and decode; 0 does it in a thread of this
      one, which is best for a set in memory.
    prefetch_batches: batches kept ready on the devices; 0 makes each batch
      when it is asked for.

  Returns:
    `image`: uint8 [b, h, w, c]; `label`: int32 [b], -1 where there is none.

  Raises:
    ValueError: the batch is larger than the set, or not positive.
  """
  if not 1 <= batch_size <= len(source):
    raise ValueError(
      f"data.batch_size={batch_size}: expected 1 to {len(source)}, the number "
      f"of images in {source.name}"
    )
  batches = host_batches(
    source,
    seed=seed,
    batch_size=batch_size,
    rows=local_rows(sharding, batch_size),
    workers=workers,
  )
  return _on_devices(batches, sharding, prefetch_batches)


def eval_batches(
  source: Source,
  *,
  batch_size: int,
  sharding: Sharding,
  workers: int = 0,
  prefetch_batches: int = 2,
) -> Iterator[tuple[Batch, int]]:
  """Yields the whole source in order, once, in batches of one size.

  Args:
    source: where the images are.
    batch_size: images in a global batch; may be larger than the set.
    sharding: how the batch dimension lies on the devices of all hosts.
    workers: processes that fetch and decode; 0 does it in a thread.
    prefetch_batches: batches kept ready on the devices.

  Yields:
    A batch on the devices and its number of real rows. The last batch is
    filled up with copies of the last image.
  """
  rows, last = local_rows(sharding, batch_size), len(source) - 1
  starts = range(0, len(source), batch_size)
  batches = _fetched(
    grain.MapDataset.source(starts).map(
      lambda start: np.minimum(start + rows, last)
    ),
    source,
    workers,
  )
  iterator = _on_devices(batches, sharding, prefetch_batches)
  with contextlib.closing(iterator):
    for start, batch in zip(starts, iterator, strict=True):
      yield batch, min(batch_size, len(source) - start)
