"""Images per second and core, from JPEG to device.

On synthetic JPEGs with the sizes of ImageNet's, prepared as any folder is. A
core is one second of processor time of this process and its children. Ratios
are to pillow's JPEG decoder, at full size, in the same round.
"""

import argparse
import collections
import contextlib
import io
import itertools
import pathlib
import tempfile
from collections.abc import Callable, Iterator
from functools import partial
from typing import Any

import jax
import numpy as np
import PIL
import simplejpeg
from absl import flags
from PIL import Image, features

from jssl import mesh, rng
from jssl.augment import Augment, views
from jssl.bench import augment, harness, photos, torchvision_loader
from jssl.bench.harness import Case, Timing, timed
from jssl.data import array_record, pipeline
from jssl.data.decode import decode
from jssl.data.source import Source

FLAGS = {
  "rounds": (5, "measurements of each case"),
  "images": (512, "JPEGs to draw"),
  "image_size_px": (256, "height and width of decoded images"),
  "view_size_px": (224, "height and width of views"),
  "batch_size": (32, "images"),
  "torchvision": (
    "",
    "Python with torch, torchvision and psutil, to measure its loader as well",
  ),
  "only": ("", "beginnings of cases, separated by commas; all if empty"),
}
# Batches to take before the clock starts, because some are prefetched.
_AHEAD = 8


def _decoding(
  name: str, function: Callable[[bytes], Any], files: list[bytes]
) -> Case:
  def decode_all() -> None:
    for data in files:
      function(data)

  return Case(name, partial(timed, decode_all, items=len(files)))


def _load(data: bytes) -> None:
  with Image.open(io.BytesIO(data)) as file:
    file.load()


def _torchvision(python: str, folder: pathlib.Path) -> Iterator[Case]:
  """Yields the cases of `torchvision_loader` in another environment."""
  run = partial(
    harness.time_script, python, torchvision_loader.__file__, str(folder)
  )
  for case, name in (
    ("squares", f"resized to {torchvision_loader.IMAGE_SIZE_PX} px"),
    ("views", "two views"),
  ):
    yield Case(f"torchvision, {name}, workers: 1", partial(run, case, "1"))


def _batches(
  source: Source,
  batch_size: int,
  workers: int,
  calls: int,
  use: Callable[[jax.Array], Any] = lambda images: images,
) -> Timing:
  """Times the pipeline of training; `use` is applied to images on the device.

  Args:
    source: images of the set.
    batch_size: images of a batch.
    workers: worker processes, see `pipeline.train_batches`.
    calls: number of batches.
    use: further work on the images of each batch.
  """
  batches = pipeline.train_batches(
    source,
    seed=0,
    batch_size=batch_size,
    sharding=mesh.batch_sharding(mesh.make_mesh(-1, 1)),
    workers=workers,
  )
  with contextlib.closing(batches):
    return timed(
      lambda: use(next(batches)["image"]),
      items=batch_size,
      calls=calls,
      ahead=_AHEAD,
    )


def _parts(source: Source, batch_size: int, view_px: int) -> Iterator[Case]:
  """Yields cases of reading, transfers and views, each by itself."""
  sharding = mesh.batch_sharding(mesh.make_mesh(-1, 1))
  calls = len(source) // batch_size
  rows = np.arange(calls * batch_size).reshape(calls, batch_size)
  simclr = Augment(**collections.ChainMap(*augment.simclr(view_px).values()))

  @jax.jit
  def two_views(images: jax.Array) -> Any:
    keys = rng.per_row(rng.root(0), len(images))
    return views(simclr, keys, images, 2)

  def read() -> Timing:
    of_batch = iter(rows)
    return timed(
      lambda: source.fetch(next(of_batch)), items=batch_size, calls=calls
    )

  def transfer() -> Timing:
    # Several batches: a single one would stay in the caches.
    batches = itertools.cycle([source.fetch(own) for own in rows[:_AHEAD]])
    return timed(
      lambda: pipeline.to_devices(sharding, next(batches)),
      items=batch_size,
      calls=8 * calls,
      ahead=1,
    )

  def views_alone() -> Timing:
    images = pipeline.to_devices(sharding, source.fetch(rows[0]))["image"]
    some = min(calls, 4)
    return timed(
      lambda: two_views(images), items=batch_size, calls=some, ahead=1
    )

  yield Case("read and decoded, one thread", read)
  yield Case("transfer of batches to the device", transfer)
  yield Case("two views on the device", views_alone)
  some = min(calls, 8)
  run = partial(_batches, source, batch_size, 0, some, two_views)
  yield Case("batches and two views, workers: 0", run)


