"""Rows of features on the host, in float64 and in blocks."""

import math
from collections.abc import Iterator
from typing import Protocol, runtime_checkable

import numpy as np
from jaxtyping import Float, Shaped

# Rows count as one point if their variance is below this share of their mean
# square: float32 cannot tell smaller differences from rounding.
ROUNDING = 1e-12
# Entries of the largest array in a block of rows: 128 MiB in float64.
BLOCK = 2**24


@runtime_checkable
class Matrix(Protocol):
  """Features [n, d] in memory, memory-mapped, or computed on access."""

  @property
  def shape(self) -> tuple[int, ...]:
    """The numbers of rows and columns."""

  @property
  def ndim(self) -> int:
    """2."""

  @property
  def dtype(self) -> np.dtype:
    """A floating dtype."""

  def __len__(self) -> int:
    """Returns the number of rows."""

  def __getitem__(self, rows: slice, /) -> Float[np.ndarray, "m d"]:
    """Returns consecutive rows."""


def float64_blocks(
  **arrays: Shaped[np.ndarray, "n ..."] | Matrix,
) -> Iterator[list[Shaped[np.ndarray, "b ..."]]]:
  """Yields blocks of rows of all arrays; floats are cast to float64.

  Raises:
    ValueError: after the last block, if rows are not finite. The message names
      the keyword of the array.
  """
  bad = dict.fromkeys(arrays, 0)
  length = len(next(iter(arrays.values())))
  widest = max(math.prod(x.shape[1:]) for x in arrays.values())
  rows = max(1, BLOCK // max(1, widest))
  for start in range(0, length, rows):
    block = []
    for name, array in arrays.items():
      x = np.asarray(array[start : start + rows])
      if x.dtype.kind not in "iu":
        x = x.astype(np.float64)
        bad[name] += int((~np.isfinite(x).reshape(len(x), -1)).any(1).sum())
      block.append(x)
    if not any(bad.values()):
      yield block
  for name, count in bad.items():
    if count:
      raise ValueError(
        f"{name}: {count} of {length} rows have non-finite values"
      )


def float64_rows(
  **array: Shaped[np.ndarray, "n ..."],
) -> Float[np.ndarray, "n ..."]:
  """Returns a whole array in float64, if its rows are finite."""
  return np.concatenate([x for (x,) in float64_blocks(**array)])


def unit_rows(x: Float[np.ndarray, "*n d"]) -> Float[np.ndarray, "*n d"]:
  """Normalises rows to norm 1, on the host in float64.

  Example:
    >>> unit_rows(np.array([[3.0, 4.0], [0.0, 0.0]]))
    array([[0.6, 0.8],
           [0. , 0. ]])

  Args:
    x: features, [n, d] or [n, v, d].

  Returns:
    The normalised rows; rows of zeros stay zero.
  """
  wide = np.asarray(x, np.float64)
  # Non-finite rows are reported by the measures that take the result.
  with np.errstate(invalid="ignore"):
    norms = np.linalg.norm(wide, axis=-1, keepdims=True)
    return wide / np.where(norms == 0, 1, norms)
