"""View groups, and the matrices that the targets of the losses consist of.

N points are views of images. With n_g views of image g, in order of images,

    I + A = blockdiag(J_{n_g}),
    Lap = diag(A 1) - A = blockdiag(n_g I - J_{n_g})

with J all ones. Lap and C = I - 11^T / N commute.
"""

from typing import NamedTuple

import numpy as np
from jaxtyping import Float, Int
from scipy import linalg

Ids = Int[np.ndarray, "n"]
Square = Float[np.ndarray, "n n"]


class ViewGroups(NamedTuple):
  """Index [n] of the image of each point, and number n_g of views by image."""

  image_index: Int[np.ndarray, "n"]
  counts: Int[np.ndarray, "g"]

  def sums(self, x: Float[np.ndarray, "n d"]) -> Float[np.ndarray, "g d"]:
    """Returns the sum of the rows of each image."""
    total = np.zeros((len(self.counts), x.shape[1]))
    np.add.at(total, self.image_index, x)
    return total


def view_groups(image_ids: Ids) -> ViewGroups:
  """Groups points by image: equal ids are views of one image.

  Raises ValueError unless there are two images, one of them with two views, and
  no id is negative (a missing label).
  """
  image_ids = np.asarray(image_ids)
  if image_ids.ndim != 1 or not len(image_ids):
    raise ValueError(f"image_ids must be [n], n > 0; got {image_ids.shape}.")
  if not np.issubdtype(image_ids.dtype, np.integer):
    raise TypeError(f"image_ids must be integers; got {image_ids.dtype}.")
  if missing := int(np.sum(image_ids < 0)):
    raise ValueError(
      f"{missing} of {len(image_ids)} points have no image id or label (-1)."
    )
  _, index, counts = np.unique(
    image_ids, return_inverse=True, return_counts=True
  )
  if len(counts) == 1 or counts.max() == 1:
    raise ValueError(
      f"{len(image_ids)} points belong to {len(counts)} images (or classes); "
      "expected at least 2, one of them with at least 2 points. Check "
      "image_ids and the number of views."
    )
  return ViewGroups(index, counts)


def check_views(views: Float[np.ndarray, "n ..."], image_ids: Ids) -> None:
  """Raises ValueError if the views of every image are identical."""
  groups = view_groups(image_ids)
  if len(views) != len(groups.image_index):
    raise ValueError(
      "views and image_ids must have the same length; got "
      f"{len(views)} and {len(groups.image_index)}."
    )
  _, first = np.unique(groups.image_index, return_index=True)
  axes = tuple(range(1, views.ndim))
  if not np.any(views != views[first[groups.image_index]], axis=axes).any():
    raise ValueError(
      f"All views are identical in each of the {np.sum(groups.counts > 1)} "
      "images with several views, so K is singular. The augmentations change "
      "nothing; check the `augment` section."
    )


def adjacency(image_ids: Ids) -> Square:
  """Returns A: A_ij = 1 iff i != j are views of one image."""
  index = view_groups(image_ids).image_index
  a = (index[:, None] == index[None]).astype(np.float64)
  np.fill_diagonal(a, 0)
  return a


def laplacian(image_ids: Ids) -> Square:
  """Returns Lap = diag(A 1) - A."""
  a = adjacency(image_ids)
  return np.diag(a.sum(1)) - a


def centring(n: int) -> Square:
  """Returns C = I - 11^T / N."""
  return np.eye(n) - 1 / n


def centre_gram(k: Square) -> Square:
  """Returns C K C."""
  rows = k - k.mean(0, keepdims=True)
  return rows - rows.mean(1, keepdims=True)


class Eigenpairs(NamedTuple):
  """T_+ = V diag(values) V^T: the leading eigenpairs of a target, clipped at 0.

  Attributes:
    values: [d_out], descending; 0 where the target has no positive one left.
    vectors: [n, d_out], orthonormal; 0 where the value is 0.
  """

  values: Float[np.ndarray, "d"]
  vectors: Float[np.ndarray, "n d"]

  def matrix(self) -> Square:
    """Returns T_+."""
    return (self.vectors * self.values) @ self.vectors.T


def check_d_out(d_out: int, n: int) -> None:
  """Raises ValueError unless d_out is from 1 to n."""
  if not 1 <= d_out <= n:
    raise ValueError(
      f"d_out={d_out} must be from 1 to the number of points, {n}."
    )


def top_eigenpairs(target: Square, d_out: int) -> Eigenpairs:
  """Leading eigenpairs of any symmetric target [n, n], by a solver.

  `Loss.top_eigenpairs` needs no solver.
  """
  n = len(target)
  check_d_out(d_out, n)
  values, vectors = linalg.eigh(target, subset_by_index=[n - d_out, n - 1])
  values, vectors = values[::-1], vectors[:, ::-1]
  positive = values > 0
  return Eigenpairs(
    np.where(positive, values, 0), np.where(positive, vectors, 0)
  )
