"""The two losses of an embedding, and their minima.

Kiani et al. 2022 (arXiv 2209.14884); the forms are recalled, the consequences
derived. With Z = f(X), [N, d_out], and G = Z Z^T:

    contrastive      ||Z Z^T - (I + A)||_F^2 = ||G - T||^2,   T = I + A
    non-contrastive  ||Z^T C Z - I||_F^2 + beta Tr(Z^T Lap Z)
                       = ||C G C - T||^2 - ||T||^2 + d_out,
                     T = C - (beta / 2) Lap

from Tr((Z^T C Z)^2) = ||C G C||^2, Tr I = d_out and C Lap C = Lap. So both
losses are the squared distance of P G P to T, P = I or C, plus a constant. The
closest G of rank d_out is T_+, the top d_out eigenpairs of T clipped at 0. They
are known without a solver.
"""

import abc
import dataclasses
from typing import ClassVar, TypeVar

import numpy as np
from jaxtyping import Float
from scipy import linalg

from jssl.kernel_regime.targets import (
  Eigenpairs,
  Ids,
  Square,
  ViewGroups,
  adjacency,
  centre_gram,
  centring,
  check_d_out,
  laplacian,
  view_groups,
)

Embedded = Float[np.ndarray, "n d"]
Values = TypeVar("Values", float, np.ndarray)


def _empty_eigenpairs(n: int, d_out: int) -> Eigenpairs:
  check_d_out(d_out, n)
  return Eigenpairs(np.zeros(d_out), np.zeros((n, d_out)))


def _float64(z: Embedded, image_ids: Ids) -> Embedded:
  if z.ndim != 2 or len(z) != len(image_ids):
    raise ValueError(
      f"z must be [{len(image_ids)}, d], one row per id; got {z.shape}."
    )
  return z.astype(np.float64)


class Loss(abc.ABC):
  """A loss of embedded points, some of which are views of one image.

  Attributes:
    shift_invariant: True if only C G C matters (P = C), not G itself (P = I).
  """

  shift_invariant: ClassVar[bool]

  @abc.abstractmethod
  def target(self, image_ids: Ids) -> Square:
    """Returns T."""

  @abc.abstractmethod
  def top_eigenpairs(self, image_ids: Ids, d_out: int) -> Eigenpairs:
    """Returns T_+ in O(N d_out) memory; ValueError unless 1 <= d_out <= N."""

  @abc.abstractmethod
  def value(self, z: Embedded, image_ids: Ids) -> float:
    """Returns the loss of an embedding, without [N, N] arrays."""

  @abc.abstractmethod
  def target_norm_sq(self, image_ids: Ids) -> float:
    """Returns ||T||_F^2, without T."""

  def value_of_gram(self, g: Square, image_ids: Ids) -> float:
    """Returns ||P G P - T||^2, less ||T||^2 if shift invariant."""
    if self.shift_invariant:
      distance = np.sum((centre_gram(g) - self.target(image_ids)) ** 2)
      return float(distance - self.target_norm_sq(image_ids))
    return float(np.sum((g - self.target(image_ids)) ** 2))

  def gram_offset(self, d_out: int) -> float:
    """Returns value(Z) - value_of_gram(Z Z^T)."""
    return float(d_out) if self.shift_invariant else 0.0

  def directions(self, image_ids: Ids) -> int:
    """Number of dimensions that distinguish images."""
    return len(np.unique(image_ids)) - self.shift_invariant

  def minimum(self, image_ids: Ids, d_out: int) -> float:
    """Minimal `value` over all maps, if K is invertible: that of G = T_+."""
    top = float(np.sum(self.top_eigenpairs(image_ids, d_out).values ** 2))
    # The shift-invariant form has -||T||^2 in it already.
    base = 0.0 if self.shift_invariant else self.target_norm_sq(image_ids)
    return base - top + self.gram_offset(d_out)

  def relative_gap(self, value: Values, image_ids: Ids, d_out: int) -> Values:
    """Distance of `value` to the minimum, over max(|minimum|, ||T||^2)."""
    minimum = self.minimum(image_ids, d_out)
    return (value - minimum) / max(abs(minimum), self.target_norm_sq(image_ids))


