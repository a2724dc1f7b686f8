"""Sampling rules of masks, as loops over images in NumPy."""

import math
import random

import numpy as np


def _one_mask(rng, grid, budget, min_area, max_area):
  """Returns a mask and the number of blocks that were tried."""
  rows, columns = grid
  hidden = np.zeros(grid, bool)
  count, attempts = 0, 0
  while count < budget:
    largest = min(budget - count, max_area)
    delta = 0
    for _ in range(10):
      attempts += 1
      area = rng.uniform(min_area, largest)
      aspect = math.exp(rng.uniform(math.log(0.3), math.log(1 / 0.3)))
      height = round(math.sqrt(area * aspect))
      width = round(math.sqrt(area / aspect))
      if height < rows and width < columns:
        top = rng.randint(0, rows - height)
        left = rng.randint(0, columns - width)
        block = hidden[top : top + height, left : left + width]
        if 0 < height * width - block.sum() <= largest:
          delta = int(height * width - block.sum())
          block[:] = True
          break
    if not delta:
      break
    count += delta
  return hidden, attempts


def blocks(number, grid, budget, min_area, max_area):
  """Returns masks [number, rows, columns] by the rule of iBOT and DINOv2."""
  rng = random.Random(0)
  return np.stack(
    [_one_mask(rng, grid, budget, min_area, max_area)[0] for _ in range(number)]
  )


def most_attempts(number, grid, budget, min_area, max_area):
  """Returns the largest number of blocks tried for one of `number` masks."""
  rng = random.Random(1)
  return max(
    _one_mask(rng, grid, budget, min_area, max_area)[1] for _ in range(number)
  )


def _size(u, grid, area, aspect):
  rows, columns = grid
  patches = int(rows * columns * (area[0] + u * (area[1] - area[0])))
  ratio = aspect[0] + u * (aspect[1] - aspect[0])
  height = round(math.sqrt(patches * ratio))
  width = round(math.sqrt(patches / ratio))
  while height >= rows:
    height -= 1
  while width >= columns:
    width -= 1
  return height, width


def multi_block(steps, images, grid):
  """Returns contexts [s, i, n] and targets [s, i, 4, n] by I-JEPA's rule."""
  rng = random.Random(2)
  rows, columns = grid

  def place(height, width):
    mask = np.zeros(grid, bool)
    top, left = rng.randrange(rows - height), rng.randrange(columns - width)
    mask[top : top + height, left : left + width] = True
    return mask.reshape(-1)

  contexts = np.zeros((steps, images, rows * columns), bool)
  targets = np.zeros((steps, images, 4, rows * columns), bool)
  for s in range(steps):
    target_size = _size(rng.random(), grid, (0.15, 0.2), (0.75, 1.5))
    context_size = _size(rng.random(), grid, (0.85, 1.0), (1.0, 1.0))
    for i in range(images):
      targets[s, i] = [place(*target_size) for _ in range(4)]
      tries, left = 0, 20
      while True:
        mask = place(*context_size)
        for target in targets[s, i, : max(4 - tries, 0)]:
          mask &= ~target
        if mask.sum() > 10:
          break
        left -= 1
        if not left:
          tries, left = tries + 1, 20
      contexts[s, i] = mask
  return contexts, targets
