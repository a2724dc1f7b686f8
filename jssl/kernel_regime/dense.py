"""Kernels of vectors: RBF, and infinite fully connected ReLU networks.

A kernel is a frozen dataclass that maps two batches to a block of the Gram
matrix, in the dtype of its inputs. Images are flattened.

For ReLU units (u, v), Gaussian with unit variances and correlation c,

    kappa_0(c) = 2 E[1(u > 0) 1(v > 0)] = 1 - arccos(c) / pi
    kappa_1(c) = 2 E[relu(u) relu(v)] = c kappa_0(c) + sqrt(1 - c^2) / pi

(Cho and Saul, "Kernel Methods for Deep Learning", NIPS 2009). The factor 2 is
that of weights with variance 2 / fan-in, so both are 1 at c = 1 and no layer
changes a variance. The angle of two rows that are equal up to rounding is
accurate to 1e-8 only, and so is kappa_0. Derivatives are infinite at c = +-1.
"""

import abc
import dataclasses
import math
from typing import Literal

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float
from scipy.spatial.distance import pdist

Rows = Float[Array, "n ..."]
Block = Float[Array, "n m"]


def check_setting(key: str, value: object, valid: bool, expected: str) -> None:
  """Raises ValueError with the config key unless a setting is valid."""
  if not valid:
    raise ValueError(f"{key}={value!r} must be {expected}.")


class Kernel(abc.ABC):
  """A positive semidefinite function of pairs of points."""

  @abc.abstractmethod
  def __call__(self, x: Rows, y: Float[Array, "m ..."]) -> Block:
    """Returns k(x_i, y_j), [n, m]."""

  def pair_size(self, shape: tuple[int, ...]) -> int:
    """Size of the largest intermediate array per pair of points of a shape."""
    return 1


def _flat(x: Rows) -> Float[Array, "n d"]:
  return x.reshape(len(x), -1)


def _products(x: Float[Array, "n d"], y: Float[Array, "m d"]) -> Block:
  return jnp.matmul(x, y.T, precision=jax.lax.Precision.HIGHEST)


def median_bandwidth(
  x: Float[np.ndarray, "n ..."], *, rows: int = 1000
) -> float:
  """Median distance between points, the usual bandwidth of an RBF.

  Args:
    x: [n, ...] points.
    rows: maximal number of points; more are subsampled evenly.

  Raises:
    ValueError: if the median is not positive and finite.
  """
  chosen = np.unique(np.linspace(0, len(x) - 1, min(rows, len(x))).astype(int))
  distances = pdist(np.asarray(x[chosen], np.float64).reshape(len(chosen), -1))
  median = float(np.median(distances)) if len(distances) else 0.0
  if not (math.isfinite(median) and median > 0):
    raise ValueError(
      f"The median distance of {len(chosen)} points is {median}; it must be "
      "positive and finite. Pass points that differ, or set kernel.bandwidth."
    )
  return median


@dataclasses.dataclass(frozen=True)
class RBF(Kernel):
  """k(x, y) = exp(-||x - y||^2 / (2 bandwidth^2)).

  Attributes:
    bandwidth: in the units of x; see `median_bandwidth`.
  """

  bandwidth: float

  def __post_init__(self) -> None:
    expected = "positive; median_bandwidth(x) is usual"
    check_setting(
      "kernel.bandwidth", self.bandwidth, self.bandwidth > 0, expected
    )

  def __call__(self, x: Rows, y: Float[Array, "m ..."]) -> Block:
    x, y = _flat(x), _flat(y)
    squares = jnp.sum(x * x, 1)[:, None] + jnp.sum(y * y, 1)[None]
    distances = jnp.maximum(squares - 2 * _products(x, y), 0)
    return jnp.exp(-distances / (2 * self.bandwidth**2))


def kappa_0(cosine: Float[Array, "*n"]) -> Float[Array, "*n"]:
  """Arc-cosine kernel of degree 0 of unit vectors."""
  return 1 - jnp.arccos(jnp.clip(cosine, -1, 1)) / jnp.pi


