"""The pipeline of batches, from step numbers to arrays on the devices.

    step -> rows of the global batch -> rows of this host
         -> fetch and decode -> onto the devices -> prefetch

The rows of a step are a pure function of the seed and the step, see `order`.
Each host takes its rows of the global batch, so the number of hosts changes
neither the examples nor their order.
"""

import atexit
import contextlib
import functools
import operator
import sys
import weakref
from collections.abc import Callable, Iterator
from typing import Any

import grain
import jax
import numpy as np
from jax.sharding import Sharding

from jssl.data import order as order_lib
from jssl.data.order import Order
from jssl.data.source import HostBatch, Rowed, Rows, Source
from jssl.typing import Batch

_IID = Order()


def local_rows(sharding: Sharding, batch_size: int) -> Rows:
  """Returns the rows of a global batch that this host's devices hold."""
  parts = sharding.addressable_devices_indices_map((batch_size,)).values()
  return np.unique(np.concatenate([np.arange(batch_size)[p] for p in parts]))


def _fetched(
  rows: grain.MapDataset, source: Rowed, workers: int
) -> grain.IterDataset:
  """Fetches each element of `rows` in `workers` processes."""
  # Grain's default is 500 elements ahead, and these are whole batches.
  no_read_ahead = grain.ReadOptions(num_threads=0, prefetch_buffer_size=0)
  return (
    rows.map(source.fetch)
    .to_iter_dataset(no_read_ahead)
    .mp_prefetch(grain.MultiprocessingOptions(num_workers=workers))
  )


def _close_at_exit(iterator: grain.DatasetIterator) -> None:
  # The interpreter aborts if a thread is inside JAX when it exits.
  reference = weakref.ref(iterator)

  def close() -> None:
    if (alive := reference()) is not None:
      alive.close()

  atexit.register(close)


def to_devices(sharding: Sharding, batch: HostBatch) -> Batch:
  """Returns a global batch on the devices, from the rows of this host."""
  # `grain.experimental.device_put` takes the rows of one host for the whole
  # batch.
  return jax.make_array_from_process_local_data(sharding, batch)


def _on_devices(
  batches: grain.IterDataset, sharding: Sharding, prefetch_batches: int
) -> grain.DatasetIterator:
  """Prefetches batches onto the devices in a thread."""
  put = functools.partial(to_devices, sharding)
  iterator = iter(
    grain.experimental.ThreadPrefetchIterDataset(
      batches.map(put), prefetch_buffer_size=prefetch_batches
    )
  )
  _close_at_exit(iterator)
  return iterator


class Batches(Iterator[Batch]):
  """An endless iterator of the batches of a run, on the devices.

  Its position is a step number, equal on all hosts, so that a run may continue
  with other workers or another prefetch.
  """

  def __init__(self, start: Callable[[int], grain.DatasetIterator]):
    """Starts at step 0; `start` makes an iterator of batches from a step on."""
    self._start = start
    self._step = 0
    self._batches: grain.DatasetIterator | None = None

  def __next__(self) -> Batch:
    if self._batches is None:
      self._batches = self._start(self._step)
    batch = next(self._batches)
    self._step += 1
    return batch

  def seek(self, step: int) -> None:
    """Moves to the batch of a step, counted from 0."""
    self.close()
    self._step = step

  def close(self) -> None:
    """Stops the thread and the worker processes."""
    if self._batches is not None:
      self._batches.close()
      self._batches = None


def host_batches(
  source: Source,
  *,
  seed: int,
  batch_size: int,
  rows: Rows,
  order: Order = _IID,
  total_steps: int = 0,
  workers: int = 0,
  first_step: int = 0,
) -> grain.IterDataset:
  """Returns `rows` of each global batch, on the host; see `train_batches`."""
  images = len(source)
  order.check(images=images, batch_size=batch_size, steps=total_steps)
  global_rows = functools.partial(
    order_lib.rows,
    order,
    seed=seed,
    images=images,
    batch_size=batch_size,
    epochs=order_lib.run_epochs(
      total_steps, images=images, batch_size=batch_size
    ),
  )
  steps = grain.MapDataset.range(first_step, sys.maxsize)
  return _fetched(
    steps.map(global_rows).map(operator.itemgetter(rows)), source, workers
  )


def train_batches(
  source: Source,
  *,
  batch_size: int,
  sharding: Sharding,
  prefetch_batches: int = 2,
  **options: Any,
) -> Batches:
  """Returns an endless iterator of a run's batches on the devices.

  The batch dimension of the global batch is sharded over the devices of all
  hosts. Without worker processes a thread of this process fetches and decodes,
  which is best for a set in memory.

  Args:
    source: images to train on.
    batch_size: images in a global batch.
    sharding: sharding of the batch dimension.
    prefetch_batches: batches kept ready on the devices.
    **options: the `seed`, and optionally the `order`, the `total_steps` that
      every order but "iid" needs, and the number of `workers`.

  Returns:
    Batches: `image`, [b, h, w, c] of the dtype of the source, and `label`,
    int32 [b], -1 without a label.

  Raises:
    ValueError: if the order or the batch size does not fit the run, see
      `Order.check`.
  """
  make = functools.partial(
    host_batches, source, batch_size=batch_size, **options
  )
  make(rows=np.arange(batch_size))  # Checks the options and reads nothing.

  def start(step: int) -> grain.DatasetIterator:
    batches = make(rows=local_rows(sharding, batch_size), first_step=step)
    return _on_devices(batches, sharding, prefetch_batches)

  return Batches(start)


def eval_batches(
  source: Rowed,
  *,
  batch_size: int,
  sharding: Sharding,
  workers: int = 0,
  prefetch_batches: int = 2,
  first_row: int = 0,
) -> Iterator[tuple[Batch, int]]:
  """Yields the source once, in row order, in batches of one size.

  Arguments are as in `train_batches`, but `batch_size` is rounded up to a
  multiple of the devices, and may be larger than the set. Rows before
  `first_row` are left out.

  Yields:
    A batch on the devices and its number of real rows. The last batch is
    padded with copies of the last image.
  """
  batch_size = -(-batch_size // sharding.num_devices) * sharding.num_devices
  rows, last = local_rows(sharding, batch_size), len(source) - 1
  starts = range(first_row, len(source), batch_size)
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
