"""What is measured: the decoder, the reader, batches, views."""

import contextlib
import functools
import io
import itertools
import pathlib
import sys
from collections.abc import Callable, Iterator
from typing import Any

import jax
import numpy as np
import tensorflow_datasets as tfds
from jax.sharding import Sharding
from PIL import Image

from jssl import mesh, rng
from jssl.augment import Augment, views
from jssl.bench.data.rates import Rate, Subject, timed
from jssl.config.recipes import colour_strength
from jssl.data import array_record, generated, pipeline, prepare
from jssl.data.source import Source

DECODER = "JPEG decoder"
# Batches that are taken first, since some lie ready when the clock starts.
AHEAD = 8


def decoder(name: str, encoded: list[bytes]) -> Subject:
  """Returns the decoder alone, on JPEGs as they are."""

  def load(data: bytes) -> None:
    with Image.open(io.BytesIO(data)) as image:
      image.load()

  return _each(name, load, encoded)


def _each(
  name: str, function: Callable[[bytes], None], encoded: list[bytes]
) -> Subject:
  def take() -> int:
    for data in encoded:
      function(data)
    return len(encoded)

  return Subject(name, lambda: timed(take, len(encoded)))


def decoders(encoded: list[bytes], size_px: int) -> list[Subject]:
  """Returns the decoder alone, and what the reader makes of it.

  Args:
    encoded: JPEGs.
    size_px: height and width of what the reader returns.
  """

  def load_scaled(data: bytes) -> None:
    with Image.open(io.BytesIO(data)) as image:
      array_record.scale(image, "RGB", size_px)
      image.load()

  def decode(data: bytes) -> None:
    array_record.decode(data, size_px=size_px, channels=3)

  return [
    decoder(DECODER, encoded),
    _each("JPEG decoder, scaled as the reader does", load_scaled, encoded),
    _each(f"decoded to {size_px} px", decode, encoded),
  ]


@contextlib.contextmanager
def _batches(
  source: Source, batch_size: int, sharding: Sharding, workers: int
) -> Iterator[Iterator[dict[str, jax.Array]]]:
  iterator = pipeline.train_batches(
    source, seed=0, batch_size=batch_size, sharding=sharding, workers=workers
  )
  try:
    yield iterator
  finally:
    iterator.close()


def on_devices(
  source: Source, batch_size: int, workers: int, told: str = ""
) -> Subject:
  """Returns batches from files to the devices, ahead of their use.

  Args:
    source: a prepared set.
    batch_size: images of a batch.
    workers: processes that decode.
    told: of the set, in the name.
  """
  sharding = mesh.batch_sharding(mesh.make_mesh(-1, 1))

  def run() -> Rate:
    with _batches(source, batch_size, sharding, workers) as iterator:

      def take() -> int:
        return len(jax.block_until_ready(next(iterator))["image"])

      return timed(take, len(source), AHEAD)

  return Subject(f"{told}batches on the devices, workers: {workers}", run)


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

  def transfer() -> Rate:
    # Not one batch again and again: it would stay in the caches.
    starts = range(0, len(source) - batch_size + 1, batch_size)[:AHEAD]
    host = itertools.cycle(
      [source.fetch(start + np.arange(batch_size)) for start in starts]
    )

    def take() -> int:
      batch = pipeline.to_devices(sharding, next(host))
      return len(jax.block_until_ready(batch)["image"])

    return timed(take, 8 * len(source), 1)

  batches = functools.partial(_batches, source, batch_size, sharding)

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
    Subject("batches that are there to the devices", transfer),
    *(on_devices(source, batch_size, workers) for workers in (0, 1, 2)),
    Subject("two views of what is on the devices", views_alone),
    Subject("batches and two views, workers: 0", to_views),
  ]


def stored_small(
  source: Source, encoded: list[bytes], batch_size: int
) -> list[Subject]:
  """Returns the decoder and batches, of a set that is stored at its size.

  Args:
    source: the set, see `prepare_photos`.
    encoded: its JPEGs.
    batch_size: images of a batch.
  """
  told = f"stored at {source.image_shape[0]} px: "
  return [
    decoder(f"{told}JPEG decoder", encoded),
    *(on_devices(source, batch_size, n, told) for n in (0, 1, 2)),
  ]


def prepare_photos(root: pathlib.Path, images: int, size_px: int) -> None:
  """Writes JPEGs to `root/photos/all`, and sets of them to `root/data`.

  Args:
    root: a folder.
    images: how many.
    size_px: height and width that images of the set `photos_small` are stored
      at. Those of the set `photos` are as they are.
  """
  generated.write(root / "photos" / "all", images)
  tfds.disable_progress_bar()
  for name, stored in (("photos", None), ("photos_small", size_px)):
    with contextlib.redirect_stdout(sys.stderr):
      prepare.prepare(
        "folder",
        source=str(root / "photos" / "all"),
        set_name=name,
        data_dir=str(root / "data"),
        stored_size_px=stored,
      )


def stored_files(source: array_record.Prepared) -> list[bytes]:
  """Returns the image files of a set."""
  records = source.records.__getitems__(list(range(len(source))))
  return [record[source.image_key] for record in records]
