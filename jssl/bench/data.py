"""Images per second and core, from JPEG to device.

On synthetic JPEGs with the sizes of ImageNet's, prepared as any folder is. A
core is one second of processor time of this process and its children. Ratios
are to the JPEG decoder in the same round.

`--torch_python=PYTHON` also measures torchvision's DataLoader; PYTHON is the
interpreter of an environment with torch and torchvision. Linux only.
"""

import argparse
import collections
import contextlib
import functools
import io
import itertools
import json
import os
import pathlib
import subprocess
import tempfile
from collections.abc import Callable, Iterable, Iterator
from typing import Any

import jax
import numpy as np
import PIL
from absl import flags
from PIL import Image, features

from jssl import mesh, rng
from jssl.augment import Augment, views
from jssl.bench import augment, harness, photos
from jssl.bench.harness import Case, Timing, throughput
from jssl.data import array_record, pipeline
from jssl.data.source import Source

FLAGS = {
  "rounds": (5, "measurements of each case"),
  "images": (512, "JPEGs to draw"),
  "image_size_px": (256, "height and width of decoded images"),
  "view_size_px": (224, "height and width of views"),
  "batch_size": (32, "images"),
  "only": ("", "beginnings of cases, separated by commas; all if empty"),
  "torch_python": ("", "interpreter with torch and torchvision"),
}
# Batches to take before the clock starts, because some are prefetched.
_AHEAD = 8


def _decoding(
  name: str, function: Callable[[bytes], Any], files: list[bytes]
) -> Case:
  def take() -> int:
    for data in files:
      function(data)
    return len(files)

  return Case(name, lambda: throughput(take, len(files)))


def _load(data: bytes, scaled_px: int = 0) -> None:
  with Image.open(io.BytesIO(data)) as image:
    if scaled_px:
      array_record.scale(image, "RGB", scaled_px)
    image.load()


def decoding_cases(files: list[bytes], size_px: int) -> Iterator[Case]:
  """Yields cases of the decoder alone and of the reader's decoding."""
  load_scaled = functools.partial(_load, scaled_px=size_px)
  decode = functools.partial(array_record.decode, size_px=size_px, channels=3)
  yield _decoding("JPEG decoder", _load, files)
  yield _decoding("JPEG decoder, scaled as in the reader", load_scaled, files)
  yield _decoding(f"decoded to {size_px} px", decode, files)


def pipeline_cases(
  source: Source, batch_size: int, view_px: int, prefix: str = ""
) -> Iterator[Case]:
  """Yields cases of reading, of transfers and of views on the device."""
  sharding = mesh.batch_sharding(mesh.make_mesh(-1, 1))
  images = len(source) // batch_size * batch_size
  simclr = Augment(**collections.ChainMap(*augment.simclr(view_px).values()))

  @jax.jit
  def two_views(images: jax.Array) -> Any:
    keys = rng.per_row(jax.random.key(0), len(images))
    return views(simclr, keys, images, 2)

  def host_batches() -> Iterator[dict[str, np.ndarray]]:
    for start in range(0, images, batch_size):
      yield source.fetch(start + np.arange(batch_size))

  def read() -> Timing:
    batches = host_batches()
    return throughput(lambda: len(next(batches)["image"]), images)

  def transfer() -> Timing:
    # Several batches: a single one would stay in the caches.
    batches = itertools.cycle(list(itertools.islice(host_batches(), _AHEAD)))

    def take() -> int:
      batch = pipeline.to_devices(sharding, next(batches))
      return len(jax.block_until_ready(batch)["image"])

    return throughput(take, 8 * len(source), 1)

  def to_devices(workers: int, number: int, then: Callable) -> Timing:
    batches = pipeline.train_batches(
      source, seed=0, batch_size=batch_size, sharding=sharding, workers=workers
    )
    with contextlib.closing(batches):

      def take() -> int:
        images = next(batches)["image"]
        jax.block_until_ready(then(images))
        return len(images)

      return throughput(take, min(len(source), number), _AHEAD)

  def views_alone() -> Timing:
    batch = pipeline.to_devices(sharding, next(host_batches()))

    def take() -> int:
      jax.block_until_ready(two_views(batch["image"]))
      return batch_size

    return throughput(take, min(len(source), 4 * batch_size), 1)

  for n in (0, 1, 2):
    run = functools.partial(to_devices, n, len(source), lambda images: images)
    yield Case(f"{prefix}batches on the device, workers: {n}", run)
  if prefix:
    return
  yield Case("read and decoded, one thread", read)
  yield Case("transfer of batches to the device", transfer)
  yield Case("two views on the device", views_alone)
  run = functools.partial(to_devices, 0, 8 * batch_size, two_views)
  yield Case("batches and two views, workers: 0", run)


