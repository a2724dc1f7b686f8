"""Views of a batch, made on the device as in the training step.

Each case adds operations to the one before; ratios are to crops alone. With
--torch=PYTHON, torchvision and kornia make the same views on the CPU.
"""

import argparse
from functools import partial
from typing import Any

import jax
import jax.numpy as jnp

from jssl import rng
from jssl.augment import Augment, views
from jssl.bench import harness, torch_augment

FLAGS = {
  "rounds": (10, "measurements of each case"),
  "batch_size": (32, "images"),
  "image_size_px": (256, "height and width of images"),
  "view_size_px": (224, "height and width of views"),
  "views": (2, "views of an image"),
  "torch": (
    "",
    "Python with torch, torchvision, kornia and psutil, to measure theirs too",
  ),
}


def simclr(view_size_px: int) -> dict[str, dict[str, Any]]:
  """Returns arguments of `Augment` for SimCLR's views, by operation."""
  return {
    "crop and flip": {
      "crop_size_px": view_size_px,
      "crop_min_area": 0.08,
      "flip_probability": 0.5,
    },
    "colour": {
      "jitter_probability": 0.8,
      **dict.fromkeys(("brightness", "contrast", "saturation"), 0.8),
      "hue": 0.2,
      "grayscale_probability": 0.2,
    },
    # A tenth of the view, and odd.
    "blur": {
      "blur_probability": (0.5,),
      "blur_kernel_px": view_size_px // 10 | 1,
    },
  }


def run(args: argparse.Namespace) -> harness.Report:
  """Measures crops, crops with colour changes, and all of SimCLR's views."""
  shape = (args.batch_size, args.image_size_px, args.image_size_px, 3)
  images = jax.random.bits(rng.root(0), shape, jnp.uint8)
  keys = rng.per_row(rng.root(1), args.batch_size)

  names: list[str] = []
  settings: dict[str, Any] = {}
  cases = []
  for name, operation in simclr(args.view_size_px).items():
    names.append(name)
    settings |= operation
    make = partial(views, Augment(**settings), keys, num_views=args.views)
    cases.append(
      harness.compiled_case(", ".join(names), make, images, items=len(images))
    )
  sizes = args.batch_size, args.image_size_px, args.view_size_px, args.views
  if args.torch:
    for library in ("torchvision", "kornia"):
      for number in range(1, len(names) + 1):
        arguments = (library, str(number), ",".join(map(str, sizes)))
        case = partial(
          harness.time_script, args.torch, torch_augment.__file__, *arguments
        )
        title = f"{library}: {', '.join(names[:number])}"
        cases.append(harness.Case(title, case))
  columns = {**harness.MILLISECONDS, **harness.RATES}
  rows = harness.measure(cases, rounds=args.rounds, columns=columns)
  about = {"images": "x".join(map(str, shape)), "views": args.views}
  return harness.Report(rows, about)
