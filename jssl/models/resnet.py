"""Residual networks (He et al., CVPR 2016), version 1.5, without classifier."""

import dataclasses
import functools
from collections.abc import Callable
from typing import Literal

import flax.linen as nn
import jax
import jax.numpy as jnp
from jaxtyping import Array, Float

from jssl.models.backbone import Backbone, Width, from_linen
from jssl.models.norm import STATISTICS, BatchNorm
from jssl.typing import (
  Decay,
  Dtype,
  Images,
  Keys,
  NonNegative,
  Positive,
  check_fields,
)

STAGES = {18: (2, 2, 2, 2), 34: (3, 4, 6, 3), 50: (3, 4, 6, 3)}
_BOTTLENECK_FROM = 50


@dataclasses.dataclass(frozen=True)
class ResNet:
  """Hyper-parameters of a ResNet; the `model` section of a config.

  Example:
    >>> ResNet(depth=18, small_images=True).backbone().feature_dim
    512

  Attributes:
    depth: 18, 34 or 50.
    small_images: True for a stem of one 3x3 convolution, for images of 28 to 64
      px (SimCLR, appendix B.9), instead of 7x7 with stride 2 and a max-pool.
    small_max_pool: True to add the max-pool to the small stem, as the code of
      Dubois et al. does for images of 64 px.
    width: channels of the stem; 64 in the papers.
    norm_groups: number of groups of rows with batch statistics of their own; 1
      for statistics of the global batch (see `BatchNorm`).
    norm_momentum: decay of the running averages of mean and variance (PyTorch:
      0.9, as its momentum of 0.1).
    expand_dim: feature dimension after a bottleneck expansion with 8 * width
      hidden channels, a multiple of the dimension without. Dubois et al.
      (NeurIPS 2022) use 2048 for ResNet-18, 8192 for ResNet-50. 0: none.
    dtype: dtype of activations; parameters and statistics keep the default.
    mean: mean of the pixels, one value or one per channel.
    std: standard deviation of the pixels, one value or one per channel.

  Raises:
    ValueError: if a field is out of range; the message names its config key.
  """

  depth: Literal[18, 34, 50]
  small_images: bool
  small_max_pool: bool = False
  width: Width = 64
  norm_groups: Positive[int] = 1
  norm_momentum: Decay = 0.99
  expand_dim: NonNegative[int] = 0
  dtype: Dtype = "float32"
  mean: tuple[float, ...] = (0.485, 0.456, 0.406)
  std: tuple[Positive[float], ...] = (0.229, 0.224, 0.225)

  def __post_init__(self) -> None:
    check_fields(self, "model")
    if self.expand_dim % self._narrow_dim:
      raise ValueError(
        f"model.expand_dim={self.expand_dim} must be 0 or a multiple of the "
        f"{self._narrow_dim} features without an expansion"
      )

  @property
  def has_bottlenecks(self) -> bool:
    """True if blocks are bottlenecks of three convolutions."""
    return self.depth >= _BOTTLENECK_FROM

  @property
  def _narrow_dim(self) -> int:
    """Feature dimension without an expansion."""
    return self.width * 8 * (4 if self.has_bottlenecks else 1)

  def backbone(self) -> Backbone:
    """Returns the encoder as pure functions."""
    feature_dim = self.expand_dim or self._narrow_dim
    return from_linen(Encoder(self), feature_dim, mean=self.mean, std=self.std)


def _layers(
  config: ResNet, *, train: bool
) -> tuple[Callable[..., nn.Conv], Callable[..., BatchNorm]]:
  """Returns constructors of convolutions and norms."""
  dtype = jnp.dtype(config.dtype)
  conv = functools.partial(nn.Conv, use_bias=False, dtype=dtype)
  norm = functools.partial(
    BatchNorm,
    not train,
    config.norm_groups,
    config.norm_momentum,
    dtype=dtype,
  )
  return conv, norm