def small_cases(
  source: array_record.Prepared, batch_size: int
) -> Iterator[Case]:
  """Yields cases of a set that is stored at the size it is read at."""
  records = source.records.__getitems__(list(range(len(source))))
  files = [record[source.image_key] for record in records]
  prefix = f"stored at {source.image_shape[0]} px: "
  yield _decoding(f"{prefix}JPEG decoder", _load, files)
  yield from pipeline_cases(source, batch_size, 8, prefix)


def _other_python(
  python: str, *args: object
) -> subprocess.CompletedProcess[str]:
  # PYTHONPATH names packages of this environment.
  environment = {k: v for k, v in os.environ.items() if k != "PYTHONPATH"}
  return subprocess.run(
    [python, *map(str, args)],
    env=environment,
    capture_output=True,
    text=True,
    check=False,
  )


def torch_versions(python: str) -> dict[str, str]:
  """Returns versions of torch and torchvision; ValueError without them."""
  code = (
    "import json, torch, torchvision; print(json.dumps("
    '{"torch": torch.__version__, "torchvision": torchvision.__version__}))'
  )
  try:
    done = _other_python(python, "-c", code)
  except OSError as error:
    raise ValueError(f"--torch_python={python} cannot run: {error}") from None
  if done.returncode:
    last = (done.stderr.strip().splitlines() or ["no message"])[-1]
    raise ValueError(
      f"--torch_python={python} cannot import torch and torchvision ({last})"
    )
  return json.loads(done.stdout)


def torchvision_cases(
  python: str, folder: pathlib.Path, args: argparse.Namespace
) -> Iterator[Case]:
  """Yields cases of torchvision's DataLoader over a folder of JPEGs."""
  script = pathlib.Path(__file__).with_name("torchvision_loader.py")
  sizes = (args.batch_size, args.image_size_px, args.view_size_px, _AHEAD)

  def run(kind: str, workers: int, images: int) -> Timing:
    done = _other_python(python, script, folder, kind, workers, *sizes, images)
    if done.returncode:
      raise RuntimeError(f"torchvision's DataLoader failed:\n{done.stderr}")
    return Timing(**json.loads(done.stdout))

  for kind, name, images in (
    ("batches", f"resized to {args.image_size_px} px", args.images),
    # Views take long.
    ("views", "two views", min(args.images, 8 * args.batch_size)),
  ):
    for n in (1, 2):
      case = functools.partial(run, kind, n, images)
      yield Case(f"torchvision, {name}, workers: {n}", case)


def cases(root: pathlib.Path, args: argparse.Namespace) -> Iterable[Case]:
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
  yield from decoding_cases(files, size_px)
  yield from pipeline_cases(source, batch_size, args.view_size_px)
  yield from small_cases(small, batch_size)
  if args.torch_python:
    yield from torchvision_cases(args.torch_python, root / "photos", args)


def run(args: argparse.Namespace) -> harness.Report:
  """Draws and prepares images, then measures every case."""
  # Grain reads its absl flags when it starts workers.
  flags.FLAGS.mark_as_parsed()
  versions = torch_versions(args.torch_python) if args.torch_python else {}
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
    mean_kb = float(np.mean(sizes)) / 1e3
  width, height = np.mean(photos.sizes_px(args.images), axis=0)
  about = {
    "images": args.images,
    "mean size": f"{width:.0f} x {height:.0f} px",
    "mean kB": mean_kb,
    "pillow": PIL.__version__,
    "libjpeg-turbo": features.version_feature("libjpeg_turbo"),
  }
  return harness.Report(rows, {**about, **versions})
