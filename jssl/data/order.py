"""The order of examples: from the number of a step to rows of the set.

Li, Efros and Pathak, "Understanding Collapse in Non-Contrastive Siamese
Representation Learning" (ECCV 2022, arXiv 2209.15007): what a method learns
from a set that it sees again and again, and from one that passes by once.
Whatever the order, an epoch has `images // batch_size` steps: all cost the
same.

The rows of a step are a function of the seed and the step alone. All but `iid`
take a part of one fixed permutation of the set in each epoch. A pass over the
part is a permutation of it, cut into batches, less the remainder; passes, each
shuffled anew, follow each other until the epoch is full, and the last is cut
short. So no batch is of two epochs or of two passes, and none holds an image
twice, which a contrastive loss would push apart from itself. This is the rule
of the authors' code, too.
"""

import dataclasses
import functools
from typing import Literal

import numpy as np

from jssl.data.source import Rows

# Follows the seed in the key of the fixed permutation. No pass has that key:
# theirs are (seed, epoch, pass), and NumPy fills them up with zeros.
_FIXED = (0, 0, 1)


@dataclasses.dataclass(frozen=True)
class Order:
  """The `order` section of a config.

  Attributes:
    name: "iid" shuffles the whole set in each epoch. "continual" cuts the fixed
      permutation into chunks, and each epoch sees the next of them alone.
      "accumulate" sees all chunks up to that one. "subset" sees the first part
      of the fixed permutation in every epoch (the authors' code the last).
      "hybrid" is continual at first and iid later.
    fraction: share of the set that subset sees.
    switch_epoch: of hybrid, the first epoch that is iid, from 0; the paper has
      40 of 100.
    epochs: number of chunks; 0 is the number of epochs of the run, of which the
      last may be cut short by `train.steps`. A run of fewer epochs ends before
      it has come to the last chunk; one of more stays with each for about
      as many epochs as with any other, before it goes on to the next.

  Raises:
    ValueError: a number is outside its range; the message names it.
  """

  name: Literal["iid", "continual", "accumulate", "subset", "hybrid"] = "iid"
  fraction: float = 1.0
  switch_epoch: int = 0
  epochs: int = 0

  def __post_init__(self) -> None:
    names = ("iid", "continual", "accumulate", "subset", "hybrid")
    if self.name not in names:
      raise ValueError(
        f"order.name={self.name!r} is not known; use one of {', '.join(names)}"
      )
    if not 0 < self.fraction <= 1:
      raise ValueError(f"order.fraction={self.fraction} must be in (0, 1]")
    for key in ("switch_epoch", "epochs"):
      if getattr(self, key) < 0:
        raise ValueError(f"order.{key}={getattr(self, key)} must not be < 0")

  def check(self, *, images: int, batch_size: int, steps: int) -> None:
    """Checks the order against a run; iid goes with every one.

    Args:
      images: in the set.
      batch_size: images in a global batch.
      steps: of the whole run.

    Raises:
      ValueError: a part of the set is smaller than a batch, or hybrid switches
        at the start of the run or past its end; says which keys to change.
    """
    if self.name == "iid":
      return
    if not 1 <= batch_size <= images:
      raise ValueError(
        f"data.batch_size={batch_size}: expected 1 to {images}, the number of "
        "images of the set"
      )
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
      what = f"order.fraction={self.fraction} of {images} images"
      remedy = f"an order.fraction of at least {batch_size}/{images}"
    else:
      chunks = self.epochs or epochs
      source = "order.epochs" if self.epochs else f"train.steps={steps}"
      what = f"one of {chunks} chunks ({source}) of {images} images"
      remedy = f"an order.epochs of 1 to {images // batch_size}"
    raise ValueError(
      f"data.batch_size={batch_size} is larger than {what}, which has "
      f"{part.stop}: a batch would hold an image twice; use {remedy}, or a "
      "smaller data.batch_size"
    )


def run_epochs(steps: int, *, images: int, batch_size: int) -> int:
  """Returns the number of epochs of a run; the last may be cut short."""
  return -(-steps // (images // batch_size))


# Three: the fixed permutation, and two because the batches ahead may be of the
# next pass.
@functools.lru_cache(maxsize=3)
def _permutation(key: tuple[int, ...], images: int) -> Rows:
  """Returns the permutation of a key.

  All at once: grain's shuffle works index by index, 20 us for each image of
  the global batch, and every host would pay it at every step. Raw bits are
  what NumPy promises never to change; its own `permutation` may.
  """
  bits = np.random.Philox(key).random_raw(images)
  return np.argsort(bits, kind="stable")


def shuffled_rows(
  step: int, *, seed: int, images: int, batch_size: int
) -> Rows:
  """Returns the rows of the global batch of a step of iid.

  Args:
    step: from 0.
    seed: of the order, not negative.
    images: in the set.
    batch_size: images in a global batch.
  """
  epoch, batch = divmod(step, images // batch_size)
  start = batch * batch_size
  return _permutation((seed, epoch), images)[start : start + batch_size]


def _part(order: Order, epoch: int, *, images: int, epochs: int) -> slice:
  """Returns which part of the fixed permutation an epoch sees, if not iid."""
  if order.name == "subset":
    return slice(0, round(order.fraction * images))
  chunks = order.epochs or epochs
  # Batches are made ahead of the end of the run: they are of the last chunk.
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
  """Returns the rows of the global batch of a step.

  Args:
    order: one that goes with the run, see `Order.check`.
    step: from 0; there is a batch for those after the run, too.
    seed: of the order, not negative.
    images: in the set.
    batch_size: images in a global batch.
    epochs: of the run, see `run_epochs`; iid doesn't look at it.
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
