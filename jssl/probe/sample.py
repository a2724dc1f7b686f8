"""Views of some training images: what diagnostics look at."""

from collections.abc import Callable
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jax.sharding import Mesh
from jaxtyping import Array, Float, Int, UInt8

from jssl import diagnostics, rng
from jssl.augment import Augment, views
from jssl.data.source import Source
from jssl.diagnostics import ConcentrationCurve
from jssl.diagnostics.checks import check_views_differ
from jssl.mesh import batch_sharding
from jssl.probe.encoders import flat_pixels
from jssl.typing import Keys, Pixels, PyTree

_IMAGES_A_CLASS = 10

# What measuring raises where it can't be done: the reason goes into the row.
NOT_MEASURED = (
  ValueError,
  TypeError,
  np.linalg.LinAlgError,
  MemoryError,
  jax.errors.JaxRuntimeError,
)


class Sample(NamedTuple):
  """Some training images, and the views of them that all checkpoints see.

  Attributes:
    images: [n, h, w, c].
    labels: of each.
    num_classes: k.
    weights: of each, so that a class weighs what its share is of those images
      of the whole set that are of a class looked at; the sum is 1.
    keys: of each image's views, by its row in the set.
    augment: of large views, as many as there are to be.
    num_views: v.
    mesh: batches are split over it.
  """

  images: UInt8[np.ndarray, "n h w c"]
  labels: Int[np.ndarray, "n"]
  num_classes: int
  weights: Float[np.ndarray, "n"]
  keys: Keys
  augment: Augment
  num_views: int
  mesh: Mesh

  def viewer(
    self, function: Callable[..., Float[Array, "m d"]], *, batch_size: int
  ) -> Callable[..., Float[np.ndarray, "n v d"]]:
    """Returns `(*arguments) -> what a function gives of all views`, compiled.

    Args:
      function: `(x, *arguments) -> [m, d]`, x being pixels in [0, 1], [m, crop,
        crop, c]; traced.
      batch_size: views on the devices at once, about.
    """
    v, devices = self.num_views, self.mesh.size
    rows = max(batch_size // v // devices, 1) * devices

    @jax.jit
    def of_batch(
      keys: Keys, images: Pixels, *arguments: PyTree
    ) -> Float[Array, "b v d"]:
      (x,) = views(self.augment, keys, images, v)
      # Views of an image stay together, and so on their device.
      x = jnp.swapaxes(x, 0, 1).reshape(-1, *x.shape[2:])
      return function(x, *arguments).reshape(len(images), v, -1)

    def see(*arguments: PyTree) -> Float[np.ndarray, "n v d"]:
      parts = []
      for start in range(0, len(self.images), rows):
        # What fills up the last batch are copies of the last image.
        chosen = np.minimum(start + np.arange(rows), len(self.images) - 1)
        batch = jax.device_put(
          (self.keys[chosen], self.images[chosen]), batch_sharding(self.mesh)
        )
        seen = np.asarray(of_batch(*batch, *arguments), np.float32)
        parts.append(seen[: len(self.images) - start])
      return np.concatenate(parts)

    return see


def spread_rows(
  labels: Int[np.ndarray, "n"], *, images: int
) -> Int[np.ndarray, "m"]:
  """Returns rows of all over a set, by class, ascending; the same ones always.

  As many of each class as of any other, as far as they go. Where that would be
  less than 10 of each, only some classes are looked at: means and diameters of
  classes of a few images say nothing of the classes.

  Args:
    labels: of the set; negative ones are passed over, unless all are.
    images: at most so many rows.
  """
  known = np.flatnonzero(labels >= 0)
  if not len(known):
    return np.linspace(0, len(labels) - 1, min(images, len(labels))).astype(int)
  classes = np.unique(labels[known])
  most = max(images // _IMAGES_A_CLASS, 2)
  if len(classes) > most:
    classes = classes[np.linspace(0, len(classes) - 1, most).astype(int)]
  share = max(images // len(classes), 1)
  parts = []
  for label in classes:
    own = np.flatnonzero(labels == label)
    some = np.linspace(0, len(own) - 1, min(share, len(own))).astype(int)
    parts.append(own[some])
  return np.sort(np.concatenate(parts))


def _weights(
  labels: Int[np.ndarray, "m"], own: Int[np.ndarray, "n"]
) -> Float[np.ndarray, "n"]:
  weights = np.ones(len(own))
  if own.min() >= 0:
    in_set = np.bincount(labels[labels >= 0])
    weights = in_set[own] / np.bincount(own)[own]
  return weights / weights.sum()


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
  """Fetches images, and says how views of them are made.

  Args:
    train: the set.
    labels: of all of it.
    rows: of it, as of `spread_rows`.
    augment: of the run.
    num_views: of each.
    seed: of the run; its stream "diagnostics" makes the views.
    mesh: of the devices that will see them.
  """
  own = np.asarray(labels)[rows]
  key = rng.stream(jax.random.key(seed), "diagnostics")
  return Sample(
    images=train.fetch(rows)["image"],
    labels=own,
    num_classes=train.num_classes,
    weights=_weights(labels, own),
    keys=jax.vmap(jax.random.fold_in, (None, 0))(key, rows),
    augment=augment.of_large_views(num_views),
    num_views=num_views,
    mesh=mesh,
  )


class Surroundings(NamedTuple):
  """What doesn't depend on the features.

  Attributes:
    pixels: of all views, see `view_pixels`.
    curve: 1 - sigma over delta of these views; None where it has no answer.
    why_not: reason for that.
    copies: why nothing can be said of views: they are the same. "" where they
      differ.
  """

  pixels: Float[np.ndarray, "n v p"]
  curve: ConcentrationCurve | None
  why_not: str = ""
  copies: str = ""


def view_pixels(
  sample: Sample, *, batch_size: int
) -> Float[np.ndarray, "n v p"]:
  """Returns the pixels of all views, at 32 px at most."""
  return sample.viewer(flat_pixels, batch_size=batch_size)()


def survey(sample: Sample, *, batch_size: int) -> Surroundings:
  """Measures how the augmentation concentrates the classes, once for a run."""
  pixels = view_pixels(sample, batch_size=batch_size)
  try:
    check_views_differ(pixels)
  except ValueError as error:
    return Surroundings(pixels, None, str(error), str(error))
  try:
    curve = diagnostics.concentration_curve(
      pixels, sample.labels, mesh=sample.mesh
    )
  except NOT_MEASURED as error:
    return Surroundings(pixels, None, str(error))
  return Surroundings(pixels, curve)