class Block(nn.Module):
  """Residual block: two 3x3 convolutions, or a 1x1, 3x3, 1x1 bottleneck.

  The last norm is initialised with zero scale, so that a block starts as the
  identity (Goyal et al. 2017). A bottleneck quadruples the channels.
  """

  config: ResNet
  width: int
  stride: int

  @nn.compact
  def __call__(self, x: Images, train: bool) -> Float[Array, "b h_out w_out d"]:
    conv, norm = _layers(self.config, train=train)
    bottleneck = self.config.has_bottlenecks
    out = self.width * (4 if bottleneck else 1)
    y = x
    if bottleneck:
      y = nn.relu(norm()(conv(self.width, (1, 1))(y)))
    y = conv(self.width, (3, 3), (self.stride, self.stride), padding=1)(y)
    y = nn.relu(norm()(y))
    y = conv(out, (1, 1) if bottleneck else (3, 3))(y)
    y = norm(scale_init=nn.initializers.zeros)(y)
    if x.shape != y.shape:
      x = conv(out, (1, 1), (self.stride, self.stride), name="shortcut")(x)
      x = norm(name="shortcut_norm")(x)
    return nn.relu(x + y)


class Expansion(nn.Module):
  """Expands feature maps from c to d channels through a bottleneck.

  ReLU(f(x) + x tiled d/c times over the channels), where f is a 1x1, a 3x3 and
  a 1x1 convolution, each with a norm, as in the code of Dubois et al. (NeurIPS
  2022). No scale starts at zero, as all copies of a channel would be equal.
  """

  config: ResNet

  @nn.compact
  def __call__(self, x: Images, train: bool) -> Float[Array, "b h w d"]:
    conv, norm = _layers(self.config, train=train)
    dim, hidden_dim = self.config.expand_dim, 8 * self.config.width
    # A random projection that preserves distances (Johnson-Lindenstrauss).
    first_init = nn.initializers.normal(hidden_dim**-0.5)
    y = conv(hidden_dim, (1, 1), kernel_init=first_init)(x)
    y = nn.relu(norm()(y))
    y = conv(hidden_dim, (3, 3), padding=1)(y)
    y = nn.relu(norm()(y))
    y = norm()(conv(dim, (1, 1))(y))
    return nn.relu(y + jnp.tile(x, dim // x.shape[-1]))


class Encoder(nn.Module):
  """ResNet from images [b, h, w, c] to features [b, d], mean-pooled."""

  config: ResNet

  @nn.compact
  def __call__(
    self, images: Images, train: bool, keys: Keys | None = None
  ) -> Float[Array, "b d"]:
    del keys
    config, dtype = self.config, jnp.dtype(self.config.dtype)
    width = config.width
    conv, norm = _layers(config, train=train)
    x = images.astype(dtype)
    if config.small_images:
      x = conv(width, (3, 3), padding=1, name="stem")(x)
    else:
      x = conv(width, (7, 7), (2, 2), padding=3, name="stem")(x)
    x = self._after_stem(norm(name="stem_norm"), x)
    for stage, blocks in enumerate(STAGES[config.depth]):
      for i in range(blocks):
        x = Block(
          config,
          width=width * 2**stage,
          stride=2 if stage > 0 and i == 0 else 1,
          name=f"stage_{stage}_block_{i}",
        )(x, train)
    if config.expand_dim:
      x = Expansion(config, name="expansion")(x, train)
    return x.mean(axis=(1, 2))

  def _after_stem(
    self, norm: BatchNorm, x: Images
  ) -> Float[Array, "b h_out w_out c"]:
    """Applies norm, ReLU and max-pool, recomputed in the backward pass.

    These are the largest maps, and the backward pass reaches them last.
    """
    max_pool = not self.config.small_images or self.config.small_max_pool

    def after(norm: BatchNorm, x: Images) -> Float[Array, "b h_out w_out c"]:
      x = nn.relu(norm(x))
      if max_pool:
        x = nn.max_pool(x, (3, 3), (2, 2), padding=((1, 1), (1, 1)))
      return x

    statistics = jax.checkpoint_policies.save_only_these_names(STATISTICS)
    return nn.remat(after, policy=statistics)(norm, x)
