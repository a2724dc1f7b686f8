"""The targets T that the losses have, and their eigenpairs in closed form.

N points are views of images. With n_g views of image g, in order of images,

    I + A = blockdiag(J_{n_g}),
    Lap = diag(A 1) - A = blockdiag(n_g I - J_{n_g})

with J all ones. Lap and C = I - 11^T / N commute, so all eigenvectors are known
without a solver, whatever the n_g: of I + A the images' own means (eigenvalue
n_g); of C - (beta / 2) Lap differences of images' means (eigenvalue 1) and
differences within an image (1 - beta n_g / 2, n_g - 1 of them).
"""

from typing import NamedTuple

import numpy as np
from jaxtyping import Float, Int
from scipy import linalg

Ids = Int[np.ndarray, "n"]
Square = Float[np.ndarray, "n n"]


class Images(NamedTuple):
  """Who is a view of what.

  Attributes:
    of: number of the image of each point, from 0.
    counts: n_g, views of each image.
  """

  of: Int[np.ndarray, "n"]
  counts: Int[np.ndarray, "g"]

  def sums(self, x: Float[np.ndarray, "n d"]) -> Float[np.ndarray, "g d"]:
    """Returns the sum of each image's rows."""
    total = np.zeros((len(self.counts), x.shape[1]))
    np.add.at(total, self.of, x)
    return total


def images(image_ids: Ids) -> Images:
  """Numbers the images of some points.

  Args:
    image_ids: [n], equal for views of one image; any integers.

  Raises:
    ValueError: ids are not [n], or all equal, or no two of them are.
    TypeError: ids aren't integers.
  """
  image_ids = np.asarray(image_ids)
  if image_ids.ndim != 1 or not len(image_ids):
    raise ValueError(f"image_ids must be [n], n > 0, not {image_ids.shape}")
  if not np.issubdtype(image_ids.dtype, np.integer):
    raise TypeError(f"image_ids must be integers, not {image_ids.dtype}")
  _, of, counts = np.unique(image_ids, return_inverse=True, return_counts=True)
  if len(counts) == 1 or counts.max() == 1:
    raise ValueError(
      f"{len(image_ids)} points are of {len(counts)} images (or classes); "
      "there must be at least 2, one of them with at least 2 points, or there "
      "is nothing to learn: check image_ids, kernels.views"
    )
  return Images(of, counts)


def check_views(views: Float[np.ndarray, "n ..."], image_ids: Ids) -> None:
  """Checks that views of an image differ.

  Raises:
    ValueError: there is no image of which they do; says of how many they don't.
  """
  group = images(image_ids)
  if len(views) != len(group.of):
    raise ValueError(
      f"views and image_ids must be as many, not {len(views)} and "
      f"{len(group.of)}"
    )
  _, first = np.unique(group.of, return_index=True)
  axes = tuple(range(1, views.ndim))
  differs = np.zeros(len(group.counts), bool)
  np.logical_or.at(
    differs, group.of, np.any(views != views[first[group.of]], axis=axes)
  )
  if not differs.any():
    several = int(np.sum(group.counts > 1))
    raise ValueError(
      f"all views are identical in {several} of the {several} images that have "
      "several: augmentations change nothing, and K is singular; check augment"
    )


def adjacency(image_ids: Ids) -> Square:
  """Returns A: A_ij = 1 iff i != j are views of one image."""
  of = images(image_ids).of
  a = (of[:, None] == of[None]).astype(np.float64)
  np.fill_diagonal(a, 0)
  return a


def laplacian(image_ids: Ids) -> Square:
  """Returns Lap = diag(A 1) - A."""
  a = adjacency(image_ids)
  return np.diag(a.sum(1)) - a


def centring(n: int) -> Square:
  """Returns C = I - 11^T / N."""
  return np.eye(n) - 1 / n


def contrastive_target(image_ids: Ids) -> Square:
  """Returns T = I + A."""
  return np.eye(len(image_ids)) + adjacency(image_ids)


