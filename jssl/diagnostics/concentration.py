"""Concentration of classes under augmentation: 1 - sigma(delta).

The definitions are from Huang et al., ICLR 2023, arXiv 2111.00743; the estimate
of 1 - sigma(delta) is our own.
"""

from collections.abc import Sequence
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jax.sharding import Mesh
from jaxtyping import Array, Bool, Float, Int

from jssl.diagnostics import blocks, checks
from jssl.diagnostics.rows import float64_mean, product
from jssl.diagnostics.vertex_cover import cover_shares

_QUANTILES = 33
# |a|^2 + |b|^2 - 2 <a, b> loses more than two digits if the squared distance is
# below this share of |a|^2 + |b|^2.
_CLOSE = 1e-2


class ConcentrationCurve(NamedTuple):
  """Share of each class outside of a main part of diameter delta.

  Attributes:
    deltas: diameters, ascending, as Euclidean distances of pixels.
    one_minus_sigma: upper bound on 1 - sigma at each delta, the largest over
      classes; never increases with delta.
    lower_bound: lower bound on 1 - sigma for the same images and views.
    per_class: upper bound of each class.
    classes: label of each row of `per_class`, ascending.
  """

  deltas: Float[np.ndarray, "t"]
  one_minus_sigma: Float[np.ndarray, "t"]
  lower_bound: Float[np.ndarray, "t"]
  per_class: Float[np.ndarray, "k t"]
  classes: Int[np.ndarray, "k"]


@jax.jit
def _nearest(
  rows: Float[Array, "a m p"], columns: Float[Array, "b m p"]
) -> tuple[Float[Array, "a b"], Bool[Array, "a b"]]:
  """Squared distances of nearest views; True where any pair is too close."""
  a, m, p = rows.shape
  x, y = rows.reshape(-1, p), columns.reshape(-1, p)
  sizes = jnp.sum(x * x, 1)[:, None] + jnp.sum(y * y, 1)[None]
  squares = sizes - 2 * product(x, y.T)
  shape = (a, m, -1, m)
  return (
    squares.reshape(shape).min((1, 3)),
    (squares < _CLOSE * sizes).reshape(shape).any((1, 3)),
  )


@jax.jit
def _nearest_by_differences(
  first: Float[Array, "a m p"], second: Float[Array, "a m p"]
) -> Float[Array, "a"]:
  """Squared distances of nearest views of pairs of images, exact when close."""
  squares = jax.lax.map(
    lambda view: jnp.sum((second - view[:, None]) ** 2, -1).min(1),
    first.swapaxes(0, 1),
  )
  return squares.min(0)


def _close_squares(
  x: Float[np.ndarray, "n m p"],
  pairs: Int[np.ndarray, "a 2"],
  tile: int,
  mesh: Mesh | None,
) -> Float[np.ndarray, "a"]:
  parts = [np.zeros(0, np.float32)]
  for start in range(0, len(pairs), tile):
    part = pairs[start : start + tile]
    nearest = _nearest_by_differences(
      *(blocks.put(x[side], tile, mesh) for side in part.T)
    )
    parts.append(np.asarray(nearest)[: len(part)])
  return np.concatenate(parts)


def _distances(
  x: Float[np.ndarray, "n m p"], tile: int, mesh: Mesh | None
) -> Float[np.ndarray, "n n"]:
  n = len(x)
  centre = float64_mean(x, (0, 1))
  blocks.check_finite(centre, x, name="views")
  squares = np.zeros((n, n), np.float32)
  for i in range(0, n, tile):
    rows = blocks.put(x[i : i + tile] - centre, tile, mesh)
    for j in range(i, n, tile):
      columns = rows if i == j else blocks.put(x[j : j + tile] - centre, tile)
      nearest, close = map(np.array, _nearest(rows, columns))
      real = np.s_[: n - i, : n - j]
      nearest, close = nearest[real], close[real]
      if i == j:
        nearest, close = np.triu(nearest, 1), np.triu(close, 1)
      nearest[close] = _close_squares(
        x, np.argwhere(close) + np.array([i, j]), tile, mesh
      )
      squares[i : i + tile, j : j + tile] = nearest
  blocks.check_finite(squares, x, name="views")
  for i in range(n):
    squares[i:, i] = squares[i, i:]
  return np.sqrt(np.maximum(squares, 0, out=squares), out=squares)


