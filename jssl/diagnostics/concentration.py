"""How augmentations concentrate classes: augmented distances, 1 - sigma(delta).

Huang, Yi, Zhao and Jiang, "Towards the Generalization of Contrastive
Self-Supervised Learning", ICLR 2023, arXiv 2111.00743. The definitions are the
paper's; how 1 - sigma(delta) is estimated is our own recipe.
"""

from collections.abc import Sequence
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jax.sharding import Mesh
from jaxtyping import Array, Bool, Float, Int

from jssl.diagnostics import blocks
from jssl.diagnostics.checks import (
  check_finite,
  check_labels,
  check_not_negative,
  check_views_differ,
  flat_pixels,
)
from jssl.diagnostics.rows import product
from jssl.diagnostics.vertex_cover import cover_shares

_QUANTILES = 33
# Squared distances that are a smaller share of the squared norms than this
# lose more than two digits in |a|^2 + |b|^2 - 2 <a, b>.
_CLOSE = 1e-2


class ConcentrationCurve(NamedTuple):
  """How much of the classes is left out of main parts of diameter delta.

  Attributes:
    deltas: diameters, ascending, in units of pixels' Euclidean distance.
    one_minus_sigma: upper bound on 1 - sigma at each: the largest of all
      classes. Never rises with delta.
    lower_bound: what no choice of main parts could be below, for the same
      images and views: the truth is between the two.
    per_class: upper bound on the share that is left out of each class.
    classes: the label that each row of `per_class` is of, ascending.
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
  """Squared distance of the nearest views, and whether any are close."""
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
  """Squared distance of the nearest views of each pair of images."""
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
  with np.errstate(invalid="ignore"):
    centre = x.mean((0, 1), dtype=np.float64)
  check_finite(centre, x, name="views")
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
  check_finite(squares, x, name="views")
  for i in range(n):
    squares[i:, i] = squares[i, i:]
  return np.sqrt(np.maximum(squares, 0, out=squares), out=squares)


def _tile(images: int, views: int, mesh: Mesh | None) -> int:
  """Images along a side of a tile of distances of views."""
  return blocks.rounded(max(min(blocks.tile_side() // views, images), 1), mesh)


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

  With fewer views than the augmentation can make it is an upper bound; more
  views of the same images never raise it. Time is O(n^2 m^2 p), the result
  takes 4 n^2 bytes, a device holds tiles.

  Example:
    >>> import numpy as np
    >>> views = np.random.default_rng(0).random((5, 8, 28, 28, 1))
    >>> augmented_distances(views).shape
    (5, 5)

  Args:
    views: m views of n images as the backbone gets them, before it standardises
      pixels: [n, m, p] or [n, m, h, w, c], in [0, 1]. The values are not
      checked, but deltas are in their units.
    mesh: rows of tiles are split over all its devices; None is one device.
    max_bytes: that the result may take.

  Returns:
    Symmetric, float32, 0 on the diagonal. Views are float32; squares come from
    their products (float32, highest precision, mean removed), and from their
    differences wherever images have views so close that products would cancel:
    a relative error of about 1e-5, and 0 for equal views.

  Raises:
    ValueError: `views` has neither shape, has values that are not finite, or
      n is too large for `max_bytes`.
    TypeError: `views` are not floating.

  Reference:
    Huang et al., ICLR 2023.
  """
  flat = flat_pixels(views)
  _check_memory([len(flat)], max_bytes)
  return _distances(flat, _tile(len(flat), flat.shape[1], mesh), mesh)


def _quantiles(
  distances: list[Float[np.ndarray, "n n"]],
) -> Float[np.ndarray, "t"]:
  pairs = np.concatenate(
    [within[np.triu(np.ones(within.shape, bool), 1)] for within in distances]
  )
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
  """Estimates 1 - sigma(delta): augmentations are (sigma, delta)-concentrated.

  That is, each class has a main part of at least the share sigma in which no
  two images have an augmented distance above delta. In the graph that joins
  images of a class with d_A > delta a main part is what a vertex cover leaves.
  The smallest cover is hard to find; any cover is an upper bound. Here it is
  the smallest of three: both ends of a greedy maximal matching (at most twice
  the best), the most joined images one by one, and the cover of the next
  smaller delta, which remains one; each without the images that it doesn't
  need. The lower bound is the better of two: one end of each pair of the
  matching, and all but one image of each clique of a greedy partition (a main
  part has no two of a clique). All is deterministic.

  Bounds are on the images and views that are given: few views make distances
  too large and so 1 - sigma too high; few images say little of the class.

  Example:
    >>> import numpy as np
    >>> views = np.random.default_rng(0).random((20, 8, 6, 6, 1))
    >>> curve = concentration_curve(views, np.arange(20) % 2)
    >>> bool(curve.one_minus_sigma[-1] == 0)  # at the largest distance
    True

  Args:
    views: see `augmented_distances`; 8 to 64 an image.
    labels: integer class of each image.
    deltas: ascending, not negative; to compare stacks of augmentations give all
      the same. None: quantiles of all distances within classes.
    mesh: see `augmented_distances`.
    max_bytes: that the distances within all classes together may take, 4 bytes
      each; at most about four times that is in use.

  Raises:
    ValueError: labels don't fit the views or are negative (no label), no class
      has two images, the views of each image are the same, all distances
      within classes are 0 (and no `deltas`), or `deltas` are not ascending; and
      as `augmented_distances`.
    TypeError: `labels` are not integers, or `views` not floating.

  Reference:
    Huang et al., ICLR 2023, the definition; the estimate is our own recipe.
  """
  flat = flat_pixels(views)
  if flat.shape[1] > 1:
    check_views_differ(flat)
  labels = check_labels(labels, len(flat))
  classes, counts = np.unique(labels, return_counts=True)
  if counts.max() < 2:
    raise ValueError(
      f"each of the {len(classes)} classes has one image; distances within "
      "classes need at least 2 in one of them"
    )
  given = None if deltas is None else check_not_negative("deltas", deltas)
  if given is not None and np.any(np.diff(given) < 0):
    raise ValueError(f"deltas must be ascending, not {given}")
  _check_memory(counts.tolist(), max_bytes)
  tile = _tile(int(counts.max()), flat.shape[1], mesh)
  distances = [_distances(flat[labels == k], tile, mesh) for k in classes]
  diameters = _quantiles(distances) if given is None else given
  covers = [cover_shares(within, diameters) for within in distances]
  per_class = np.stack([upper for upper, _ in covers])
  lower = np.stack([lower for _, lower in covers])
  return ConcentrationCurve(
    deltas=diameters,
    one_minus_sigma=per_class.max(0),
    lower_bound=lower.max(0),
    per_class=per_class,
    classes=classes,
  )
