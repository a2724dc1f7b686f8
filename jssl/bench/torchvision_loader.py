"""Images per second and core of torchvision's DataLoader, see docs/input.md.

    python jssl/bench/torchvision_loader.py FOLDER squares|views WORKERS

Runs in an environment with torch, torchvision and psutil, without jssl, and
prints JSON. FOLDER has a folder of JPEGs for each class. Cases are those of
`python -m jssl.bench data --torchvision=PYTHON`, which runs it.
"""

import json
import sys
import time
from typing import Any

BATCH_SIZE, IMAGE_SIZE_PX, VIEW_SIZE_PX = 32, 256, 224
# Batches to take before the clock starts, because some are prefetched.
AHEAD = 8


def squares() -> Any:
  """Returns the transformation of an image to a square."""
  from torchvision import transforms as T

  return T.Compose(
    [T.Resize(IMAGE_SIZE_PX), T.CenterCrop(IMAGE_SIZE_PX), T.PILToTensor()]
  )


def views() -> Any:
  """Returns SimCLR's augmentations, as in `jssl.bench.augment`, twice."""
  from torchvision import transforms as T

  view = T.Compose(
    [
      T.RandomResizedCrop(VIEW_SIZE_PX, scale=(0.08, 1.0)),
      T.RandomHorizontalFlip(),
      T.RandomApply([T.ColorJitter(0.8, 0.8, 0.8, 0.2)], 0.8),
      T.RandomGrayscale(0.2),
      T.RandomApply([T.GaussianBlur(VIEW_SIZE_PX // 10 | 1, (0.1, 2.0))], 0.5),
      T.ToTensor(),
    ]
  )
  return lambda image: (view(image), view(image))


def measure(
  folder: str, transform: Any, workers: int, batches: int = 8
) -> dict[str, float]:
  """Returns wall and processor seconds, and the number of images."""
  import psutil
  import torch
  from torchvision import datasets

  def cpu_s() -> float:
    this = psutil.Process()
    processes = (this, *this.children(recursive=True))
    return sum(sum(process.cpu_times()[:2]) for process in processes)

  torch.set_num_threads(1)
  dataset = datasets.ImageFolder(folder, transform)
  # Longer than needed, so that workers are busy until the end.
  sampler = torch.utils.data.RandomSampler(
    dataset, num_samples=2 * (batches + AHEAD) * BATCH_SIZE
  )
  loader = torch.utils.data.DataLoader(
    dataset, BATCH_SIZE, sampler=sampler, num_workers=workers
  )
  iterator = iter(loader)
  for _ in range(AHEAD):
    next(iterator)
  cpu, started = cpu_s(), time.perf_counter()
  for _ in range(batches):
    next(iterator)
  wall_s = time.perf_counter() - started
  images = batches * BATCH_SIZE
  return {"wall_s": wall_s, "cpu_s": cpu_s() - cpu, "items": images}


if __name__ == "__main__":
  folder, case, workers = sys.argv[1:]
  transform = {"squares": squares, "views": views}[case]()
  print(json.dumps(measure(folder, transform, int(workers))))
