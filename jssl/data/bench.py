"""`python -m jssl.data.bench`: images a second and core, from JPEG to device.

On JPEGs that are generated with the sizes of ImageNet's, and prepared as any
folder is: the bare decoder, what the reader makes of it, batches on the devices
with several numbers of workers, and SimCLR's two views, which are made there.
A core is a second of a processor, spent by this process or one that it started;
what else runs on the machine is not counted, but slows down caches and clocks.

`--compare --torch_python=PYTHON` also runs torchvision's DataLoader, in an
environment of its own: PYTHON is the interpreter of one that has torch and
torchvision. Linux only.
"""

import contextlib
import dataclasses
import functools
import inspect
import io
import json
import os
import pathlib
import platform
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from typing import Any

from absl import app, flags

_IMAGES = flags.DEFINE_integer("images", 512, "JPEGs that are generated.")
_SIZE_PX = flags.DEFINE_integer("image_size_px", 256, "Of what is decoded.")
_VIEW_PX = flags.DEFINE_integer("view_size_px", 224, "Of a view.")
_BATCH_SIZE = flags.DEFINE_integer("batch_size", 32, "Images of a batch.")
# Not "rounds", which other benches have: tests import several.
_REPEATS = flags.DEFINE_integer("repeats", 5, "Of which the median is told.")
_ONLY = flags.DEFINE_list(
  "only", None, "Rows whose name begins so, beside the first; all if not given."
)
_COMPARE = flags.DEFINE_bool("compare", False, "Whether torchvision runs too.")
_TORCH_PYTHON = flags.DEFINE_string(
  "torch_python", None, "Interpreter that has torch and torchvision."
)
_JSON = flags.DEFINE_string("json", None, "File that all goes to as well.")

DECODER = "JPEG decoder"
# Batches that are taken first, since some lie ready when the clock starts.
_AHEAD = 8


@dataclasses.dataclass(frozen=True)
class Rate:
  """What was made, and in which time.

  Attributes:
    images: that were made.
    seconds: by the clock on the wall.
    cpu_seconds: of all processors.
  """

  images: int
  seconds: float
  cpu_seconds: float

  @property
  def per_core(self) -> float:
    """Images a second of one processor."""
    # The clock of a processor has ticks: a tiny run may take none.
    return self.images / max(self.cpu_seconds, 1 / os.sysconf("SC_CLK_TCK"))


@dataclasses.dataclass(frozen=True)
class Subject:
  """A row of the table.

  Attributes:
    name: of it.
    run: makes all images once, and says how long it took.
  """

  name: str
  run: Callable[[], Rate]


def cpu_seconds() -> float:
  """Returns what this process and those below it have used of processors."""
  # All of it here: it is sent to another interpreter, too.
  import os
  import pathlib

  parents, ticks = {}, {}
  for path in pathlib.Path("/proc").glob("[0-9]*/stat"):
    try:
      text = path.read_text()
    except OSError:  # It has ended.
      continue
    # The name, in brackets, may have anything in it.
    values = text.rpartition(")")[2].split()
    pid = int(path.parent.name)
    parents[pid] = int(values[1])
    ticks[pid] = int(values[11]) + int(values[12])
  own = {os.getpid()}
  while more := {p for p, of in parents.items() if of in own} - own:
    own |= more
  return sum(ticks[pid] for pid in own) / os.sysconf("SC_CLK_TCK")


def timed(take: Callable[[], int], images: int, ahead: int = 0) -> Rate:
  """Takes images until there are enough.

  Args:
    take: makes some, and returns how many.
    images: that are taken at least.
    ahead: calls before the clock starts.
  """
  for _ in range(ahead):
    take()
  cpu, wall, made = cpu_seconds(), time.perf_counter(), 0
  while made < images:
    made += take()
  return Rate(made, time.perf_counter() - wall, cpu_seconds() - cpu)


def decoders(encoded: list[bytes], size_px: int) -> list[Subject]:
  """Returns the decoder alone, and what the reader makes of it.

  Args:
    encoded: JPEGs.
    size_px: height and width of what the reader returns.
  """
  from PIL import Image

  from jssl.data import prepared

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


def pipelines(source: Any, batch_size: int, view_px: int) -> list[Subject]:
  """Returns the ways of batches to the devices, and of views on them.

  Args:
    source: a prepared set.
    batch_size: images of a batch.
    view_px: height and width of a view.
  """
  import jax
  import numpy as np

  from jssl import mesh, rng
  from jssl.augment import Augment, colour_strength, views
  from jssl.data import pipeline

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

      return timed(take, len(source), _AHEAD)

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

      return timed(take, min(len(source), 8 * batch_size), _AHEAD)

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