def non_contrastive_target(image_ids: Ids, *, beta: float) -> Square:
  """Returns T = C - (beta / 2) Lap.

  Args:
    image_ids: [n].
    beta: weight of the invariance.
  """
  return centring(len(image_ids)) - beta / 2 * laplacian(image_ids)


class Eigenpairs(NamedTuple):
  """T_+ = V diag(values) V^T: the top of a target, clipped at 0.

  Attributes:
    values: d_out of them, descending; 0 where no positive one is left.
    vectors: orthonormal columns; those of value 0 are 0.
  """

  values: Float[np.ndarray, "d"]
  vectors: Float[np.ndarray, "n d"]

  def matrix(self) -> Square:
    """Returns T_+."""
    return (self.vectors * self.values) @ self.vectors.T


def check_d_out(d_out: int, n: int) -> None:
  """Raises ValueError where points can't have as many dimensions."""
  if not 1 <= d_out <= n:
    raise ValueError(
      f"kernels.d_out={d_out} must be from 1 to the number of points, {n}"
    )


def top_eigenpairs(target: Square, d_out: int) -> Eigenpairs:
  """Returns the top of any symmetric target by a solver, O(N^3).

  Args:
    target: T, [n, n].
    d_out: dimension of the embedding.

  Raises:
    ValueError: d_out isn't from 1 to n.
  """
  n = len(target)
  check_d_out(d_out, n)
  values, vectors = linalg.eigh(target, subset_by_index=[n - d_out, n - 1])
  values, vectors = values[::-1], vectors[:, ::-1]
  kept = values > 0
  return Eigenpairs(np.where(kept, values, 0), np.where(kept, vectors, 0))


def _empty(n: int, d_out: int) -> Eigenpairs:
  check_d_out(d_out, n)
  return Eigenpairs(np.zeros(d_out), np.zeros((n, d_out)))


def contrastive_eigenpairs(image_ids: Ids, d_out: int) -> Eigenpairs:
  """Returns the top of I + A: means of the images with most views.

  Of images with equally many views, those of lower ids. O(N d_out) memory.

  Args:
    image_ids: [n].
    d_out: dimension of the embedding.

  Raises:
    ValueError: d_out isn't from 1 to n.
  """
  of, counts = images(image_ids)
  pairs = _empty(len(of), d_out)
  order = np.argsort(-counts, kind="stable")[:d_out]
  for column, image in enumerate(order):
    pairs.values[column] = counts[image]
    pairs.vectors[of == image, column] = counts[image] ** -0.5
  return pairs


def non_contrastive_eigenpairs(
  image_ids: Ids, d_out: int, *, beta: float
) -> Eigenpairs:
  """Returns the top of C - (beta / 2) Lap, as the head of this module says.

  O(N d_out) memory.

  Args:
    image_ids: [n].
    d_out: dimension of the embedding.
    beta: weight of the invariance, >= 0.

  Raises:
    ValueError: d_out isn't from 1 to n.
  """
  of, counts = images(image_ids)
  pairs = _empty(len(of), d_out)
  # The direction of 1 is w = sqrt(n_g / N) in the orthonormal basis of images'
  # means. A reflection H that takes it to -e_0 has all others as its columns.
  v = np.sqrt(counts / len(of))
  v[0] += 1
  between = min(len(counts) - 1, d_out)
  reflection = np.eye(len(counts), between, -1)
  reflection -= np.outer(v, v[1 : between + 1]) * (2 / (v @ v))
  pairs.values[:between] = 1
  pairs.vectors[:, :between] = (reflection / np.sqrt(counts)[:, None])[of]
  column = between
  for image in np.argsort(counts, kind="stable"):
    value = 1 - beta * counts[image] / 2
    if value <= 0 or column == d_out:
      break
    if counts[image] == 1:
      continue
    inside = linalg.helmert(counts[image])[: d_out - column]
    stop = column + len(inside)
    pairs.values[column:stop] = value
    pairs.vectors[np.flatnonzero(of == image), column:stop] = inside.T
    column = stop
  return pairs
