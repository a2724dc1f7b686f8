"""What is measured: the decoder, the reader, batches, views."""

import contextlib
import functools
import io
import pathlib
import sys
from collections.abc import Callable, Iterator
from typing import Any

import jax
import numpy as np
import tensorflow_datasets as tfds
from PIL import Image

from jssl import mesh, rng
from jssl.augment import Augment, colour_strength, views
from jssl.data import generated, pipeline, prepare, prepared
from jssl.data.bench.rates import Rate, Subject, timed
from jssl.data.sources import Source

DECODER = "JPEG decoder"
# Batches that are taken first, since some lie ready when the clock starts.
AHEAD = 8


def decoders(encoded: list[bytes], size_px: int) -> list[Subject]:
  """Returns the decoder alone, and what the reader makes of it.

  Args:
    encoded: JPEGs.
    size_px: height and width of what the reader returns.
  """

  def load(data: bytes) -> None:
    with Image.open(io.BytesIO(data)) as image:
      image.load()

  def load_scaled(data: bytes) -> None:
    with Image.open(io.BytesIO(data)) as image:
      prepared.scale(image, "RGB", size_px)
      image.load()

  def decode(data: bytes) -> None:
    prepared.decode(data, size_px=size_px, channels=3)

  def subject(name: str, function: Callable[[bytes], None]) -> Subject:
    def take() -> int:
      for data in encoded:
        function(data)
      return len(encoded)

    return Subject(name, lambda: timed(take, len(encoded)))

  return [
    subject(DECODER, load),
    subject("JPEG decoder, scaled as the reader does", load_scaled),
    subject(f"decoded to {size_px} px", decode),
  ]


def pipelines(source: Source, batch_size: int, view_px: int) -> list[Subject]:
  """Returns the ways of batches to the devices, and of views on them.

  Args:
    source: a prepared set.
    batch_size: images of a batch.
    view_px: height and width of a view.
  """
  sharding = mesh.batch_sharding(mesh.make_mesh(-1, 1))
  simclr: dict[str, Any] = {
    "crop_size_px": view_px,
    "crop_min_area": 0.08,
    "flip_probability": 0.5,
    "jitter_probability": 0.8,
    **colour_strength(1.0),
    "grayscale_probability": 0.2,
    "blur_probability": (0.5,),
    # A tenth of the view, and odd.
    "blur_kernel_px": view_px // 10 | 1,
  }
  augment = Augment(**simclr)

  @jax.jit
  def two_views(images: jax.Array) -> Any:
    keys = rng.per_row(jax.random.key(0), len(images))
    return views(augment, keys, images, 2)

  def read() -> Rate:
    starts = iter(range(0, len(source) - batch_size + 1, batch_size))

    def take() -> int:
      rows = next(starts) + np.arange(batch_size)
      return len(source.fetch(rows)["image"])

    return timed(take, len(source) // batch_size * batch_size)

  @contextlib.contextmanager
  def batches(workers: int) -> Iterator[Iterator[dict[str, jax.Array]]]:
    iterator = pipeline.train_batches(
      source, seed=0, batch_size=batch_size, sharding=sharding, workers=workers
    )
    try:
      yield iterator
    finally:
      iterator.close()

  def to_devices(workers: int) -> Rate:
    with batches(workers) as iterator:

      def take() -> int:
        return len(jax.block_until_ready(next(iterator))["image"])

      return timed(take, len(source), AHEAD)

  def views_alone() -> Rate:
    with batches(0) as iterator:
      images = next(iterator)["image"]

    def take() -> int:
      jax.block_until_ready(two_views(images))
      return len(images)

    return timed(take, min(len(source), 4 * batch_size), 1)

  def to_views() -> Rate:
    with batches(0) as iterator:

      def take() -> int:
        images = next(iterator)["image"]
        jax.block_until_ready(two_views(images))
        return len(images)

      return timed(take, min(len(source), 8 * batch_size), AHEAD)

  return [
    Subject("read and decoded, one thread", read),
    *(
      Subject(
        f"batches on the devices, workers: {workers}",
        functools.partial(to_devices, workers),
      )
      for workers in (0, 1, 2)
    ),
    Subject("two views of what is on the devices", views_alone),
    Subject("batches and two views, workers: 0", to_views),
  ]


def prepare_photos(root: pathlib.Path, images: int) -> None:
  """Writes JPEGs to `root/photos/all`, and the set `photos` to `root/data`."""
  generated.write(root / "photos" / "all", images)
  tfds.disable_progress_bar()
  with contextlib.redirect_stdout(sys.stderr):
    prepare.prepare(
      "folder",
      source=str(root / "photos" / "all"),
      set_name="photos",
      data_dir=str(root / "data"),
    )
