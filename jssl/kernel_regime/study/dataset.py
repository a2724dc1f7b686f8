"""Images and views of the kernel studies, and their Gram matrices."""

import functools
import pathlib
import time
from typing import NamedTuple

import jax
import numpy as np
from absl import logging
from jaxtyping import Float, Int

from jssl import mesh as mesh_lib
from jssl import rng
from jssl.augment import Augment, center_view, views
from jssl.config.build import open_split
from jssl.data.source import HostBatch, Source
from jssl.kernel_regime import targets
from jssl.kernel_regime.gram import gram
from jssl.kernel_regime.study.config import KernelStudy
from jssl.typing import Keys, Pixels, Views

Indices = Int[np.ndarray, "n"]
# Factor by which more images are read than used, to balance classes.
_CANDIDATES = 4


class GramMatrices(NamedTuple):
  """Kernel of all points of a study. Experiments use submatrices.

  Points are the views of image 0, those of image 1 and so on, then the images
  themselves, center-cropped. Any leading part of the n images is balanced over
  classes. `k` is of p = n (views + 1) points, `k_test` of test images with
  them.
  """

  k: Float[np.ndarray, "p p"]
  k_test: Float[np.ndarray, "m p"]
  labels: Int[np.ndarray, "n"]
  labels_test: Int[np.ndarray, "m"]
  class_names: tuple[str, ...]
  kernel: str
  seconds: float

  def image_rows(self, images: int | None = None) -> Indices:
    """Indices of the first images, or of all."""
    start = len(self.k) - len(self.labels)
    return start + np.arange(len(self.labels) if images is None else images)

  def view_rows(self, views: int, images: int | None = None) -> Indices:
    """Indices of the first views of each of the first images, or of all."""
    n = len(self.labels)
    starts = (len(self.k) // n - 1) * np.arange(n if images is None else images)
    return (starts[:, None] + np.arange(views)).ravel()


def _balanced(
  labels: Int[np.ndarray, "n"], number: int
) -> Int[np.ndarray, "m"]:
  """Rows in an order of which any leading part is balanced over classes."""
  rank = np.empty(len(labels), int)
  for label in np.unique(labels):
    members = np.flatnonzero(labels == label)
    rank[members] = np.arange(len(members))
  return np.argsort(rank, kind="stable")[:number]


def _sample_images(
  source: Source, number: int, *, key: str, seed: tuple[int, int]
) -> HostBatch:
  """Random images, balanced over classes."""
  if number > len(source):
    raise ValueError(
      f"problem.{key}={number}, but {source.name} has {len(source)} images."
    )
  order = np.random.default_rng(seed).permutation(len(source))
  batch = source.fetch(order[: _CANDIDATES * number])
  if np.any(batch["label"] < 0):
    raise ValueError(
      f"data.name={source.name!r} has images without labels; the study "
      "evaluates kernels by the accuracy of classifiers."
    )
  chosen = _balanced(batch["label"], number)
  return {name: values[chosen] for name, values in batch.items()}


@functools.partial(jax.jit, static_argnums=(0, 3))
def _augmented(
  augment: Augment, keys: Keys, images: Pixels, number: int
) -> Views:
  return views(augment, keys, images, number)[0]


def _views(
  augment: Augment, images: Pixels, *, number: int, seed: int, chunk: int
) -> Float[np.ndarray, "p h w c"]:
  """Views of each image, grouped by image."""
  augment = augment.of_large_views(number)
  root = rng.stream(rng.root(seed), "augment")
  keys = rng.per_row(root, len(images))
  parts = [
    _augmented(augment, keys[i : i + chunk], images[i : i + chunk], number)
    for i in range(0, len(images), chunk)
  ]
  grouped = np.concatenate([np.moveaxis(part, 0, 1) for part in parts])
  return grouped.reshape(-1, *grouped.shape[2:])


def compute_grams(config: KernelStudy) -> GramMatrices:
  """Samples images, makes their views, and computes the kernel of all pairs.

  Blocks of the kernel are split over all devices of this process.
  """
  data, problem = config.data, config.problem
  source = open_split(data, data.split)
  train = _sample_images(
    source, problem.images, key="images", seed=(problem.seed, 0)
  )
  test = _sample_images(
    open_split(data, data.test_split),
    problem.test_images,
    key="test_images",
    seed=(problem.seed, 1),
  )
  augmented = _views(
    config.augment,
    train["image"],
    number=config.max_views,
    seed=problem.seed,
    chunk=data.batch_size,
  )
  image_ids = np.repeat(np.arange(problem.images), config.max_views)
  targets.check_views(augmented, image_ids)
  size = config.augment.crop_size_px
  cropped, cropped_test = (
    np.asarray(center_view(batch["image"], crop_size_px=size))
    for batch in (train, test)
  )
  points = np.concatenate([augmented, cropped])
  kernel = config.build_kernel(points)
  mesh = mesh_lib.make_mesh(-1, 1, jax.local_devices())
  started = time.perf_counter()
  return GramMatrices(
    k=gram(kernel, points, mesh=mesh),
    k_test=gram(kernel, cropped_test, points, mesh=mesh),
    labels=train["label"],
    labels_test=test["label"],
    class_names=tuple(source.class_names),
    kernel=str(kernel),
    seconds=time.perf_counter() - started,
  )


def save(path: pathlib.Path, grams: GramMatrices) -> None:
  """Writes the file atomically."""
  temporary = path.with_name("tmp." + path.name)
  np.savez(temporary, **grams._asdict())
  temporary.replace(path)


def load(path: pathlib.Path) -> GramMatrices | None:
  """Reads a file of `save`; None without one, or with a warning if damaged."""
  if not path.exists():
    return None
  try:
    # NumPy does not close a file that it fails to read.
    with path.open("rb") as file, np.load(file) as saved:
      arrays = {name: saved[name] for name in GramMatrices._fields}
    arrays["class_names"] = tuple(map(str, arrays["class_names"]))
    arrays["kernel"] = str(arrays["kernel"])
    arrays["seconds"] = float(arrays["seconds"])
    return GramMatrices(**arrays)
  # Damage of the archive raises many types; the file can be computed anew.
  except Exception as error:
    logging.warning("Computing %s again; it is damaged (%s).", path, error)
    return None
