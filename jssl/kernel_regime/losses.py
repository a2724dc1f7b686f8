"""The two losses of an embedding, and what their minima are.

Kiani et al. 2022 (arXiv 2209.14884); the forms are recalled, what follows from
them is derived. With Z = f(X), [N, d_out], and G = Z Z^T:

    contrastive      ||Z Z^T - (I + A)||_F^2 = ||G - T||^2,   T = I + A
    non-contrastive  ||Z^T C Z - I||_F^2 + beta Tr(Z^T Lap Z)
                       = ||C G C||^2 - 2 Tr(C G) + beta Tr(Lap G) + d_out
                       = ||C G C - T||^2 - ||T||^2 + d_out,
                     T = C - (beta / 2) Lap

The second form of the second follows from Tr((Z^T C Z)^2) = ||C G C||^2 and
Tr I = d_out, the third from C Lap C = Lap. So both are the squared distance of
P G P to T, P = I or C, and a constant; G of rank d_out that is closest is T_+,
its top d_out eigenpairs clipped at 0.
"""

import abc
import dataclasses
from typing import ClassVar

import numpy as np
from jaxtyping import Float

from jssl.kernel_regime import targets
from jssl.kernel_regime.targets import Eigenpairs, Ids, Square

Embedded = Float[np.ndarray, "n d"]


class Loss(abc.ABC):
  """A loss of embedded points, of which some are views of one image.

  Attributes:
    shift_invariant: whether only C G C matters (P = C) or G itself (P = I).
  """

  shift_invariant: ClassVar[bool]

  @abc.abstractmethod
  def target(self, image_ids: Ids) -> Square:
    """Returns T."""

  @abc.abstractmethod
  def eigenpairs(self, image_ids: Ids, d_out: int) -> Eigenpairs:
    """Returns T_+, without a solver."""

  @abc.abstractmethod
  def of_embedding(self, z: Embedded, image_ids: Ids) -> float:
    """Returns the loss of an embedding; no [N, N] array exists."""

  @abc.abstractmethod
  def of_gram(self, g: Square, image_ids: Ids) -> float:
    """Returns the loss of G, less `constant`."""

  @abc.abstractmethod
  def constant(self, d_out: int) -> float:
    """Returns of_embedding(Z) - of_gram(Z Z^T)."""

  @abc.abstractmethod
  def target_squares(self, image_ids: Ids) -> float:
    """Returns ||T||_F^2, without T."""

  def minimum(self, image_ids: Ids, d_out: int) -> float:
    """Returns the least `of_embedding` of any map, K being invertible.

    It is that of G = T_+: the eigenvalues that T_+ lacks, squared, and
    constants.
    """
    top = float(np.sum(self.eigenpairs(image_ids, d_out).values ** 2))
    # ||G - T||^2 is 0 at the best, the other form -||T||^2 + d_out.
    base = 0.0 if self.shift_invariant else self.target_squares(image_ids)
    return base - top + self.constant(d_out)


def _check_points(z: Embedded, image_ids: Ids) -> None:
  if z.ndim != 2 or len(z) != len(image_ids):
    raise ValueError(
      f"z must be [{len(image_ids)}, d], a row for each id, not {z.shape}"
    )


@dataclasses.dataclass(frozen=True)
class Contrastive(Loss):
  """||Z Z^T - (I + A)||_F^2, the spectral contrastive loss."""

  shift_invariant: ClassVar[bool] = False

  def target(self, image_ids: Ids) -> Square:
    """Returns I + A."""
    return targets.contrastive_target(image_ids)

  def eigenpairs(self, image_ids: Ids, d_out: int) -> Eigenpairs:
    """Returns the top of I + A."""
    return targets.contrastive_eigenpairs(image_ids, d_out)

  def of_embedding(self, z: Embedded, image_ids: Ids) -> float:
    """||Z^T Z||^2 - 2 sum_g ||sum_{i in g} z_i||^2 + sum_g n_g^2.

    Exact to rounding of ||T||^2, about 1e-15 of it.
    """
    _check_points(z, image_ids)
    z = z.astype(np.float64)
    sums = targets.images(image_ids).sums(z)
    squares = np.sum((z.T @ z) ** 2) - 2 * np.sum(sums**2)
    return float(squares + self.target_squares(image_ids))

  def of_gram(self, g: Square, image_ids: Ids) -> float:
    """||G - (I + A)||^2."""
    return float(np.sum((g - self.target(image_ids)) ** 2))

  def constant(self, d_out: int) -> float:
    """Returns 0."""
    return 0.0

  def target_squares(self, image_ids: Ids) -> float:
    """sum_g n_g^2."""
    return float(np.sum(targets.images(image_ids).counts ** 2))


@dataclasses.dataclass(frozen=True)
class NonContrastive(Loss):
  """||Z^T C Z - I||_F^2 + beta Tr(Z^T Lap Z), a form of VICReg.

  It doesn't see a shift of Z.

  Attributes:
    beta: weight of the invariance, >= 0. In an image with n_g >= 2 / beta views
      no difference is worth a dimension.

  Raises:
    ValueError: beta is negative.
  """

  beta: float
  shift_invariant: ClassVar[bool] = True

  def __post_init__(self) -> None:
    if not self.beta >= 0:
      raise ValueError(f"loss.beta={self.beta} must not be negative")

  def target(self, image_ids: Ids) -> Square:
    """Returns C - (beta / 2) Lap."""
    return targets.non_contrastive_target(image_ids, beta=self.beta)

  def eigenpairs(self, image_ids: Ids, d_out: int) -> Eigenpairs:
    """Returns the top of C - (beta / 2) Lap."""
    return targets.non_contrastive_eigenpairs(image_ids, d_out, beta=self.beta)

  def of_embedding(self, z: Embedded, image_ids: Ids) -> float:
    """||Z^T C Z - I||^2 + beta sum_g (n_g sum |z_i|^2 - |sum z_i|^2)."""
    _check_points(z, image_ids)
    # The Laplacian doesn't see the mean, either.
    centred = z.astype(np.float64) - z.mean(0, dtype=np.float64)
    group = targets.images(image_ids)
    covariance = centred.T @ centred - np.eye(z.shape[1])
    degrees = group.counts[group.of][:, None]
    within = np.sum(degrees * centred**2) - np.sum(group.sums(centred) ** 2)
    return float(np.sum(covariance**2) + self.beta * within)

  def of_gram(self, g: Square, image_ids: Ids) -> float:
    """||C G C||^2 - 2 Tr(C G) + beta Tr(Lap G)."""
    c = targets.centring(len(g))
    # C G, and C G C, by subtracting means.
    rows = g - g.mean(0, keepdims=True)
    both = rows - rows.mean(1, keepdims=True)
    pull = self.beta * targets.laplacian(image_ids) - 2 * c
    return float(np.sum(both**2) + np.sum(pull * g))

  def constant(self, d_out: int) -> float:
    """Returns d_out."""
    return float(d_out)

  def target_squares(self, image_ids: Ids) -> float:
    """Images less 1, plus sum_g (n_g - 1) (1 - beta n_g / 2)^2."""
    n = targets.images(image_ids).counts
    within = (n - 1) * (1 - self.beta * n / 2) ** 2
    return float(len(n) - 1 + np.sum(within))
