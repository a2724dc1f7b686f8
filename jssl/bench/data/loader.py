"""torchvision's DataLoader over a folder, run by an interpreter that has it.

    PYTHON loader.py FOLDER views|batches WORKERS BATCH SIZE_PX VIEW_PX AHEAD N

Prints the rate as JSON. It may know of jssl nothing but the file beside it.
"""

import dataclasses
import json
import sys
from collections.abc import Iterator
from typing import Any

import torch
from rates import timed
from torchvision import datasets
from torchvision import transforms as T


class TwoViews:
  """SimCLR's two views, as `jssl.bench.data.chain` makes them."""

  def __init__(self, size_px: int):
    """Says how large they are."""
    self.view = T.Compose(
      [
        T.RandomResizedCrop(size_px, scale=(0.08, 1.0)),
        T.RandomHorizontalFlip(),
        T.RandomApply([T.ColorJitter(0.8, 0.8, 0.8, 0.2)], 0.8),
        T.RandomGrayscale(0.2),
        T.RandomApply([T.GaussianBlur(size_px // 10 | 1, (0.1, 2.0))], 0.5),
        T.ToTensor(),
      ]
    )

  def __call__(self, image: Any) -> tuple[Any, Any]:
    """Returns two views of an image."""
    return self.view(image), self.view(image)


class Endless(torch.utils.data.Sampler):
  """Passes over a set without end, each in an order of its own."""

  def __init__(self, images: int):
    """Says of how many images."""
    self.images = images

  def __iter__(self) -> Iterator[int]:
    while True:
      yield from torch.randperm(self.images).tolist()


def main(folder: str, what: str, *numbers: str) -> None:
  """Takes batches, and prints how long it took."""
  workers, batch_size, size_px, view_px, ahead, wanted = map(int, numbers)
  square = [T.Resize(size_px), T.CenterCrop(size_px), T.PILToTensor()]
  made = {"views": TwoViews(view_px), "batches": T.Compose(square)}
  images = datasets.ImageFolder(folder, made[what])
  sampler = Endless(len(images))
  loader = torch.utils.data.DataLoader(
    images, batch_size, sampler=sampler, num_workers=workers
  )
  batches = iter(loader)
  rate = timed(lambda: len(next(batches)[1]), wanted, ahead)
  print(json.dumps(dataclasses.asdict(rate)))


if __name__ == "__main__":
  main(*sys.argv[1:])