def cases(root: pathlib.Path, args: argparse.Namespace) -> Iterator[Case]:
  """Yields all cases on the sets of `photos.prepare_sets(root, ...)`."""
  size_px, batch_size = args.image_size_px, args.batch_size
  files = [p.read_bytes() for p in sorted((root / "photos").rglob("*.jpg"))]
  source, small = (
    array_record.open_prepared(
      name,
      data_dir=str(root / "data"),
      split="train+test",
      image_size_px=size_px,
    )
    for name in ("photos", "photos_small")
  )

  def pipeline_cases(source: Source, prefix: str) -> Iterator[Case]:
    for workers in (0, 1, 2):
      run = partial(
        _batches, source, batch_size, workers, len(source) // batch_size
      )
      yield Case(f"{prefix}batches on the device, workers: {workers}", run)

  batch = np.empty((batch_size, size_px, size_px, 3), np.uint8)
  places = itertools.cycle(range(batch_size))

  def decode_into_batch(data: bytes) -> None:
    batch[next(places)] = decode(data, size_px=size_px, channels=3)

  yield _decoding("JPEG decoder", _load, files)
  yield _decoding("JPEG decoder of the reader", simplejpeg.decode_jpeg, files)
  yield _decoding(
    f"decoded to {size_px} px, in batches", decode_into_batch, files
  )
  yield from pipeline_cases(source, "")
  yield from _parts(source, batch_size, args.view_size_px)
  records = small.records.__getitems__(list(range(len(small))))
  stored = [record[small.image_key] for record in records]
  prefix = f"stored at {size_px} px: "
  yield _decoding(f"{prefix}JPEG decoder", _load, stored)
  yield from pipeline_cases(small, prefix)
  if args.torchvision:
    yield from _torchvision(args.torchvision, root / "photos")


def _grain_overhead(rows: list[harness.Row]) -> dict[str, float]:
  """Returns the cost of Grain beyond reading, decoding and the transfer."""
  ms = {row["case"]: 1e3 / row["images/s and core"] for row in rows}
  parts = [
    ms.get("read and decoded, one thread"),
    ms.get("transfer of batches to the device"),
  ]
  if None in parts:
    return {}
  work = sum(filter(None, parts))
  return {
    f"Grain's overhead, ms per image, {case.partition(', ')[2]}": ms[case]
    - work
    for case in ms
    if case.startswith("batches on the device")
  }


def run(args: argparse.Namespace) -> harness.Report:
  """Draws and prepares images, then measures every case."""
  # Grain reads its absl flags when it starts workers.
  flags.FLAGS.mark_as_parsed()
  with tempfile.TemporaryDirectory() as folder:
    root = pathlib.Path(folder)
    photos.prepare_sets(root, args.images, args.image_size_px)
    decoder, *others = cases(root, args)
    only = tuple(args.only.split(","))
    chosen = [decoder, *(c for c in others if c.name.startswith(only))]
    rows = harness.measure(
      chosen, rounds=args.rounds, columns=harness.RATES, warmup=0
    )
    sizes = [p.stat().st_size for p in (root / "photos").rglob("*.jpg")]
  width, height = np.mean(photos.sizes_px(args.images), axis=0)
  about = {
    "images": args.images,
    "mean size": f"{width:.0f} x {height:.0f} px",
    "mean kB": float(np.mean(sizes)) / 1e3,
    **_grain_overhead(rows),
    "pillow": PIL.__version__,
    "libjpeg-turbo": features.version_feature("libjpeg_turbo"),
  }
  return harness.Report(rows, about)
