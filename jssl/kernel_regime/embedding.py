"""Embeddings f(x) = M k(X, x) and their induced kernels.

The induced kernel is k*(x, x') = f(x) . f(x') = k(x, X) B k(X, x'), B = M^T M.
Its rank is at most d_out, so its properties are computed from Z = f(x).
"""

import dataclasses
from typing import NamedTuple

import numpy as np
from jax.sharding import Mesh
from jaxtyping import Float

from jssl.kernel_regime.dense import Kernel
from jssl.kernel_regime.gram import Points, gram
from jssl.kernel_regime.solvers import Map
from jssl.kernel_regime.targets import Ids, view_groups

Embedded = Float[np.ndarray, "n d"]


@dataclasses.dataclass(frozen=True, eq=False)
class Embedding:
  """f(x) = M k(X, x), for any x.

  At the points X this is K M^T without jitter, but the optimised embedding is
  (K + jitter tr(K) / N I) M^T. The difference jitter tr(K) / N M^T is small
  unless K is nearly singular and M large.

  Attributes:
    kernel: k.
    points: [N, ...] augmented points X.
    m: [d, N] map M.
  """

  kernel: Kernel
  points: Points
  m: Map

  def __post_init__(self) -> None:
    if self.m.ndim != 2 or self.m.shape[1] != len(self.points):
      raise ValueError(
        f"M must be [d, {len(self.points)}], one column per point; got "
        f"{self.m.shape}."
      )

  def __call__(
    self, x: Points, *, block_rows: int = 4096, mesh: Mesh | None = None
  ) -> Embedded:
    """Returns Z = k(x, X) M^T, [n, d], from blocks of k(x, X); see `gram`."""
    starts = range(0, len(x), block_rows)
    blocks = (x[start : start + block_rows] for start in starts)
    return np.concatenate(
      [gram(self.kernel, b, self.points, mesh=mesh) @ self.m.T for b in blocks]
    )


def induced_kernel(
  z: Embedded, z_other: Float[np.ndarray, "m d"] | None = None
) -> Float[np.ndarray, "n m"]:
  """Returns k*(x, x') = f(x) . f(x'); without `z_other` of z with itself."""
  return z @ (z if z_other is None else z_other).T


def induced_spectrum(z: Embedded) -> Float[np.ndarray, "r"]:
  """Eigenvalues of k* that can be nonzero, descending: those of Z^T Z."""
  return np.linalg.svd(z, compute_uv=False) ** 2


def ridge_penalty(m: Map, k: Float[np.ndarray, "n n"]) -> float:
  """Returns Tr(B K) = Tr(M K M^T), the penalty of the ridge."""
  return float(np.sum((m @ k) * m))


class WithinBetween(NamedTuple):
  """Means of k* over pairs of different points.

  Attributes:
    within: mean over pairs of one image.
    between: mean over pairs of different images.
  """

  within: float
  between: float


def within_between(z: Embedded, image_ids: Ids) -> WithinBetween:
  """Mean of k* within and between images, in O(N d).

  Args:
    z: [n, d] embedded points.
    image_ids: [n]; pass labels for means within and between classes.

  Raises:
    ValueError: if there are no pairs within, or none between.
  """
  groups = view_groups(image_ids)
  if z.ndim != 2 or len(z) != len(groups.image_index):
    raise ValueError(
      f"z must be [{len(groups.image_index)}, d]; got {z.shape}."
    )
  z = z.astype(np.float64)
  sums = groups.sums(z)
  own, inside = np.sum(z**2), np.sum(sums**2)
  everything = np.sum(sums.sum(0) ** 2)
  pairs = float(np.sum(groups.counts.astype(np.float64) ** 2))
  n = len(z)
  return WithinBetween(
    within=float((inside - own) / (pairs - n)),
    between=float((everything - inside) / (float(n) ** 2 - pairs)),
  )


def kernel_alignment(
  k: Float[np.ndarray, "n n"], target: Float[np.ndarray, "n n"]
) -> float:
  """Uncentred kernel-target alignment <K, T> / (||K|| ||T||), in [-1, 1].

  Args:
    k: [n, n] Gram matrix, raw or induced.
    target: [n, n].

  Raises:
    ValueError: if shapes differ, or one of them is 0.

  Reference:
    Cristianini et al., "On Kernel-Target Alignment", NIPS 2001, definition 1.
  """
  if k.shape != target.shape:
    raise ValueError(
      f"K, {k.shape}, and T, {target.shape}, must have the same shape."
    )
  norms = np.linalg.norm(k) * np.linalg.norm(target)
  if not norms:
    raise ValueError("The alignment of a matrix of zeros is not defined.")
  return float(np.vdot(k, target) / norms)
