"""Patch tokens of images with masks, and the confusion of their pixels."""

from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jax.sharding import Mesh
from jaxtyping import Array, Bool, Float, Int

from jssl.augment.crop import center_crop_masks
from jssl.data import pipeline
from jssl.data.source import InMemory, Segmented, Source
from jssl.mesh import batch_sharding
from jssl.probe.encoders import Encoder
from jssl.runtime import distributed

Confusion = Int[np.ndarray, "k k"]


class Patches(NamedTuple):
  """Frozen tokens and masks of images; -1 for pixels without a label."""

  tokens: Float[np.ndarray, "n p d"]
  masks: Int[np.ndarray, "n h w"]

  def of(self, images: Bool[np.ndarray, "n"]) -> "Patches":
    """Returns the patches of some images."""
    return Patches(*(array[images] for array in self))


def read(
  source: Source,
  encoder: Encoder,
  *,
  images: int,
  crop_size_px: int,
  batch_size: int,
  mesh: Mesh,
) -> Patches:
  """Encodes up to `images` random images of a source, always the same ones.

  Raises:
    ValueError: if the source has no masks, no pixel has a label or the encoder
      no tokens.
  """
  if not isinstance(source, Segmented) or encoder.tokens is None:
    raise ValueError(
      f"probe.dense_images={images}: expected 0, because {source.name} has no "
      f"masks or {encoder.name} no patch tokens"
    )
  order = np.random.default_rng(0).permutation(len(source))
  rows = np.sort(order[:images])
  batch = source.fetch(rows)
  drawn = InMemory(
    source.name, source.class_names, batch["image"], batch["label"]
  )
  found = [
    distributed.to_host(encoder.tokens(batch["image"]))[:real].astype(
      np.float32
    )
    for batch, real in pipeline.eval_batches(
      drawn,
      batch_size=-(-batch_size // mesh.size) * mesh.size,
      sharding=batch_sharding(mesh),
    )
  ]
  h = np.concatenate(found)
  masks = center_crop_masks(source.fetch_masks(rows), size_px=crop_size_px)
  if masks.max() < 0:
    raise ValueError(
      f"probe.dense_images={images}: expected masks with classes, but all "
      f"pixels of {len(masks)} masks of {source.name} have no label (255)"
    )
  return Patches(h, masks)


def shares(
  masks: Int[np.ndarray, "n h w"], side: int, num_classes: int
) -> Float[np.ndarray, "n p k"]:
  """Returns each class's share of the pixels of `side` x `side` patches.

  Shares add up to less than 1 where pixels have no label.
  """
  n, size, _ = masks.shape
  blocks = masks.reshape(n, side, size // side, side, size // side)
  of_class = [(blocks == k).mean((2, 4)) for k in range(num_classes)]
  return np.stack(of_class, -1, dtype=np.float32).reshape(n, side**2, -1)


@jax.jit
def confusion(
  scores: Float[Array, "n p k"], masks: Int[Array, "n h w"]
) -> Int[Array, "k k"]:
  """Counts pixels by their label (row) and predicted class (column).

  The prediction is the largest bilinearly upsampled score. Pixels without a
  label do not count.
  """
  side, num_classes = round(scores.shape[1] ** 0.5), scores.shape[2]

  # One image at a time: all upsampled scores may not fit into memory.
  def add(total: Array, image: tuple[Array, Array]) -> tuple[Array, None]:
    patches, mask = image
    grid = patches.reshape(side, side, num_classes)
    pixels = jax.image.resize(grid, (*mask.shape, num_classes), "linear")
    label, predicted = mask.astype(int).ravel(), pixels.argmax(-1).ravel()
    counted = (label >= 0).astype(int)
    return total.at[label, predicted].add(counted), None

  zero = jnp.zeros((num_classes, num_classes), int)
  return jax.lax.scan(add, zero, (scores, masks))[0]


def mean_iou(confusion: Confusion) -> float:
  """Returns the mean IoU of the classes that have labels or predictions."""
  right = np.diag(confusion)
  union = confusion.sum(0) + confusion.sum(1) - right
  return float(np.mean(right[union > 0] / union[union > 0]))