# Run by another interpreter, after `cpu_seconds`.
_TORCH = """
import json, sys, time
import torch, torchvision
from torchvision import datasets, transforms as T

folder, what, *numbers = sys.argv[1:]
workers, batch_size, size_px, view_px, ahead, wanted = map(int, numbers)

view = T.Compose([
  T.RandomResizedCrop(view_px, scale=(0.08, 1.0)),
  T.RandomHorizontalFlip(),
  T.RandomApply([T.ColorJitter(0.8, 0.8, 0.8, 0.2)], 0.8),
  T.RandomGrayscale(0.2),
  T.RandomApply([T.GaussianBlur(view_px // 10 | 1, (0.1, 2.0))], 0.5),
  T.ToTensor(),
])
square = T.Compose([T.Resize(size_px), T.CenterCrop(size_px), T.PILToTensor()])
transforms = {"views": lambda x: (view(x), view(x)), "batches": square}

class Endless(torch.utils.data.Sampler):
  def __init__(self, images):
    self.images = images
  def __iter__(self):
    while True:
      yield from torch.randperm(self.images).tolist()

def main():
  images = datasets.ImageFolder(folder, transforms[what])
  loader = iter(torch.utils.data.DataLoader(
    images, batch_size, sampler=Endless(len(images)), num_workers=workers))
  for _ in range(ahead):
    next(loader)
  cpu, wall, made = cpu_seconds(), time.perf_counter(), 0
  while made < wanted:
    made += len(next(loader)[1])
  print(json.dumps({
    "images": made,
    "seconds": time.perf_counter() - wall,
    "cpu_seconds": cpu_seconds() - cpu,
  }))

main()
"""


def torch_versions(python: str) -> dict[str, str]:
  """Returns versions of what an interpreter has to compare with.

  Raises:
    ValueError: it isn't there, or lacks torch or torchvision.
  """
  code = (
    "import json, torch, torchvision; print(json.dumps("
    '{"torch": torch.__version__, "torchvision": torchvision.__version__}))'
  )
  try:
    done = _other_python(python, code)
  except OSError as error:
    raise ValueError(f"--torch_python={python} can't be run: {error}") from None
  if done.returncode:
    last = (done.stderr.strip().splitlines() or ["no message"])[-1]
    raise ValueError(
      f"--torch_python={python} can't import torch and torchvision ({last}); "
      "give the interpreter of an environment that has both"
    )
  return json.loads(done.stdout)


def _other_python(python: str, code: str, *args: Any) -> Any:
  # What this environment says of its packages is not for another one.
  environment = {k: v for k, v in os.environ.items() if k != "PYTHONPATH"}
  return subprocess.run(
    [python, "-c", code, *map(str, args)],
    env=environment,
    capture_output=True,
    text=True,
    check=False,
  )


def torchvision_loaders(
  python: str,
  folder: pathlib.Path,
  *,
  batch_size: int,
  size_px: int,
  view_px: int,
) -> list[Subject]:
  """Returns torchvision's DataLoader, of squares and of two views.

  Args:
    python: see `torch_versions`.
    folder: of a folder of the JPEGs.
    batch_size: images of a batch.
    size_px: height and width of squares.
    view_px: of views.
  """
  code = inspect.getsource(cpu_seconds) + _TORCH
  images = len(list(folder.rglob("*.jpg")))
  # They take long.
  wanted = {"batches": images, "views": min(images, 8 * batch_size)}

  def run(what: str, workers: int) -> Rate:
    done = _other_python(
      python,
      code,
      *(folder, what, workers, batch_size, size_px, view_px, _AHEAD),
      wanted[what],
    )
    if done.returncode:
      raise RuntimeError(f"torchvision's loader failed:\n{done.stderr}")
    return Rate(**json.loads(done.stdout))

  return [
    Subject(
      f"torchvision, {told}, workers: {workers}",
      functools.partial(run, what, workers),
    )
    for what, told in (
      ("batches", f"resized to {size_px} px"),
      ("views", "two views"),
    )
    for workers in (1, 2)
  ]