def kappa_1(cosine: Float[Array, "*n"]) -> Float[Array, "*n"]:
  """Arc-cosine kernel of degree 1 of unit vectors."""
  # Rounding takes cosines past 1, where the argument of the root is negative.
  c = jnp.clip(cosine, -1, 1)
  return c * kappa_0(c) + jnp.sqrt((1 - c) * (1 + c)) / jnp.pi


def cosine(
  covariance: Float[Array, "*n"], scale: Float[Array, "*n"]
) -> Float[Array, "*n"]:
  """Returns covariance / scale, and 0 where the scale is 0."""
  return covariance / jnp.where(scale > 0, scale, 1)


def _covariance(x: Rows, y: Float[Array, "m ..."]) -> tuple[Block, Block]:
  """Returns x.y / d, and sqrt((x.x / d) (y.y / d))."""
  x, y = _flat(x), _flat(y)
  d = x.shape[1]
  norms = [jnp.sqrt(jnp.sum(z * z, 1) / d) for z in (x, y)]
  return _products(x, y) / d, norms[0][:, None] * norms[1][None]


@dataclasses.dataclass(frozen=True)
class ArcCosine(Kernel):
  """Infinite network of `depth` hidden layers, of which the last is trained.

  Degree 1 is the Gaussian process of a ReLU network without biases, whose first
  layer has weights of variance 1 / d and the others 2 / fan-in:

      Sigma_0 = x.y / d,   Sigma_l = s kappa_1(Sigma_{l-1} / s),
      s^2 = (x.x / d) (y.y / d)

  so k(x, x) = x.x / d at any depth. Degree 0 replaces the ReLU by a step
  function: c_l = kappa_0(c_{l-1}), c_0 the cosine of x and y, k(x, x) = 1. The
  kernel of a zero vector is 0.

  Attributes:
    degree: 0 or 1.
    depth: number of hidden layers.

  Reference:
    Cho and Saul, "Kernel Methods for Deep Learning", NIPS 2009, section 2.
  """

  degree: Literal[0, 1] = 1
  depth: int = 1

  def __post_init__(self) -> None:
    check_setting("kernel.degree", self.degree, self.degree in (0, 1), "0 or 1")
    check_setting("kernel.depth", self.depth, self.depth >= 1, "at least 1")

  def __call__(self, x: Rows, y: Float[Array, "m ..."]) -> Block:
    covariance, scale = _covariance(x, y)
    c = cosine(covariance, scale)
    layer = kappa_1 if self.degree else kappa_0
    for _ in range(self.depth):
      c = layer(c)
    return scale * c if self.degree else jnp.where(scale > 0, c, 0)


@dataclasses.dataclass(frozen=True)
class MLPNTK(Kernel):
  """Neural tangent kernel of an infinite ReLU network, all layers trained.

      Theta_0 = Sigma_0,
      Theta_l = Sigma_l + Theta_{l-1} kappa_0(Sigma_{l-1} / s)

  with Sigma and s of `ArcCosine` of degree 1; k(x, x) = (depth + 1) x.x / d.

  Attributes:
    depth: number of hidden layers.

  Reference:
    Jacot et al., "Neural Tangent Kernel", NeurIPS 2018; Arora et al., NeurIPS
    2019, section 3, with x / sqrt(d) for x.
  """

  depth: int = 1

  def __post_init__(self) -> None:
    check_setting("kernel.depth", self.depth, self.depth >= 1, "at least 1")

  def __call__(self, x: Rows, y: Float[Array, "m ..."]) -> Block:
    covariance, scale = _covariance(x, y)
    tangent = covariance
    for _ in range(self.depth):
      c = cosine(covariance, scale)
      covariance = scale * kappa_1(c)
      tangent = covariance + tangent * kappa_0(c)
    return tangent
