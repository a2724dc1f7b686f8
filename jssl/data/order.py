"""Order of examples: the rows of the data set at each training step.

Li, Efros and Pathak, "Understanding Collapse in Non-Contrastive Siamese
Representation Learning" (ECCV 2022, arXiv 2209.15007) compare training on a set
that is seen again and again with a set that is seen once.

Every order has `images // batch_size` steps per epoch, so all cost the same.
The rows of a step depend on the seed and the step alone. All orders but `iid`
use a part of one fixed permutation of the set in each epoch. Passes over the
part, each shuffled anew and cut into whole batches, follow each other until the
epoch is full. A batch thus never spans two epochs or passes and never holds an
image twice, which a contrastive loss would push apart from itself. The authors'
code follows the same rule.
"""

import dataclasses
import functools
from typing import Annotated, Literal

import numpy as np

from jssl.data.source import Rows
from jssl.typing import Interval, NonNegative, check_fields

# Follows the seed in the key of the fixed permutation. The keys of passes,
# (seed, epoch, pass), are padded with zeros by NumPy and differ from it.
_FIXED = (0, 0, 1)
Name = Literal["iid", "continual", "accumulate", "subset", "hybrid"]


@dataclasses.dataclass(frozen=True)
class Order:
  """The `order` section of a config.

  Attributes:
    name: "iid" shuffles the whole set in each epoch. "continual" cuts the fixed
      permutation into chunks, and each epoch sees the next chunk only.
      "accumulate" sees all chunks up to that one. "subset" sees the first part
      of the fixed permutation in every epoch (the authors' code: the last).
      "hybrid" is continual first and iid later.
    fraction: share of the set that "subset" sees.
    switch_epoch: first iid epoch of "hybrid", from 0; 40 of 100 in the paper.
    epochs: number of chunks; 0 for the number of epochs of the run, the last of
      which may be cut short by `train.steps`. A run of fewer epochs does not
      reach the last chunk; one of more stays with each chunk for about the
      same number of epochs.

  Raises:
    ValueError: if a value is out of range.
  """

  name: Name = "iid"
  fraction: Annotated[float, Interval(0, 1, low_open=True)] = 1.0
  switch_epoch: NonNegative[int] = 0
  epochs: NonNegative[int] = 0

  def __post_init__(self) -> None:
    check_fields(self, "order")

  def check(self, *, images: int, batch_size: int, steps: int) -> None:
    """Checks the order against a run.

    Raises:
      ValueError: if the set or a part of it is smaller than a batch, or
        "hybrid" does not switch within the run.
    """
    if not 1 <= batch_size <= images:
      raise ValueError(
        f"data.batch_size={batch_size}: expected 1 to {images}, the number of "
        "images of the set"
      )
    if self.name == "iid":
      return
    if steps < 1:
      raise ValueError(
        f"train.steps={steps} must be at least 1: order.name={self.name!r} "
        "depends on the epochs of the run"
      )
    epochs = run_epochs(steps, images=images, batch_size=batch_size)
    if self.name == "hybrid" and not 1 <= self.switch_epoch < epochs:
      raise ValueError(
        f"order.switch_epoch={self.switch_epoch}: hybrid must switch at epoch "
        f"1 or later and before epoch {epochs}, the end of the run "
        f"(train.steps={steps}, data.batch_size={batch_size}, {images} images)"
      )
    # The first part is the smallest.
    part = _part(self, 0, images=images, epochs=epochs)
    if part.stop >= batch_size:
      return
    if self.name == "subset":
      remedy = f"an order.fraction of at least {batch_size}/{images}"
    else:
      remedy = f"an order.epochs of 1 to {images // batch_size}"
    raise ValueError(
      f"data.batch_size={batch_size} is larger than the {part.stop} of "
      f"{images} images that order.name={self.name!r} sees in an epoch: a "
      f"batch would hold an image twice; use {remedy}, or a smaller "
      "data.batch_size"
    )

  def check_longer(
    self, *, images: int, batch_size: int, steps: int, longer: int
  ) -> None:
    """Checks that a longer run has the rows of the run so far.

    Raises:
      ValueError: if another number of steps gives the epochs of the run other
        parts of the set.
    """
    before, after = (
      run_epochs(n, images=images, batch_size=batch_size)
      for n in (steps, longer)
    )
    seen = min(before, self.switch_epoch) if self.name == "hybrid" else before
    if self.name != "iid" and any(
      _part(self, epoch, images=images, epochs=before)
      != _part(self, epoch, images=images, epochs=after)
      for epoch in range(seen)
    ):
      raise ValueError(
        f"train.steps={longer}: expected a run of {before} epochs, as before, "
        f"because order.name={self.name!r} gives the epochs of a run of "
        f"{after} epochs other parts of the set; begin a run of {longer} steps "
        "in another --workdir"
      )


def run_epochs(steps: int, *, images: int, batch_size: int) -> int:
  """Returns the number of epochs of a run; the last may be cut short."""
  return -(-steps // (images // batch_size))


# Three: the fixed permutation and two passes, because prefetched batches may
# belong to the next pass.
@functools.lru_cache(maxsize=3)
def _permutation(key: tuple[int, ...], images: int) -> Rows:
  # Grain's shuffle takes 20 us for each image of the global batch, on every
  # host. NumPy guarantees that raw bits never change; `permutation` may.
  bits = np.random.Philox(key).random_raw(images)
  return np.argsort(bits, kind="stable")


def shuffled_rows(
  step: int, *, seed: int, images: int, batch_size: int
) -> Rows:
  """Returns the rows of a step in the order "iid"; see `rows`."""
  epoch, batch = divmod(step, images // batch_size)
  start = batch * batch_size
  return _permutation((seed, epoch), images)[start : start + batch_size]


def _part(order: Order, epoch: int, *, images: int, epochs: int) -> slice:
  """Returns the part of the fixed permutation that an epoch sees."""
  if order.name == "subset":
    return slice(0, round(order.fraction * images))
  chunks = order.epochs or epochs
  # Batches prefetched past the end of the run are of the last chunk.
  chunk = min(epoch * chunks // max(chunks, epochs), chunks - 1)
  start = 0 if order.name == "accumulate" else images * chunk // chunks
  return slice(start, images * (chunk + 1) // chunks)


def rows(
  order: Order,
  step: int,
  *,
  seed: int,
  images: int,
  batch_size: int,
  epochs: int,
) -> Rows:
  """Returns the rows of the global batch of a step, counted from 0.

  The order must fit the run, see `Order.check`. The step may be past the end.
  """
  epoch, batch = divmod(step, images // batch_size)
  if order.name == "iid" or (
    order.name == "hybrid" and epoch >= order.switch_epoch
  ):
    return shuffled_rows(step, seed=seed, images=images, batch_size=batch_size)
  part = _part(order, epoch, images=images, epochs=epochs)
  part_size = part.stop - part.start
  nth_pass, batch = divmod(batch, part_size // batch_size)
  start = batch * batch_size
  shuffled = _permutation((seed, epoch, nth_pass), part_size)
  fixed = _permutation((seed, *_FIXED), images)
  return fixed[part][shuffled[start : start + batch_size]]
