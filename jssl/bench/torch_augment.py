"""SimCLR's views by torchvision and kornia on the CPU.

    python jssl/bench/torch_augment.py torchvision|kornia OPERATIONS SIZES

Runs in an environment with torch, torchvision, kornia and psutil, without jssl,
and prints JSON. OPERATIONS is the number of operations, 1 to 3, as in `python
-m jssl.bench augment --torch=PYTHON`, which runs it. SIZES is the number of
images, their size, that of views and their number, with commas between.
"""

import json
import sys
import time
from collections.abc import Callable
from typing import Any


def torchvision_views(operations: int, size: int) -> Callable[[Any], Any]:
  """Returns a function of a batch; v2 draws once per call, so by image."""
  import torch
  from torchvision.transforms import v2

  colour = v2.ColorJitter(0.8, 0.8, 0.8, 0.2)
  groups = [
    [
      v2.RandomResizedCrop(size, scale=(0.08, 1.0), antialias=True),
      v2.RandomHorizontalFlip(),
    ],
    [v2.RandomApply([colour], 0.8), v2.RandomGrayscale(0.2)],
    [v2.RandomApply([v2.GaussianBlur(size // 10 | 1, (0.1, 2.0))], 0.5)],
  ]
  view = v2.Compose(
    [
      *(one for group in groups[:operations] for one in group),
      v2.ToDtype(torch.float32, scale=True),
    ]
  )
  return lambda images: torch.stack([view(image) for image in images])


def kornia_views(operations: int, size: int) -> Callable[[Any], Any]:
  """Returns a function of a batch that draws for each image."""
  import torch
  from kornia import augmentation as k

  blur = (size // 10 | 1, size // 10 | 1)
  groups = [
    [k.RandomResizedCrop((size, size), (0.08, 1.0)), k.RandomHorizontalFlip()],
    [k.ColorJitter(0.8, 0.8, 0.8, 0.2, p=0.8), k.RandomGrayscale(p=0.2)],
    [k.RandomGaussianBlur(blur, (0.1, 2.0), p=0.5)],
  ]
  view = torch.nn.Sequential(
    *(one for group in groups[:operations] for one in group)
  )
  return lambda images: view(images.float() / 255)


def measure(
  make: Callable[[int, int], Callable[[Any], Any]],
  operations: int,
  images: int,
  image_size_px: int,
  view_size_px: int,
  views: int,
) -> dict[str, float]:
  """Returns wall and processor seconds of all views, and the images."""
  import psutil
  import torch

  shape = (images, 3, image_size_px, image_size_px)
  batch = torch.randint(0, 256, shape, dtype=torch.uint8)
  view = make(operations, view_size_px)
  view(batch)
  before = psutil.Process().cpu_times()
  started = time.perf_counter()
  for _ in range(views):
    view(batch)
  wall_s = time.perf_counter() - started
  after = psutil.Process().cpu_times()
  return {
    "wall_s": wall_s,
    "cpu_s": sum(after[:2]) - sum(before[:2]),
    "items": images,
  }


if __name__ == "__main__":
  library, operations, sizes = sys.argv[1:]
  make = {"torchvision": torchvision_views, "kornia": kornia_views}[library]
  print(json.dumps(measure(make, int(operations), *map(int, sizes.split(",")))))
