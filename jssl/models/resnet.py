"""Residual networks (He et al., CVPR 2016), version 1.5, without classifier."""

import dataclasses
import functools

import flax.linen as nn
import jax
import jax.numpy as jnp
from jaxtyping import Array, Float

from jssl.models.backbone import Backbone, from_linen
from jssl.models.norm import STATISTICS, BatchNorm
from jssl.typing import Images, Keys

_STAGES = {18: (2, 2, 2, 2), 34: (3, 4, 6, 3), 50: (3, 4, 6, 3)}
_BOTTLENECK_FROM = 50


class Block(nn.Module):
  """Two 3x3 convolutions, or 1x1, 3x3, 1x1 with four times the channels out.

  The last norm starts at zero, so a block starts as the identity (Goyal et
  al. 2017).
  """

  width: int
  stride: int
  bottleneck: bool
  norm_groups: int
  dtype: jnp.dtype

  @nn.compact
  def __call__(self, x: Images, train: bool) -> Images:
    """Returns feature maps, smaller by the stride."""
    conv = functools.partial(nn.Conv, use_bias=False, dtype=self.dtype)
    norm = functools.partial(
      BatchNorm, not train, self.norm_groups, dtype=self.dtype
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


class Expansion(nn.Module):
  """Feature maps with c channels to d, through a bottleneck.

  ReLU(f(x) + x tiled d/c times over the channels), where f is a 1x1, a 3x3 and
  a 1x1 convolution, each with a norm (Dubois et al., NeurIPS 2022, as in their
  code). No norm starts at zero here: then all copies of a channel would be one.
  """

  dim: int
  hidden_dim: int
  norm_groups: int
  dtype: jnp.dtype

  @nn.compact
  def __call__(self, x: Images, train: bool) -> Images:
    """Returns the maps with `dim` channels."""
    conv = functools.partial(nn.Conv, use_bias=False, dtype=self.dtype)
    norm = functools.partial(
      BatchNorm, not train, self.norm_groups, dtype=self.dtype
    )
    # A random projection that keeps distances (Johnson-Lindenstrauss).
    first_init = nn.initializers.normal(self.hidden_dim**-0.5)
    y = conv(self.hidden_dim, (1, 1), kernel_init=first_init)(x)
    y = nn.relu(norm()(y))
    y = conv(self.hidden_dim, (3, 3), padding=1)(y)
    y = nn.relu(norm()(y))
    y = norm()(conv(self.dim, (1, 1))(y))
    return nn.relu(y + jnp.tile(x, self.dim // x.shape[-1]))


class Encoder(nn.Module):
  """Images [b, h, w, c] to features [b, d], the mean over positions."""

  depth: int
  width: int
  small_images: bool
  max_pool: bool
  norm_groups: int
  expand_dim: int
  dtype: jnp.dtype

  @nn.compact
  def __call__(
    self, images: Images, train: bool, keys: Keys | None = None
  ) -> Float[Array, "b d"]:
    """Returns the features; nothing is drawn."""
    del keys
    conv = functools.partial(nn.Conv, use_bias=False, dtype=self.dtype)
    x = images.astype(self.dtype)
    if self.small_images:
      x = conv(self.width, (3, 3), padding=1, name="stem")(x)
    else:
      x = conv(self.width, (7, 7), (2, 2), padding=3, name="stem")(x)
    norm = BatchNorm(
      not train, self.norm_groups, dtype=self.dtype, name="stem_norm"
    )
    x = self._after_stem(norm, x)
    for stage, blocks in enumerate(_STAGES[self.depth]):
      for i in range(blocks):
        x = Block(
          width=self.width * 2**stage,
          stride=2 if stage > 0 and i == 0 else 1,
          bottleneck=self.depth >= _BOTTLENECK_FROM,
          norm_groups=self.norm_groups,
          dtype=self.dtype,
          name=f"stage_{stage}_block_{i}",
        )(x, train)
    if self.expand_dim:
      x = Expansion(
        self.expand_dim,
        8 * self.width,
        self.norm_groups,
        self.dtype,
        name="expansion",
      )(x, train)
    return x.mean(axis=(1, 2))

  def _after_stem(self, norm: BatchNorm, x: Images) -> Images:
    """Returns the stem's maps normalised, without what is negative, pooled.

    The largest maps of the network. The backward pass gets to them last, when
    all others are gone, and makes them anew from the convolution's.
    """

    def after(norm: BatchNorm, x: Images) -> Images:
      x = nn.relu(norm(x))
      if self.max_pool:
        x = nn.max_pool(x, (3, 3), (2, 2), padding=((1, 1), (1, 1)))
      return x

    statistics = jax.checkpoint_policies.save_only_these_names(STATISTICS)
    return nn.remat(after, policy=statistics)(norm, x)


@dataclasses.dataclass(frozen=True)
class ResNet:
  """The `model` section of a config, for `model.name="resnet"`.

  Attributes:
    depth: 18, 34 or 50.
    small_images: a stem of one 3x3 convolution for images of 28 to 64 px
      (SimCLR, appendix B.9), instead of 7x7 with stride 2 and a max-pool.
    small_max_pool: whether the small stem has the max-pool too, as it has for
      images of 64 px in the code of Dubois et al.
    width: channels of the stem, 64 in the papers.
    norm_groups: parts of the batch that have batch statistics of their own; 1
      takes them over the whole batch, on whatever devices it lies. In multiples
      of the number of devices no part crosses devices (see `BatchNorm`).
    expand_dim: feature dimension after a bottleneck expansion of 8 * width
      hidden channels (512 at the usual width), a multiple of the dimension
      without: 2048 for ResNet-18 and 8192 for ResNet-50 in the paper (Dubois et
      al., NeurIPS 2022). 0: none.
    dtype: of activations; parameters and statistics keep the default dtype.
    mean: of the pixels, one value or one a channel.
    std: the same for the standard deviation.

  Raises:
    ValueError: a field is out of range; names it.
  """

  depth: int
  small_images: bool
  small_max_pool: bool = False
  width: int = 64
  norm_groups: int = 1
  expand_dim: int = 0
  dtype: str = "float32"
  mean: tuple[float, ...] = (0.485, 0.456, 0.406)
  std: tuple[float, ...] = (0.229, 0.224, 0.225)

  def __post_init__(self) -> None:
    if self.depth not in _STAGES:
      raise ValueError(
        f"model.depth={self.depth} is not a ResNet; use one of {[*_STAGES]}"
      )
    for key in ("width", "norm_groups"):
      if getattr(self, key) < 1:
        raise ValueError(f"model.{key}={getattr(self, key)} must be positive")
    narrow = self._narrow_dim
    if self.expand_dim < 0 or self.expand_dim % narrow:
      raise ValueError(
        f"model.expand_dim={self.expand_dim} must be 0 or a multiple of the "
        f"{narrow} features of model.depth={self.depth} with "
        f"model.width={self.width}"
      )

  @property
  def _narrow_dim(self) -> int:
    """Features without an expansion."""
    return self.width * 8 * (4 if self.depth >= _BOTTLENECK_FROM else 1)

  def backbone(self) -> Backbone:
    """Returns the encoder as pure functions."""
    module = Encoder(
      self.depth,
      self.width,
      self.small_images,
      not self.small_images or self.small_max_pool,
      self.norm_groups,
      self.expand_dim,
      jnp.dtype(self.dtype),
    )
    return from_linen(
      module,
      self.expand_dim or self._narrow_dim,
      mean=self.mean,
      std=self.std,
    )