def _tile(images: int, views: int, mesh: Mesh | None) -> int:
  """Returns the number of images along each side of a tile of view pairs."""
  side = max(min(blocks.tile_side() // views, images), 1)
  return blocks.round_up(side, mesh)


def _check_memory(counts: list[int], max_bytes: int) -> None:
  needed = sum(4 * n**2 for n in counts)
  if needed > max_bytes:
    fits = int((max_bytes / needed) ** 0.5 * sum(counts))
    raise ValueError(
      f"distances of {sum(counts)} images need {needed} bytes, more than "
      f"max_bytes={max_bytes}; {fits} images would fit"
    )


def augmented_distances(
  views: Float[np.ndarray, "n m *pixel"],
  *,
  mesh: Mesh | None = None,
  max_bytes: int = 2**32,
) -> Float[np.ndarray, "n n"]:
  """Returns d_A(x1, x2) = min |x1' - x2'| over the views of two images.

  An upper bound of the distance over all possible views. Time O(n^2 m^2 p),
  result 4 n^2 bytes. Squared distances come from float32 products, or from
  differences where views are so close that products would cancel: the relative
  error is about 1e-5, and equal views have distance 0.

  Example:
    >>> views = np.random.default_rng(0).random((5, 8, 28, 28, 1))
    >>> augmented_distances(views).shape
    (5, 5)

  Args:
    views: m views of n images, before standardisation: [n, m, p] or
      [n, m, h, w, c], in [0, 1] (not checked, but the unit of the result).
    max_bytes: largest size of the result.

  Returns:
    Symmetric float32 matrix, 0 on the diagonal.
  """
  flat = checks.flat_pixels(views)
  _check_memory([len(flat)], max_bytes)
  return _distances(flat, _tile(len(flat), flat.shape[1], mesh), mesh)


def _quantiles(
  distances: list[Float[np.ndarray, "_ _"]],
) -> Float[np.ndarray, "t"]:
  pairs = np.concatenate([x[np.triu_indices(len(x), 1)] for x in distances])
  if not pairs.any():
    raise ValueError(
      f"all {len(pairs)} augmented distances within classes are 0: images of a "
      "class share a view, so sigma is 1 at any delta"
    )
  shares = np.linspace(0, 1, _QUANTILES)
  return np.unique(np.quantile(pairs, shares).astype(np.float64))


def concentration_curve(
  views: Float[np.ndarray, "n m *pixel"],
  labels: Int[np.ndarray, "n"],
  *,
  deltas: Sequence[float] | Float[np.ndarray, "t"] | None = None,
  mesh: Mesh | None = None,
  max_bytes: int = 2**32,
) -> ConcentrationCurve:
  """Bounds 1 - sigma(delta) of a (sigma, delta)-concentrated augmentation.

  Each class has a main part, at least a share sigma of it, in which no two
  images have an augmented distance above delta. Join the images of a class
  with d_A > delta in a graph: the complement of any vertex cover is a main
  part. The upper bound is the smallest of three pruned covers: a greedy maximal
  matching, a greedy cover by degree, and the cover of the next smaller delta.
  The lower bound is the larger of half the matching and of n minus the number
  of cliques in a greedy partition. All steps are deterministic.

  Few views overestimate distances and so 1 - sigma; few images represent the
  class poorly.

  Example:
    >>> views = np.random.default_rng(0).random((20, 8, 6, 6, 1))
    >>> curve = concentration_curve(views, np.arange(20) % 2)
    >>> bool(curve.one_minus_sigma[-1] == 0)  # at the largest distance
    True

  Args:
    views: see `augmented_distances`; 8 to 64 views per image.
    labels: integer class of each image.
    deltas: ascending, not negative; use the same values to compare
      augmentations. None: quantiles of all distances within classes.
    max_bytes: largest size of the distances within all classes together; peak
      memory is about four times that.
  """
  flat = checks.flat_pixels(views)
  if flat.shape[1] > 1:
    checks.check_views_differ(flat)
  labels = checks.check_labels(labels, len(flat))
  classes, counts = np.unique(labels, return_counts=True)
  if counts.max() < 2:
    raise ValueError(
      f"each of the {len(classes)} classes has one image; distances within "
      "classes need at least 2 in one of them"
    )
  given = (
    None if deltas is None else checks.check_not_negative("deltas", deltas)
  )
  if given is not None and np.any(np.diff(given) < 0):
    raise ValueError(f"deltas must be ascending, not {given}")
  _check_memory(counts.tolist(), max_bytes)
  tile = _tile(int(counts.max()), flat.shape[1], mesh)
  distances = [_distances(flat[labels == k], tile, mesh) for k in classes]
  diameters = _quantiles(distances) if given is None else given
  upper, lower = map(
    np.stack,
    zip(*(cover_shares(x, diameters) for x in distances), strict=True),
  )
  return ConcentrationCurve(
    deltas=diameters,
    one_minus_sigma=upper.max(0),
    lower_bound=lower.max(0),
    per_class=upper,
    classes=classes,
  )
