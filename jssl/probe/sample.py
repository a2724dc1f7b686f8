"""Augmented views of a sample of training images, for the diagnostics."""

from collections.abc import Callable
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jax.sharding import Mesh
from jaxtyping import Array, Float, Int, Num

from jssl import diagnostics, rng
from jssl.augment import Augment, views
from jssl.data.source import Source
from jssl.diagnostics import ConcentrationCurve
from jssl.diagnostics.checks import check_views_differ
from jssl.mesh import batch_sharding
from jssl.probe.encoders import flat_pixels
from jssl.typing import Keys, Pixels, PyTree

_IMAGES_PER_CLASS = 10

# Exceptions of a measure that is impossible; its record gets the message.
NOT_MEASURED = (
  ValueError,
  TypeError,
  np.linalg.LinAlgError,
  MemoryError,
  jax.errors.JaxRuntimeError,
)


class Sample(NamedTuple):
  """Training images and their views, the same for all checkpoints.

  `num_classes` is that of the whole set. The weights of the images sum to 1;
  each class of the sample weighs as much as in the whole set. The key of each
  image's views is from its row in the set. Batches are split over the mesh.
  """

  images: Num[np.ndarray, "n h w c"]
  labels: Int[np.ndarray, "n"]
  num_classes: int
  weights: Float[np.ndarray, "n"]
  keys: Keys
  augment: Augment
  num_views: int
  mesh: Mesh

  def map_views(
    self, function: Callable[..., Float[Array, "m d"]], *, batch_size: int
  ) -> Callable[..., Float[np.ndarray, "n v d"]]:
    """Returns a compiled function from `*arguments` to outputs of all views.

    `function` maps (x, *arguments) to [m, d], where x holds m views in [0, 1].
    About `batch_size` views are processed at once.
    """
    v, devices = self.num_views, self.mesh.size
    rows = max(batch_size // v // devices, 1) * devices

    @jax.jit
    def apply(
      keys: Keys, images: Pixels, *arguments: PyTree
    ) -> Float[Array, "b v d"]:
      (x,) = views(self.augment, keys, images, v)
      # All views of an image stay on the device of the image.
      x = jnp.swapaxes(x, 0, 1).reshape(-1, *x.shape[2:])
      return function(x, *arguments).reshape(len(images), v, -1)

    def apply_all(*arguments: PyTree) -> Float[np.ndarray, "n v d"]:
      parts = []
      for start in range(0, len(self.images), rows):
        # Copies of the last image fill the last batch.
        chosen = np.minimum(start + np.arange(rows), len(self.images) - 1)
        batch = jax.device_put(
          (self.keys[chosen], self.images[chosen]), batch_sharding(self.mesh)
        )
        outputs = np.asarray(apply(*batch, *arguments), np.float32)
        parts.append(outputs[: len(self.images) - start])
      return np.concatenate(parts)

    return apply_all


def balanced_rows(
  labels: Int[np.ndarray, "n"], *, images: int
) -> Int[np.ndarray, "m"]:
  """Returns rows spread over a set, ascending, equally many of each class.

  Uses only some classes where each would have fewer than 10 images, too few
  for class means and diameters. Negative labels are skipped, unless all are.
  """
  known = np.flatnonzero(labels >= 0)
  if not len(known):
    return np.linspace(0, len(labels) - 1, min(images, len(labels))).astype(int)
  classes = np.unique(labels[known])
  most = max(images // _IMAGES_PER_CLASS, 2)
  if len(classes) > most:
    classes = classes[np.linspace(0, len(classes) - 1, most).astype(int)]
  share = max(images // len(classes), 1)
  parts = []
  for label in classes:
    own = np.flatnonzero(labels == label)
    some = np.linspace(0, len(own) - 1, min(share, len(own))).astype(int)
    parts.append(own[some])
  return np.sort(np.concatenate(parts))


def draw_sample(
  train: Source,
  labels: Int[np.ndarray, "m"],
  rows: Int[np.ndarray, "n"],
  augment: Augment,
  *,
  num_views: int,
  seed: int,
  mesh: Mesh,
) -> Sample:
  """Fetches images and derives the random keys of their views.

  Views use the stream "diagnostics" of the seed of the run.
  """
  own = labels[rows]
  weights = np.ones(len(own))
  if own.min() >= 0:
    in_set = np.bincount(labels[labels >= 0])
    weights = in_set[own] / np.bincount(own)[own]
  key = rng.stream(rng.root(seed), "diagnostics")
  return Sample(
    images=train.fetch(rows)["image"],
    labels=own,
    num_classes=train.num_classes,
    weights=weights / weights.sum(),
    keys=jax.vmap(jax.random.fold_in, (None, 0))(key, rows),
    augment=augment.of_large_views(num_views),
    num_views=num_views,
    mesh=mesh,
  )


class PixelViews(NamedTuple):
  """Pixels of the views, and their properties, which depend on no features.

  `curve` is 1 - sigma over delta, or None for the reason `no_curve`.
  `identical` is a message if all views of each image are the same, else "".
  """

  pixels: Float[np.ndarray, "n v p"]
  curve: ConcentrationCurve | None
  no_curve: str = ""
  identical: str = ""


def view_pixels(
  sample: Sample, *, batch_size: int
) -> Float[np.ndarray, "n v p"]:
  """Returns the pixels of all views, resized to at most 32 px."""
  return sample.map_views(flat_pixels, batch_size=batch_size)()


def measure_views(sample: Sample, *, batch_size: int) -> PixelViews:
  """Measures how the augmentation concentrates the classes."""
  pixels = view_pixels(sample, batch_size=batch_size)
  try:
    check_views_differ(views=pixels)
  except ValueError as error:
    return PixelViews(pixels, None, str(error), str(error))
  try:
    curve = diagnostics.concentration_curve(
      pixels, sample.labels, mesh=sample.mesh
    )
  except NOT_MEASURED as error:
    return PixelViews(pixels, None, str(error))
  return PixelViews(pixels, curve)
