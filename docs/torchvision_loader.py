"""Images per second and core of torchvision's DataLoader, see docs/input.md.

    python docs/torchvision_loader.py FOLDER

Runs in an environment with torch, torchvision and psutil, without jssl. FOLDER
has a folder of JPEGs for each class. Cases are those of
`python -m jssl.bench data`: batches of decoded squares, or of two views.
"""

import sys
import time

import psutil
import torch
from torchvision import datasets
from torchvision import transforms as T

BATCH_SIZE, IMAGE_SIZE_PX, VIEW_SIZE_PX = 32, 256, 224
# Batches to take before the clock starts, because some are prefetched.
AHEAD = 8


def two_views(size_px):
  """Returns SimCLR's augmentations, as in `jssl.bench.augment`, twice."""
  view = T.Compose(
    [
      T.RandomResizedCrop(size_px, scale=(0.08, 1.0)),
      T.RandomHorizontalFlip(),
      T.RandomApply([T.ColorJitter(0.8, 0.8, 0.8, 0.2)], 0.8),
      T.RandomGrayscale(0.2),
      T.RandomApply([T.GaussianBlur(size_px // 10 | 1, (0.1, 2.0))], 0.5),
      T.ToTensor(),
    ]
  )
  return lambda image: (view(image), view(image))


def cpu_s():
  """Returns processor seconds of this process and its running children."""
  this = psutil.Process()
  return sum(
    sum(process.cpu_times()[:2])
    for process in (this, *this.children(recursive=True))
  )


def measure(folder, transform, workers, batches):
  """Returns images/s and core, and images/s."""
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
  images = batches * BATCH_SIZE
  return images / (cpu_s() - cpu), images / (time.perf_counter() - started)


if __name__ == "__main__":
  squares = T.Compose(
    [T.Resize(IMAGE_SIZE_PX), T.CenterCrop(IMAGE_SIZE_PX), T.PILToTensor()]
  )
  for name, transform in (
    ("squares", squares),
    ("two views", two_views(VIEW_SIZE_PX)),
  ):
    for workers in (1, 2):
      rates = measure(sys.argv[1], transform, workers, 8)
      print(
        f"{name}, workers: {workers}: {rates[0]:.4g} images/s and core, "
        f"{rates[1]:.4g} images/s"
      )
