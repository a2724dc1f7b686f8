"""Kernels of small images: infinite ReLU networks of convolutions.

`depth` times a convolution and a ReLU, then a linear readout; zeros around the
image, no stride, no bias. Weights have variance 1 / fan-in in the first
convolution and 2 / fan-in in all that follow.

With the readout of all pixels ("flatten") only covariances of a pixel of one
image with the same pixel of the other matter, h w numbers a pair of images.
With that of their mean ("mean", global average pooling) all pairs of pixels do:
(h w)^2 numbers, which is for a few hundred images of 14 x 14.

    Sigma_0[p, q] = x_p . y_q / c
    conv:     Sigma[p, q] <- 1 / filter_px^2  sum_o Sigma[p + o, q + o]
    ReLU:     Sigma[p, q] <- s kappa_1(Sigma[p, q] / s),
              s^2 = Sigma_xx[p, p] Sigma_yy[q, q]
    readout:  mean over p of Sigma[p, p], or over p and q of Sigma[p, q]

Novak et al., "Bayesian Deep Convolutional Networks with Many Channels are
Gaussian Processes", ICLR 2019; Garriga-Alonso et al., ICLR 2019. The tangent
kernel: Arora et al., "On Exact Computation with an Infinitely Wide Neural Net",
NeurIPS 2019, section 4. The recursions were derived from the network above, and
are tested against wide networks.
"""

import dataclasses
import math
from typing import Literal, NamedTuple

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float

from jssl.kernel_regime.dense import Block
from jssl.kernel_regime.relu import cosine, kappa_0, kappa_1
from jssl.typing import Images

Readout = Literal["flatten", "mean"]

# [n, m, h, w], or [n, m, h, w, h, w] where all pairs of pixels matter.
Maps = Float[Array, "n m ..."]


class _Pair(NamedTuple):
  """Covariance and tangent kernel of the units of two sets of images."""

  covariance: Maps
  tangent: Maps


def _shifted_sum(x: Maps, axes: tuple[int, ...], size: int) -> Maps:
  """Sums over shifts of all `axes` together, zeros coming in at the borders."""
  half = size // 2
  padded = jnp.pad(
    x, [(half, half) if axis in axes else (0, 0) for axis in range(x.ndim)]
  )
  starts = (
    [shift if axis in axes else 0 for axis in range(x.ndim)]
    for shift in range(size)
  )
  parts = [jax.lax.dynamic_slice(padded, s, x.shape) for s in starts]
  return sum(parts[1:], parts[0])


def _convolve(x: Maps, size: int) -> Maps:
  """Returns the covariance after a convolution with random weights.

  Args:
    x: [n, m, h, w] or [n, m, h, w, h, w]: a window moves over both images.
    size: of the filter, px.
  """
  heights, widths = tuple(range(2, x.ndim, 2)), tuple(range(3, x.ndim, 2))
  summed = _shifted_sum(x, heights, size)
  return _shifted_sum(summed, widths, size) / size**2


def _network(
  x: Images, y: Images, *, depth: int, readout: Readout, size: int
) -> _Pair:
  """Returns the kernels at the last ReLU, before the readout."""
  pooled = readout == "mean"
  covariance = (
    jnp.einsum(
      "nhwc,mijc->nmhwij" if pooled else "nhwc,mhwc->nmhw",
      x,
      y,
      precision=jax.lax.Precision.HIGHEST,
    )
    / x.shape[3]
  )
  # A ReLU changes no variance, so those of an image are convolved, no more.
  variance_x = jnp.mean(x * x, axis=3)[:, None]
  variance_y = jnp.mean(y * y, axis=3)[None]
  tangent = jnp.zeros_like(covariance)
  for _ in range(depth):
    covariance, tangent, variance_x, variance_y = (
      _convolve(maps, size)
      for maps in (covariance, tangent, variance_x, variance_y)
    )
    tangent = tangent + covariance
    scale = jnp.sqrt(
      variance_x[..., None, None] * variance_y[:, :, None, None]
      if pooled
      else variance_x * variance_y
    )
    c = cosine(covariance, scale)
    covariance, tangent = scale * kappa_1(c), tangent * kappa_0(c)
  return _Pair(covariance, tangent)


@dataclasses.dataclass(frozen=True)
class _Convolutional:
  """What both kernels are told.

  Attributes:
    depth: number of convolutions, each followed by a ReLU.
    readout: "flatten", of all pixels, or "mean", of their average.
    filter_px: odd width and height of the filters.

  Raises:
    ValueError: a number is out of range.
  """

  depth: int = 3
  readout: Readout = "flatten"
  filter_px: int = 3

  def __post_init__(self) -> None:
    if self.depth < 1:
      raise ValueError(f"kernel.depth={self.depth} must be at least 1")
    if self.readout not in ("flatten", "mean"):
      raise ValueError(
        f"kernel.readout={self.readout!r} must be flatten or mean"
      )
    if self.filter_px < 1 or self.filter_px % 2 == 0:
      raise ValueError(f"kernel.filter_px={self.filter_px} must be odd")

  def _units(self, x: Images, y: Images) -> _Pair:
    if x.ndim != 4 or x.shape[1:] != y.shape[1:]:
      raise ValueError(
        "a convolutional kernel compares images [b, h, w, c] of one size, not "
        f"{x.shape} and {y.shape}: choose another kernel.name for rows"
      )
    return _network(
      x, y, depth=self.depth, readout=self.readout, size=self.filter_px
    )

  def pair_size(self, shape: tuple[int, ...]) -> int:
    """Returns h w, or (h w)^2 for the mean."""
    pixels = math.prod(shape[:2])
    return pixels if self.readout == "flatten" else pixels**2


def _read(maps: Maps) -> Block:
  return jnp.mean(maps, axis=tuple(range(2, maps.ndim)))


@dataclasses.dataclass(frozen=True)
class ConvGP(_Convolutional):
  """Gaussian process of an infinite convolutional network: readout trained.

  The formulas are at the head of this module.
  """

  def __call__(self, x: Images, y: Images) -> Block:
    """Returns k(x_i, y_j), [n, m]."""
    return _read(self._units(x, y).covariance)


@dataclasses.dataclass(frozen=True)
class ConvNTK(_Convolutional):
  """Neural tangent kernel of an infinite convolutional network: all trained.

      conv:    Theta <- conv(Theta) + Sigma      (Sigma after the convolution)
      ReLU:    Theta <- Theta kappa_0(Sigma / s)
      readout: that of Sigma + Theta

  with Theta = 0 at the pixels, and Sigma and s as at the head of this module.
  """

  def __call__(self, x: Images, y: Images) -> Block:
    """Returns k(x_i, y_j), [n, m]."""
    units = self._units(x, y)
    return _read(units.covariance + units.tangent)
