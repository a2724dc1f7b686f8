"""Kernels of small images: infinite convolutional ReLU networks.

The networks have `depth` convolutions, each followed by a ReLU, and a linear
readout; zero padding, no stride, no bias. Weights have variance 1 / fan-in in
the first convolution and 2 / fan-in in the others:

    Sigma_0[p, q] = x_p . y_q / c
    conv:     Sigma[p, q] <- 1 / filter_px^2  sum_o Sigma[p + o, q + o]
    ReLU:     Sigma[p, q] <- s kappa_1(Sigma[p, q] / s),
              s^2 = Sigma_xx[p, p] Sigma_yy[q, q]
    readout:  mean over p of Sigma[p, p] ("flatten"), or
              mean over p and q of Sigma[p, q] ("mean", global average pooling)

"flatten" only needs h w numbers per pair of images, "mean" (h w)^2: it is meant
for hundreds of 14 x 14 images.

References:
  Novak et al., ICLR 2019, and Garriga-Alonso et al., ICLR 2019. Tangent kernel:
  Arora et al., "On Exact Computation with an Infinitely Wide Neural Net",
  NeurIPS 2019, section 4. Derived, and tested against wide networks.
"""

import dataclasses
import math
from typing import Literal, get_args

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float

from jssl.kernel_regime.dense import (
  Block,
  Kernel,
  check_setting,
  cosine,
  kappa_0,
  kappa_1,
)
from jssl.typing import Images

Readout = Literal["flatten", "mean"]

# [n, m, h, w] for "flatten", [n, m, h, w, h, w] for "mean".
Maps = Float[Array, "n m ..."]


def _shifted_sum(x: Maps, axes: tuple[int, ...], size: int) -> Maps:
  """Sums over joint shifts of all `axes`, with zero padding."""
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
  """Covariance after a random convolution; both images shift together."""
  heights, widths = tuple(range(2, x.ndim, 2)), tuple(range(3, x.ndim, 2))
  summed = _shifted_sum(x, heights, size)
  return _shifted_sum(summed, widths, size) / size**2


@dataclasses.dataclass(frozen=True)
class _Convolutional(Kernel):
  """Settings and recursion of both kernels.

  Attributes:
    depth: number of convolutions.
    readout: "flatten" or "mean".
    filter_px: odd width and height of the filters.
  """

  depth: int = 3
  readout: Readout = "flatten"
  filter_px: int = 3

  def __post_init__(self) -> None:
    readouts, size = get_args(Readout), self.filter_px
    check_setting("kernel.depth", self.depth, self.depth >= 1, "at least 1")
    check_setting(
      "kernel.readout", self.readout, self.readout in readouts, f"in {readouts}"
    )
    check_setting("kernel.filter_px", size, size > 0 and size % 2 == 1, "odd")

  def _units(self, x: Images, y: Images) -> tuple[Maps, Maps]:
    """Covariance and tangent kernel after the last ReLU."""
    if x.ndim != 4 or x.shape[1:] != y.shape[1:]:
      raise ValueError(
        "A convolutional kernel compares images [b, h, w, c] of one size; got "
        f"{x.shape} and {y.shape}."
      )
    pooled = self.readout == "mean"
    covariance = (
      jnp.einsum(
        "nhwc,mijc->nmhwij" if pooled else "nhwc,mhwc->nmhw",
        x,
        y,
        precision=jax.lax.Precision.HIGHEST,
      )
      / x.shape[3]
    )
    # A ReLU preserves variances, so those of an image are only convolved.
    variance_x = jnp.mean(x * x, axis=3)[:, None]
    variance_y = jnp.mean(y * y, axis=3)[None]
    tangent = jnp.zeros_like(covariance)
    for _ in range(self.depth):
      covariance, tangent, variance_x, variance_y = (
        _convolve(maps, self.filter_px)
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
    return covariance, tangent

  def pair_size(self, shape: tuple[int, ...]) -> int:
    pixels = math.prod(shape[:2])
    return pixels if self.readout == "flatten" else pixels**2


def _readout(maps: Maps) -> Block:
  return jnp.mean(maps, axis=tuple(range(2, maps.ndim)))


@dataclasses.dataclass(frozen=True)
class ConvGP(_Convolutional):
  """Gaussian process of an infinite convolutional network: readout trained."""

  def __call__(self, x: Images, y: Images) -> Block:
    return _readout(self._units(x, y)[0])


@dataclasses.dataclass(frozen=True)
class ConvNTK(_Convolutional):
  """Tangent kernel of an infinite convolutional network: all layers trained.

      conv:    Theta <- conv(Theta) + Sigma      (Sigma after the convolution)
      ReLU:    Theta <- Theta kappa_0(Sigma / s)
      readout: of Sigma + Theta

  with Theta = 0 at the input, and Sigma and s as in the module docstring.
  """

  def __call__(self, x: Images, y: Images) -> Block:
    covariance, tangent = self._units(x, y)
    return _readout(covariance + tangent)
