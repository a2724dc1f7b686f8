"""Rate and memory of `jssl embed`, compared with the probe's extraction.

A small random ViT embeds images of a prepared set. Rates are measured in turns
in one process; the ratio is to the probe's extraction in the same round. Peak
memory is of a process that embeds a number of images and does nothing else.
"""

import argparse
import functools
import pathlib
import tempfile
from collections.abc import Iterator

from jssl import mesh
from jssl.bench import harness
from jssl.data.open import open_source
from jssl.data.source import Source
from jssl.embed import Pretrained, embed
from jssl.models import ViT, init_variables
from jssl.probe import features
from jssl.probe.encoders import BackboneEncoders
from jssl.weights.workdir import Encoder

FLAGS = {
  "rounds": (3, "measurements of each case"),
  "dataset": ("fashion_mnist", "name of a prepared set"),
  "data_dir": ("", "directory of prepared sets; default: that of TFDS"),
  "images": (20_000, "images of the train split to embed"),
  "memory_images": ("10000,40000", "numbers of images to measure memory of"),
  "image_size_px": (28, "height and width of images"),
  "patch_size_px": (4, "patch size of the ViT"),
  "width": (64, "width of the ViT"),
  "depth": (2, "number of blocks"),
  "batch_size": (256, "images of a batch"),
}


def _source(args: argparse.Namespace, images: int) -> Source:
  return open_source(
    args.dataset,
    data_dir=args.data_dir,
    split=f"train[:{images}]",
    image_size_px=args.image_size_px,
  )


def _backbone(args: argparse.Namespace, source: Source) -> Pretrained:
  model = ViT(
    patch_size_px=args.patch_size_px,
    width=args.width,
    depth=args.depth,
    num_heads=max(1, args.width // 32),
  )
  backbone, shape = model.backbone(), source.image_shape
  variables = init_variables(0, backbone, shape)
  return Pretrained(
    Encoder(backbone, shape), variables, "published", None, shape[0]
  )


def _rates(args: argparse.Namespace) -> Iterator[harness.Case]:
  """Yields the cases of both paths on the same images and weights."""
  source = _source(args, args.images)
  backbone = _backbone(args, source)
  shape, everything = backbone.encoder.image_shape, mesh.make_mesh(-1, 1)
  encoder = BackboneEncoders(
    backbone.encoder.backbone, shape, everything, ""
  ).published("random", backbone.variables)

  def extract() -> None:
    with tempfile.TemporaryDirectory() as folder:
      features.extract(
        pathlib.Path(folder, "h.npy"),
        encoder.encode,
        source,
        batch_size=args.batch_size,
        mesh=everything,
      )

  def write() -> None:
    with tempfile.TemporaryDirectory() as folder:
      out = pathlib.Path(folder, "h.parquet")
      embed(backbone, source, out, batch_size=args.batch_size)

  for name, run in (("probe", extract), ("embed", write)):
    yield harness.Case(
      name, functools.partial(harness.timed, run, items=len(source))
    )


def _embed_alone(args: argparse.Namespace, images: int) -> harness.Timing:
  source = _source(args, images)
  backbone = _backbone(args, source)
  with tempfile.TemporaryDirectory() as folder:
    out = pathlib.Path(folder, "h.parquet")
    return harness.timed(
      lambda: embed(backbone, source, out, batch_size=args.batch_size),
      items=len(source),
    )


def run(args: argparse.Namespace) -> harness.Report:
  """Measures rates, then memory."""
  rows = harness.measure(
    list(_rates(args)), rounds=args.rounds, columns=harness.RATES
  )
  memory = [
    harness.Case(
      f"embed {images} images alone",
      functools.partial(harness.in_process, _embed_alone, args, images),
    )
    for images in map(int, args.memory_images.split(","))
  ]
  rows += harness.measure(
    memory,
    rounds=1,
    columns={**harness.RATES, "peak MiB": lambda t: t.peak_rss_bytes / 2**20},
    warmup=0,
    compare=False,
  )
  return harness.Report(rows, {"images": args.images})
