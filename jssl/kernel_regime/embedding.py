"""What a map M makes of points: their embedding and the induced kernel.

f(x) = M k(X, x) and k*(x, x') = f(x) . f(x') = k(x, X) B k(X, x'). The rank of
k* is that of M, so whatever can be said of it is said in terms of Z = f(x).
"""

import dataclasses
from typing import NamedTuple

import numpy as np
from jax.sharding import Mesh
from jaxtyping import Float

from jssl.kernel_regime.dense import Kernel
from jssl.kernel_regime.gram import Points, gram
from jssl.kernel_regime.targets import Ids, images

Embedded = Float[np.ndarray, "n d"]
Map = Float[np.ndarray, "d n"]


@dataclasses.dataclass(frozen=True, eq=False)
class Embedding:
  """f(x) = M k(X, x), for any x.

  At the points X themselves this is K M^T without jitter. What was optimised is
  (K + jitter tr(K) / N I) M^T; they differ by jitter tr(K) / N M^T, which is
  small unless K is nearly singular and M large: compare both.

  Attributes:
    kernel: k.
    points: X, all augmented points, [N, ...].
    m: M, [d, N].
  """

  kernel: Kernel
  points: Points
  m: Map

  def __post_init__(self) -> None:
    if self.m.ndim != 2 or self.m.shape[1] != len(self.points):
      raise ValueError(
        f"M must be [d, {len(self.points)}], a column for each point, not "
        f"{self.m.shape}"
      )

  def __call__(
    self,
    x: Points,
    *,
    block_rows: int = 4096,
    mesh: Mesh | None = None,
    memory_limit_gib: float | None = None,
  ) -> Embedded:
    """Returns Z = k(x, X) M^T, [n, d].

    Args:
      x: points, [n, ...].
      block_rows: that k(x, X) is there of at once.
      mesh: see `gram`.
      memory_limit_gib: see `gram`.
    """
    parts = [
      gram(
        self.kernel,
        x[start : start + block_rows],
        self.points,
        mesh=mesh,
        memory_limit_gib=memory_limit_gib,
      )
      @ self.m.T
      for start in range(0, len(x), block_rows)
    ]
    return np.concatenate(parts)


def induced(
  z: Embedded, z_other: Embedded | None = None
) -> Float[np.ndarray, "n m"]:
  """Returns k*(x, x') = f(x) . f(x') of embedded points, [n, m].

  Args:
    z: f(x), [n, d].
    z_other: f(x'), [m, d]; None stands for z.
  """
  return z @ (z if z_other is None else z_other).T


def spectrum(z: Embedded) -> Float[np.ndarray, "d"]:
  """Returns the eigenvalues of k* on points, descending: those of Z^T Z.

  The other N - d are 0; there may be less than d, if N is.
  """
  return np.linalg.svd(z, compute_uv=False) ** 2


def trace_bk(m: Map, k: Float[np.ndarray, "n n"]) -> float:
  """Returns Tr(B K) = Tr(M K M^T), what the ridge weighs."""
  return float(np.sum((m @ k) * m))


class WithinBetween(NamedTuple):
  """Means of k* over pairs of different points.

  Attributes:
    within: both of one image.
    between: of different images.
  """

  within: float
  between: float


def within_between(z: Embedded, image_ids: Ids) -> WithinBetween:
  """Returns the mean of k* within and between images, in O(N d).

  Args:
    z: embedded points, [n, d].
    image_ids: [n]; labels give it within and between classes.

  Raises:
    ValueError: there is nothing within, or nothing between.
  """
  group = images(image_ids)
  if z.ndim != 2 or len(z) != len(group.of):
    raise ValueError(f"z must be [{len(group.of)}, d], not {z.shape}")
  z = z.astype(np.float64)
  sums = group.sums(z)
  own, inside = np.sum(z**2), np.sum(sums**2)
  everything = np.sum(sums.sum(0) ** 2)
  pairs = float(np.sum(group.counts.astype(np.float64) ** 2))
  n = len(z)
  return WithinBetween(
    within=float((inside - own) / (pairs - n)),
    between=float((everything - inside) / (float(n) ** 2 - pairs)),
  )


def alignment_with(
  k: Float[np.ndarray, "n n"], target: Float[np.ndarray, "n n"]
) -> float:
  """Returns the kernel-target alignment <K, T> / (||K|| ||T||), uncentred.

  Cristianini et al., "On Kernel-Target Alignment", NIPS 2001, definition 1. In
  [-1, 1], and from 0 on if both are positive semidefinite.

  Args:
    k: Gram matrix, raw or induced.
    target: of the same size.

  Raises:
    ValueError: sizes differ, or one of them is 0.
  """
  if k.shape != target.shape:
    raise ValueError(
      f"K, {k.shape}, and T, {target.shape}, must be of one size"
    )
  norms = np.linalg.norm(k) * np.linalg.norm(target)
  if not norms:
    raise ValueError("the alignment of a matrix of zeros isn't defined")
  return float(np.vdot(k, target) / norms)
