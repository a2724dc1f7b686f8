"""Mean and standard deviation of the pixels of a source."""

from typing import NamedTuple

import numpy as np
from jaxtyping import Float

from jssl.data.arrays import largest
from jssl.data.source import Source

_CHUNK_SIZE = 64


class Statistics(NamedTuple):
  """Mean and standard deviation of the pixels in [0, 1] of each channel."""

  mean: Float[np.ndarray, "c"]
  std: Float[np.ndarray, "c"]


def pixel_statistics(source: Source, *, images: int) -> Statistics:
  """Measures at most `images` images, at equal distances in a source."""
  number = min(images, len(source))
  rows = np.arange(number) * len(source) // number
  sums = []
  for chunk in np.array_split(rows, -(-number // _CHUNK_SIZE)):
    x = source.fetch(chunk)["image"] / largest(source.image_dtype)
    x = x.astype(np.float64, copy=False)
    sums.append([x.mean((0, 1, 2)) * len(x), (x**2).mean((0, 1, 2)) * len(x)])
  mean, square = np.sum(sums, axis=0) / number
  return Statistics(mean, np.sqrt(np.maximum(square - mean**2, 0)))