@dataclasses.dataclass(frozen=True)
class Contrastive(Loss):
  """||Z Z^T - (I + A)||_F^2, the spectral contrastive loss."""

  shift_invariant: ClassVar[bool] = False

  def target(self, image_ids: Ids) -> Square:
    return np.eye(len(image_ids)) + adjacency(image_ids)

  def top_eigenpairs(self, image_ids: Ids, d_out: int) -> Eigenpairs:
    """The images with most views (of ties, lower ids), eigenvalue n_g."""
    index, counts = view_groups(image_ids)
    pairs = _empty_eigenpairs(len(index), d_out)
    order = np.argsort(-counts, kind="stable")[:d_out]
    for column, image in enumerate(order):
      pairs.values[column] = counts[image]
      pairs.vectors[index == image, column] = counts[image] ** -0.5
    return pairs

  def value(self, z: Embedded, image_ids: Ids) -> float:
    """||Z^T Z||^2 - 2 sum_g ||sum_{i in g} z_i||^2 + sum_g n_g^2."""
    z = _float64(z, image_ids)
    sums = view_groups(image_ids).sums(z)
    squares = np.sum((z.T @ z) ** 2) - 2 * np.sum(sums**2)
    return float(squares + self.target_norm_sq(image_ids))

  def target_norm_sq(self, image_ids: Ids) -> float:
    return float(np.sum(view_groups(image_ids).counts ** 2))


@dataclasses.dataclass(frozen=True)
class NonContrastive(Loss):
  """||Z^T C Z - I||_F^2 + beta Tr(Z^T Lap Z), a form of VICReg.

  Invariant to shifts of Z.

  Attributes:
    beta: weight of the invariance, >= 0. Views of an image are all mapped to
      one point if it has n_g >= 2 / beta views.
  """

  beta: float
  shift_invariant: ClassVar[bool] = True

  def __post_init__(self) -> None:
    if not self.beta >= 0:
      raise ValueError(f"loss.beta={self.beta} must not be negative.")

  def target(self, image_ids: Ids) -> Square:
    return centring(len(image_ids)) - self.beta / 2 * laplacian(image_ids)

  def top_eigenpairs(self, image_ids: Ids, d_out: int) -> Eigenpairs:
    """Differences between images' means, of eigenvalue 1, and within images.

    The n_g - 1 differences within an image have 1 - beta n_g / 2.
    """
    index, counts = groups = view_groups(image_ids)
    pairs = _empty_eigenpairs(len(index), d_out)
    column = self._between(groups, pairs)
    for image in np.argsort(counts, kind="stable"):
      value = 1 - self.beta * counts[image] / 2
      if value <= 0 or column == d_out:
        break
      if counts[image] == 1:
        continue
      inside = linalg.helmert(counts[image])[: d_out - column]
      stop = column + len(inside)
      pairs.values[column:stop] = value
      pairs.vectors[np.flatnonzero(index == image), column:stop] = inside.T
      column = stop
    return pairs

  @staticmethod
  def _between(groups: ViewGroups, pairs: Eigenpairs) -> int:
    """Fills in the differences of images' means; returns their number."""
    index, counts = groups
    # In the orthonormal basis of images' means, 1 is along w = sqrt(n_g / N). A
    # reflection H that maps w to -e_0 has all orthogonal directions as columns.
    v = np.sqrt(counts / len(index))
    v[0] += 1
    between = min(len(counts) - 1, len(pairs.values))
    reflection = np.eye(len(counts), between, -1)
    reflection -= np.outer(v, v[1 : between + 1]) * (2 / (v @ v))
    pairs.values[:between] = 1
    pairs.vectors[:, :between] = (reflection / np.sqrt(counts)[:, None])[index]
    return between

  def value(self, z: Embedded, image_ids: Ids) -> float:
    """||Z^T C Z - I||^2 + beta sum_g (n_g sum |z_i|^2 - |sum z_i|^2)."""
    z = _float64(z, image_ids)
    # The Laplacian is invariant to the mean, too.
    centred = z - z.mean(0, dtype=np.float64)
    groups = view_groups(image_ids)
    covariance = centred.T @ centred - np.eye(z.shape[1])
    degrees = groups.counts[groups.image_index][:, None]
    within = np.sum(degrees * centred**2) - np.sum(groups.sums(centred) ** 2)
    return float(np.sum(covariance**2) + self.beta * within)

  def target_norm_sq(self, image_ids: Ids) -> float:
    """Number of images - 1 + sum_g (n_g - 1) (1 - beta n_g / 2)^2."""
    n = view_groups(image_ids).counts
    within = (n - 1) * (1 - self.beta * n / 2) ** 2
    return float(len(n) - 1 + np.sum(within))
