"""The points of the kernel study, and the kernel of all pairs of them."""

import functools
import pathlib
import time
import zipfile
from typing import NamedTuple

import jax
import numpy as np
from jaxtyping import Float, Int

from jssl import mesh as mesh_lib
from jssl import rng
from jssl.augment import Augment, center_view, views
from jssl.config.build import open_split
from jssl.data.source import HostBatch, Source
from jssl.kernel_regime import targets
from jssl.kernel_regime.dense import Kernel
from jssl.kernel_regime.gram import gram
from jssl.kernel_regime.study.setting import Setting, kernel_of
from jssl.typing import Keys, Pixels, Views

Indices = Int[np.ndarray, "n"]
# So many times the images are looked at, for as many of each class.
_CANDIDATES = 4


class Grams(NamedTuple):
  """The kernel of all points that the study needs, computed once.

  Points are the views of image 0, those of image 1 and so on, then the images
  themselves, as evaluation sees them. A smaller setting is a part of it.

  Attributes:
    k: of all points, [n (views + 1), n (views + 1)].
    k_test: of test images and all points, [m, n (views + 1)].
    labels: of the images, of which any first part is as even over classes as
      the whole is.
    labels_test: of the test images.
    class_names: by label.
    kernel: what it is, in words.
    seconds: that both matrices took.
  """

  k: Float[np.ndarray, "p p"]
  k_test: Float[np.ndarray, "m p"]
  labels: Int[np.ndarray, "n"]
  labels_test: Int[np.ndarray, "m"]
  class_names: tuple[str, ...]
  kernel: str
  seconds: float

  def images(self, number: int | None = None) -> Indices:
    """Returns where the first images themselves are, or all."""
    start = len(self.k) - len(self.labels)
    return start + np.arange(len(self.labels) if number is None else number)

  def views(self, number: int, images: int | None = None) -> Indices:
    """Returns where the first views are, of the first images or of all."""
    n = len(self.labels)
    most = len(self.k) // n - 1
    starts = most * np.arange(n if images is None else images)
    return (starts[:, None] + np.arange(number)).ravel()


def _evenly(labels: Int[np.ndarray, "n"], number: int) -> Indices:
  """Returns rows in an order of which any first part is even over classes."""
  place = np.empty(len(labels), int)
  for label in np.unique(labels):
    own = np.flatnonzero(labels == label)
    place[own] = np.arange(len(own))
  return np.argsort(place, kind="stable")[:number]


def _drawn(
  source: Source, number: int, *, key: str, seed: tuple[int, int]
) -> HostBatch:
  """Returns random images of a source.

  Raises:
    ValueError: there are fewer, or they have no labels.
  """
  if number > len(source):
    raise ValueError(
      f"kernels.{key}={number}: {source.name} has {len(source)} images there"
    )
  order = np.random.default_rng(seed).permutation(len(source))
  batch = source.fetch(order[: _CANDIDATES * number])
  if np.any(batch["label"] < 0):
    raise ValueError(
      f"data.name={source.name!r} has images without labels; the study judges "
      "kernels by the accuracy of classifiers"
    )
  chosen = _evenly(batch["label"], number)
  return {name: values[chosen] for name, values in batch.items()}


@functools.partial(jax.jit, static_argnums=(0, 3))
def _large(augment: Augment, keys: Keys, images: Pixels, number: int) -> Views:
  return views(augment, keys, images, number)[0]


def _views(
  augment: Augment, images: Pixels, *, number: int, seed: int, chunk: int
) -> Float[np.ndarray, "p h w c"]:
  """Returns views of each image, those of one image together."""
  augment = augment.of_large_views(number)
  root = rng.stream(jax.random.key(seed), "augment")
  keys = rng.per_row(root, len(images))
  parts = [
    np.asarray(
      _large(augment, keys[i : i + chunk], images[i : i + chunk], number)
    )
    for i in range(0, len(images), chunk)
  ]
  made = np.concatenate([np.moveaxis(part, 0, 1) for part in parts])
  return made.reshape(-1, *made.shape[2:])


def _in_words(kernel: Kernel) -> str:
  values = (
    f"{name}={value:.4g}" if isinstance(value, float) else f"{name}={value}"
    for name, value in vars(kernel).items()
  )
  return f"{type(kernel).__name__}, {', '.join(values)}"


def grams(setting: Setting) -> Grams:
  """Draws images, makes their views, and computes the kernel of all pairs.

  Blocks of the kernel are split over all devices of this process.

  Args:
    setting: config of the study.

  Raises:
    FileNotFoundError: the data set isn't prepared.
    ValueError: it has too few images or no labels, views are all identical, or
      the result doesn't fit in memory.
  """
  data, kernels = setting.data, setting.kernels
  source = open_split(data, data.split)
  train = _drawn(source, kernels.images, key="images", seed=(kernels.seed, 0))
  test = _drawn(
    open_split(data, data.test_split),
    kernels.test_images,
    key="test_images",
    seed=(kernels.seed, 1),
  )
  number = kernels.most_views
  augmented = _views(
    setting.augment,
    train["image"],
    number=number,
    seed=kernels.seed,
    chunk=data.batch_size,
  )
  targets.check_views(augmented, np.repeat(np.arange(kernels.images), number))
  size = setting.augment.crop_size_px
  own = np.asarray(center_view(train["image"], crop_size_px=size))
  points = np.concatenate([augmented, own])
  kernel = kernel_of(setting.kernel, points)
  seen = np.asarray(center_view(test["image"], crop_size_px=size))
  blocks = functools.partial(
    gram,
    kernel,
    mesh=mesh_lib.make_mesh(-1, 1, jax.local_devices()),
    memory_limit_gib=kernels.limit_gib,
  )
  started = time.perf_counter()
  k, k_test = blocks(points), blocks(seen, points)
  return Grams(
    k,
    k_test,
    train["label"],
    test["label"],
    tuple(source.class_names),
    _in_words(kernel),
    time.perf_counter() - started,
  )


def save(path: pathlib.Path, found: Grams) -> None:
  """Writes a file that is there whole or not at all."""
  temporary = path.with_name("tmp." + path.name)
  np.savez(temporary, **found._asdict())
  temporary.replace(path)


def load(path: pathlib.Path) -> Grams | None:
  """Returns what `save` wrote; None where there is nothing that can be read."""
  try:
    # NumPy leaves a file open that it can't read.
    with path.open("rb") as file, np.load(file) as kept:
      arrays = {name: kept[name] for name in Grams._fields}
  except (OSError, KeyError, ValueError, zipfile.BadZipFile):
    return None
  return Grams(
    k=arrays["k"],
    k_test=arrays["k_test"],
    labels=arrays["labels"],
    labels_test=arrays["labels_test"],
    class_names=tuple(map(str, arrays["class_names"])),
    kernel=str(arrays["kernel"]),
    seconds=float(arrays["seconds"]),
  )