def table(
  subjects: list[Subject], rounds: int
) -> Iterator[tuple[dict[str, Any], list[Rate]]]:
  """Yields a row for each subject, and its rates.

  Args:
    subjects: what is measured, that which all are compared with first.
    rounds: of all of them, one after the other: what else the machine does
      then falls on all.
  """
  rates: dict[str, list[Rate]] = {subject.name: [] for subject in subjects}
  for done in range(rounds):
    for subject in subjects:
      rate = subject.run()
      rates[subject.name].append(rate)
      print(
        f"round {done + 1}: {subject.name}: {rate.per_core:.1f} a core",
        file=sys.stderr,
      )
  first = rates[subjects[0].name]
  for name, own in rates.items():
    ratios = [a.per_core / b.per_core for a, b in zip(own, first, strict=True)]
    yield (
      {
        "row": name,
        "images/s": statistics.median(r.images / r.seconds for r in own),
        "images/s and core": statistics.median(r.per_core for r in own),
        "of the decoder's": statistics.median(ratios),
        "lowest": min(ratios),
        "highest": max(ratios),
      },
      own,
    )


def _about(sizes: list[tuple[int, int]], encoded: list[bytes]) -> dict:
  import jax
  import numpy as np
  import PIL
  from PIL import features

  width, height = np.mean(sizes, axis=0)
  return {
    "command": "python -m jssl.data.bench " + " ".join(sys.argv[1:]),
    "machine": platform.processor() or platform.machine(),
    "cores": os.cpu_count(),
    "load": os.getloadavg()[0],
    "device": jax.devices()[0].device_kind,
    "date": time.strftime("%Y-%m-%d"),
    "images": len(encoded),
    "mean width px": float(width),
    "mean height px": float(height),
    "mean kB": float(np.mean([len(data) for data in encoded]) / 1e3),
    "pillow": PIL.__version__,
    "libjpeg-turbo": features.version_feature("libjpeg_turbo"),
    "jax": jax.__version__,
  }


def _cell(value: Any) -> str:
  return f"{value:.3g}" if isinstance(value, float) else str(value)


def prepare_photos(root: pathlib.Path, images: int) -> None:
  """Writes JPEGs to `root/photos/all`, and the set `photos` to `root/data`."""
  import tensorflow_datasets as tfds

  from jssl.data import generated, prepare

  generated.write(root / "photos" / "all", images)
  tfds.disable_progress_bar()
  with contextlib.redirect_stdout(sys.stderr):
    prepare.prepare(
      "folder",
      source=str(root / "photos" / "all"),
      set_name="photos",
      data_dir=str(root / "data"),
    )


def main(argv: list[str]) -> None:
  """Prints a table, and writes it."""
  del argv
  versions: dict[str, str] = {}
  other: str | None = _TORCH_PYTHON.value if _COMPARE.value else None
  if _COMPARE.value and not other:
    raise app.UsageError("--compare needs --torch_python")
  if other:
    try:
      versions = torch_versions(other)
    except ValueError as error:
      sys.exit(f"error: {error}")
  from jssl.data import generated
  from jssl.data.prepared import open_prepared

  with tempfile.TemporaryDirectory() as folder:
    root = pathlib.Path(folder)
    prepare_photos(root, _IMAGES.value)
    source = open_prepared(
      "photos",
      data_dir=str(root / "data"),
      split="train+test",
      image_size_px=_SIZE_PX.value,
    )
    encoded = [p.read_bytes() for p in (root / "photos").rglob("*.jpg")]
    about = {**_about(generated.sizes_px(_IMAGES.value), encoded), **versions}
    for key, value in about.items():
      print(f"{key:16} {_cell(value)}", flush=True)
    subjects = [
      *decoders(encoded, _SIZE_PX.value),
      *pipelines(source, _BATCH_SIZE.value, _VIEW_PX.value),
    ]
    if other:
      subjects += torchvision_loaders(
        other,
        root / "photos",
        batch_size=_BATCH_SIZE.value,
        size_px=_SIZE_PX.value,
        view_px=_VIEW_PX.value,
      )
    chosen = [
      subject
      for i, subject in enumerate(subjects)
      if i == 0
      or not _ONLY.value
      or subject.name.startswith(tuple(_ONLY.value))
    ]
    rows: list[dict[str, Any]] = []
    for row, rates in table(chosen, _REPEATS.value):
      if not rows:
        print("\n| " + " | ".join(row) + " |")
        print("|---" * len(row) + "|")
      print("| " + " | ".join(map(_cell, row.values())) + " |", flush=True)
      rows.append({**row, "rounds": [dataclasses.asdict(r) for r in rates]})
  if _JSON.value:
    with open(_JSON.value, "w") as file:
      json.dump({**about, "rows": rows}, file, indent=2)


if __name__ == "__main__":
  app.run(main)
