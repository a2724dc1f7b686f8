"""Kernels of rows: RBF, and infinite ReLU networks without convolutions.

A kernel is a frozen dataclass, so that a config can say it, and a pure function
of two batches of rows. It computes in the dtype that it is given; an image is a
row of all its pixels.
"""

import dataclasses
import math
from typing import Literal, Protocol

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float
from scipy.spatial.distance import pdist

from jssl.kernel_regime.relu import cosine, kappa_0, kappa_1

Rows = Float[Array, "n ..."]
Block = Float[Array, "n m"]


class Kernel(Protocol):
  """A positive semidefinite function of pairs of points."""

  def __call__(self, x: Rows, y: Float[Array, "m ..."]) -> Block:
    """Returns k(x_i, y_j), [n, m]."""
    ...

  def pair_size(self, shape: tuple[int, ...]) -> int:
    """Returns how many numbers a pair of points of a shape takes on the way."""
    ...


def _flat(x: Rows) -> Float[Array, "n d"]:
  return x.reshape(len(x), -1)


def _products(x: Float[Array, "n d"], y: Float[Array, "m d"]) -> Block:
  return jnp.matmul(x, y.T, precision=jax.lax.Precision.HIGHEST)


def median_bandwidth(
  x: Float[np.ndarray, "n ..."], *, rows: int = 1000
) -> float:
  """Returns the median distance between points, the usual bandwidth of an RBF.

  Args:
    x: points, [n, ...].
    rows: points of an even subset that are compared, at most.

  Raises:
    ValueError: there are fewer than two points, or more than half of the pairs
      are identical, or a value is not finite.
  """
  chosen = np.unique(np.linspace(0, len(x) - 1, min(rows, len(x))).astype(int))
  distances = pdist(np.asarray(x[chosen], np.float64).reshape(len(chosen), -1))
  median = float(np.median(distances)) if len(distances) else 0.0
  if not (math.isfinite(median) and median > 0):
    raise ValueError(
      f"the median distance of {len(chosen)} points is {median}; it must be "
      "positive and finite: give points that differ, or set kernel.bandwidth"
    )
  return median


@dataclasses.dataclass(frozen=True)
class RBF:
  """k(x, y) = exp(-||x - y||^2 / (2 bandwidth^2)).

  Attributes:
    bandwidth: in the units of x; see `median_bandwidth`.

  Raises:
    ValueError: the bandwidth isn't positive.
  """

  bandwidth: float

  def __post_init__(self) -> None:
    if not self.bandwidth > 0:
      raise ValueError(
        f"kernel.bandwidth={self.bandwidth} must be positive; "
        "median_bandwidth(x) is usual"
      )

  def __call__(self, x: Rows, y: Float[Array, "m ..."]) -> Block:
    """Returns k(x_i, y_j), [n, m]."""
    x, y = _flat(x), _flat(y)
    squares = jnp.sum(x * x, 1)[:, None] + jnp.sum(y * y, 1)[None]
    distances = jnp.maximum(squares - 2 * _products(x, y), 0)
    return jnp.exp(-distances / (2 * self.bandwidth**2))

  def pair_size(self, shape: tuple[int, ...]) -> int:
    """Returns 1: only the kernel itself."""
    return 1


def _check_depth(depth: int) -> None:
  if depth < 1:
    raise ValueError(f"kernel.depth={depth} must be at least 1")


def _covariance(
  x: Rows, y: Float[Array, "m ..."]
) -> tuple[Block, Float[Array, "n m"]]:
  """Returns x.y / d, and the root of (x.x / d) (y.y / d)."""
  x, y = _flat(x), _flat(y)
  d = x.shape[1]
  norms = [jnp.sqrt(jnp.sum(z * z, 1) / d) for z in (x, y)]
  return _products(x, y) / d, norms[0][:, None] * norms[1][None]


@dataclasses.dataclass(frozen=True)
class ArcCosine:
  """Infinite network of `depth` hidden layers, of which the last is trained.

  Degree 1 is the Gaussian process of a ReLU network, without biases, whose
  first layer has weights of variance 1 / d and the others 2 / fan-in:

      Sigma_0 = x.y / d,   Sigma_l = s kappa_1(Sigma_{l-1} / s)

  with s^2 = (x.x / d) (y.y / d), so k(x, x) = x.x / d at any depth. Degree 0
  has the Heaviside step for a ReLU: c_l = kappa_0(c_{l-1}), c_0 the cosine of x
  and y, and k(x, x) = 1. A row of zeros has no direction: its kernel is 0.

  Attributes:
    degree: 0 or 1.
    depth: number of hidden layers.

  Raises:
    ValueError: a number is out of range.

  Reference:
    Cho and Saul, "Kernel Methods for Deep Learning", NIPS 2009, section 2.
  """

  degree: Literal[0, 1] = 1
  depth: int = 1

  def __post_init__(self) -> None:
    if self.degree not in (0, 1):
      raise ValueError(f"kernel.degree={self.degree} must be 0 or 1")
    _check_depth(self.depth)

  def __call__(self, x: Rows, y: Float[Array, "m ..."]) -> Block:
    """Returns k(x_i, y_j), [n, m]."""
    covariance, scale = _covariance(x, y)
    c = cosine(covariance, scale)
    layer = kappa_1 if self.degree else kappa_0
    for _ in range(self.depth):
      c = layer(c)
    return scale * c if self.degree else jnp.where(scale > 0, c, 0)

  def pair_size(self, shape: tuple[int, ...]) -> int:
    """Returns 1: only the kernel itself."""
    return 1


@dataclasses.dataclass(frozen=True)
class MLPNTK:
  """Neural tangent kernel of an infinite ReLU network, all layers trained.

      Theta_0 = Sigma_0,
      Theta_l = Sigma_l + Theta_{l-1} kappa_0(Sigma_{l-1} / s)

  with Sigma of `ArcCosine` of degree 1. k(x, x) = (depth + 1) x.x / d.

  Attributes:
    depth: number of hidden layers.

  Raises:
    ValueError: the depth is out of range.

  Reference:
    Jacot et al., "Neural Tangent Kernel", NeurIPS 2018; the form is that of
    Arora et al., "On Exact Computation with an Infinitely Wide Neural Net",
    NeurIPS 2019, section 3, with x / sqrt(d) for x.
  """

  depth: int = 1

  def __post_init__(self) -> None:
    _check_depth(self.depth)

  def __call__(self, x: Rows, y: Float[Array, "m ..."]) -> Block:
    """Returns k(x_i, y_j), [n, m]."""
    covariance, scale = _covariance(x, y)
    tangent = covariance
    for _ in range(self.depth):
      c = cosine(covariance, scale)
      covariance = scale * kappa_1(c)
      tangent = covariance + tangent * kappa_0(c)
    return tangent

  def pair_size(self, shape: tuple[int, ...]) -> int:
    """Returns 1: only the kernel itself."""
    return 1
