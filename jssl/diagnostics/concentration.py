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
from jaxtyping import Array, Float, Int

from jssl.diagnostics import checks, pairs
from jssl.diagnostics.rows import float64_rows
from jssl.diagnostics.vertex_cover import cover_shares

_QUANTILES = 33
# |a|^2 + |b|^2 - 2 <a, b> loses six of the 16 digits of float64 if the squared
# distance is below this share of |a|^2 + |b|^2.
_CLOSE = 1e-6


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
  columns: Float[Array, "n m p"], rows: Float[Array, "b m p"]
) -> Float[Array, "b n"]:
  """Squared distances of nearest views; NaN where any pair is too close."""
  n, m, p = columns.shape
  x, y = rows.reshape(-1, p), columns.reshape(-1, p)
  sizes = jnp.sum(x * x, 1)[:, None] + jnp.sum(y * y, 1)[None]
  squares = sizes - 2 * pairs.product(x, y.T)
  squares = jnp.where(squares < _CLOSE * sizes, jnp.nan, squares)
  return squares.reshape(-1, m, n, m).min((1, 3))


def _distances(
  views: Float[np.ndarray, "n m p"], mesh: Mesh | None
) -> Float[np.ndarray, "n n"]:
  x = float64_rows(views=views)
  x -= x.mean((0, 1))
  n, m, _ = x.shape
  with jax.enable_x64(True):
    squares = pairs.map_tiles(_nearest, (x,), x, row_pairs=n * m**2, mesh=mesh)
  squares = np.minimum(squares, squares.T)
  np.fill_diagonal(squares, 0)
  for i, j in np.argwhere(np.isnan(squares)):
    squares[i, j] = np.sum((x[i][:, None] - x[j]) ** 2, 2).min()
  return np.sqrt(squares).astype(np.float32)


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
  result 4 n^2 bytes. Computed in float64, from products or, where views are so
  close that products would cancel, from differences.

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
  return _distances(flat, mesh)


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
    checks.check_views_differ(views=flat)
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
  distances = [_distances(flat[labels == k], mesh) for k in classes]
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
