"""torchvision's DataLoader over a folder, for `python -m jssl.bench data`.

Prints the timing as JSON. Runs in an environment without jssl, where only
`harness.py` can be imported, from the same folder.
"""

import dataclasses
import json
import sys
from typing import Any

import torch
from harness import throughput
from torchvision import datasets
from torchvision import transforms as T


def two_views(size_px: int) -> Any:
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


def main(folder: str, kind: str, *numbers: str) -> None:
  """Takes `batches` or `views`; numbers as in `torchvision_cases`."""
  workers, batch_size, size_px, view_px, ahead, images = map(int, numbers)
  square = [T.Resize(size_px), T.CenterCrop(size_px), T.PILToTensor()]
  transform = two_views(view_px) if kind == "views" else T.Compose(square)
  dataset = datasets.ImageFolder(folder, transform)
  # Longer than needed, so that workers are busy until the end.
  sampler = torch.utils.data.RandomSampler(
    dataset, num_samples=2 * (images + ahead * batch_size)
  )
  loader = torch.utils.data.DataLoader(
    dataset, batch_size, sampler=sampler, num_workers=workers
  )
  batches = iter(loader)
  timing = throughput(lambda: len(next(batches)[1]), images, ahead)
  print(json.dumps(dataclasses.asdict(timing)))


if __name__ == "__main__":
  main(*sys.argv[1:])
