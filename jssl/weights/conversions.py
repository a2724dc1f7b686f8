"""Conversions between tensors of PyTorch files and leaves of the variables.

They move numbers without computing, so that a round trip is exact.
"""

import math
from collections.abc import Callable
from typing import NamedTuple

import numpy as np

Arrays = list[np.ndarray]


class Conversion(NamedTuple):
  """Two functions between tensors and leaves, inverse to each other.

  Attributes:
    read: `tensors -> leaves`.
    write: `(leaves, number of tensors, patch size in px) -> tensors`.
  """

  read: Callable[[Arrays], Arrays]
  write: Callable[[Arrays, int, int], Arrays]


def _shaped(*leading: int) -> Conversion:
  """Vectors, stored with leading axes of size 1."""

  def write(leaves: Arrays, count: int, patch: int) -> Arrays:
    del patch
    return [x.reshape(*leading, -1) for x in np.split(leaves[0], count)]

  return Conversion(
    lambda tensors: [np.concatenate([x.reshape(-1) for x in tensors])], write
  )


# Outputs come last in a kernel. Several tensors are parts of the outputs.
MATRIX = Conversion(
  lambda tensors: [
    np.concatenate([x.T for x in tensors], axis=1)
    if len(tensors) > 1
    else tensors[0].T
  ],
  lambda leaves, count, _: [x.T for x in np.split(leaves[0], count, axis=1)],
)
VECTOR = _shaped()
ROW = _shaped(1)
TOKEN = _shaped(1, 1)
TOKENS = Conversion(
  lambda tensors: [tensors[0][0]], lambda leaves, *_: [leaves[0][None]]
)
CONVOLUTION = Conversion(
  lambda tensors: [tensors[0].transpose(2, 3, 1, 0)],
  lambda leaves, *_: [leaves[0].transpose(3, 2, 0, 1)],
)
# `num_batches_tracked`, which PyTorch's default momentum ignores.
COUNT = Conversion(lambda _: [], lambda *_: [np.zeros((), np.int64)])


def _read_patch(tensors: Arrays) -> Arrays:
  (kernel,) = CONVOLUTION.read(tensors)
  return [kernel.reshape(-1, kernel.shape[-1])]


def _write_patch(leaves: Arrays, count: int, patch: int) -> Arrays:
  kernel = leaves[0].reshape(patch, patch, -1, leaves[0].shape[-1])
  return CONVOLUTION.write([kernel], count, patch)


# The kernel of a patch [row, column, channel] is a matrix in `ViT`.
PATCH = Conversion(_read_patch, _write_patch)


def square_side(count: int) -> int:
  """Returns the side of a square of `count` patches; 0 if it is not square."""
  side = math.isqrt(count)
  return side if side * side == count else 0


def _read_positions(tensors: Arrays) -> Arrays:
  (table,) = tensors[0]
  side = math.isqrt(len(table))
  patches = table[len(table) - side * side :]
  leaves = [patches.reshape(side, side, -1)]
  return [*leaves, table[0]] if len(patches) < len(table) else leaves


def _write_positions(leaves: Arrays, *_: int) -> Arrays:
  patches, *first = leaves
  table = patches.reshape(-1, patches.shape[-1])
  return [np.concatenate([*(x[None] for x in first), table])[None]]


# Positions of a square grid, after that of the class token if there is one.
POSITIONS = Conversion(_read_positions, _write_positions)


def _read_masked(tensors: Arrays) -> Arrays:
  q, _, v = np.split(tensors[0], 3)
  return [q, v]


def _write_masked(leaves: Arrays, *_: int) -> Arrays:
  q, v = leaves
  return [np.concatenate([q, np.zeros_like(q), v])]


# Fused bias of q, k and v whose key part is masked to zero.
MASKED_BIAS = Conversion(_read_masked, _write_masked)
