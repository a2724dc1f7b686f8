"""Residual networks (He et al., CVPR 2016), version 1.5, without classifier.

Batch statistics are over everything in the batch, on whatever devices it lies:
under jit a mean over a sharded axis is the global mean.
"""

import dataclasses
import functools

import flax.linen as nn
import jax.numpy as jnp
from jaxtyping import Array, Float

from jssl.models.backbone import Backbone, from_linen
from jssl.typing import Images

_STAGES = {18: (2, 2, 2, 2), 50: (3, 4, 6, 3)}
_BOTTLENECK_FROM = 50


class Block(nn.Module):
  """Two 3x3 convolutions, or 1x1, 3x3, 1x1 with four times the channels out.

  The last norm starts at zero, so a block starts as the identity (Goyal et
  al. 2017).
  """

  width: int
  stride: int
  bottleneck: bool
  dtype: jnp.dtype

  @nn.compact
  def __call__(self, x: Images, train: bool) -> Images:
    """Returns feature maps, smaller by the stride."""
    conv = functools.partial(nn.Conv, use_bias=False, dtype=self.dtype)
    norm = functools.partial(
      nn.BatchNorm, use_running_average=not train, dtype=self.dtype
    )
    out = self.width * (4 if self.bottleneck else 1)
    y = x
    if self.bottleneck:
      y = nn.relu(norm()(conv(self.width, (1, 1))(y)))
    y = conv(self.width, (3, 3), (self.stride, self.stride), padding=1)(y)
    y = nn.relu(norm()(y))
    y = conv(out, (1, 1) if self.bottleneck else (3, 3))(y)
    y = norm(scale_init=nn.initializers.zeros)(y)
    if x.shape != y.shape:
      x = conv(out, (1, 1), (self.stride, self.stride), name="shortcut")(x)
      x = norm(name="shortcut_norm")(x)
    return nn.relu(x + y)


class Encoder(nn.Module):
  """Images [b, h, w, c] to features [b, d], the mean over positions."""

  depth: int
  width: int
  small_images: bool
  dtype: jnp.dtype

  @nn.compact
  def __call__(self, images: Images, train: bool) -> Float[Array, "b d"]:
    """Returns the features."""
    conv = functools.partial(nn.Conv, use_bias=False, dtype=self.dtype)
    x = images.astype(self.dtype)
    if self.small_images:
      x = conv(self.width, (3, 3), padding=1, name="stem")(x)
    else:
      x = conv(self.width, (7, 7), (2, 2), padding=3, name="stem")(x)
    x = nn.BatchNorm(
      use_running_average=not train, dtype=self.dtype, name="stem_norm"
    )(x)
    x = nn.relu(x)
    if not self.small_images:
      x = nn.max_pool(x, (3, 3), (2, 2), padding=((1, 1), (1, 1)))
    for stage, blocks in enumerate(_STAGES[self.depth]):
      for i in range(blocks):
        x = Block(
          width=self.width * 2**stage,
          stride=2 if stage > 0 and i == 0 else 1,
          bottleneck=self.depth >= _BOTTLENECK_FROM,
          dtype=self.dtype,
          name=f"stage_{stage}_block_{i}",
        )(x, train)
    return x.mean(axis=(1, 2))


@dataclasses.dataclass(frozen=True)
class ResNet:
  """The `model` section of a config, for `model.name="resnet"`.

  Attributes:
    depth: 18 or 50.
    small_images: a stem of one 3x3 convolution for images of 28 to 64 px
      (SimCLR, appendix B.9), instead of 7x7 with stride 2 and a max-pool.
    width: channels of the stem, 64 in the papers.
    dtype: of activations; parameters and statistics keep the default dtype.
    mean: of the pixels, one value or one a channel.
    std: the same for the standard deviation.
  """

  depth: int
  small_images: bool
  width: int = 64
  dtype: str = "float32"
  mean: tuple[float, ...] = (0.485, 0.456, 0.406)
  std: tuple[float, ...] = (0.229, 0.224, 0.225)

  def __post_init__(self) -> None:
    if self.depth not in _STAGES:
      raise ValueError(
        f"model.depth={self.depth} is not a ResNet; use one of {[*_STAGES]}"
      )

  def backbone(self) -> Backbone:
    """Returns the encoder as pure functions."""
    bottleneck = self.depth >= _BOTTLENECK_FROM
    feature_dim = self.width * 8 * (4 if bottleneck else 1)
    module = Encoder(
      self.depth, self.width, self.small_images, jnp.dtype(self.dtype)
    )
    return from_linen(module, feature_dim, mean=self.mean, std=self.std)
