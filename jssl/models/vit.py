"""Vision transformers (Dosovitskiy et al., ICLR 2021), mean-pooled.

Pre-norm blocks over patch tokens, fixed 2-D sin-cos positions (MoCo v3, He et
al. 2021 showed that they train as well as learned ones), and no class token:
the feature is the mean of the normalised tokens.
"""

import dataclasses
import functools

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float

from jssl.models.backbone import Backbone, from_linen
from jssl.typing import Images


def sincos_positions(
  rows: int, columns: int, width: int
) -> Float[np.ndarray, "n d"]:
  """Returns fixed positions of a grid of tokens, shape [rows * columns, d].

  A quarter of the dimensions each for sine and cosine of row and column, at
  frequencies from 1 down to 1/10000 in equal ratios.

  Raises:
    ValueError: `width` is not a multiple of 4.
  """
  if width % 4:
    raise ValueError(f"model.width={width} must be a multiple of 4")
  frequencies = 10000.0 ** -np.linspace(0, 1, width // 4, endpoint=False)
  y, x = np.mgrid[:rows, :columns].reshape(2, -1, 1) * frequencies
  return np.concatenate([np.sin(y), np.cos(y), np.sin(x), np.cos(x)], axis=1)


def patches(images: Images, size: int) -> Float[Array, "b n p"]:
  """Cuts images into squares of `size` px: [b, h/size * w/size, size² c].

  A reshape, so that the embedding is one matrix product; as a convolution the
  same takes several times as long on a CPU.
  """
  b, h, w, c = images.shape
  grid = images.reshape(b, h // size, size, w // size, size, c)
  return grid.swapaxes(2, 3).reshape(b, -1, size * size * c)


def attention(
  q: Float[Array, "b n k e"],
  k: Float[Array, "b n k e"],
  v: Float[Array, "b n k e"],
) -> Float[Array, "b n k e"]:
  """Scaled dot-product attention of all tokens; k heads of width e.

  The softmax is in float32 or wider. `jax.nn.dot_product_attention` has it in
  float32 even where the rest is float64.
  """
  wide = jnp.promote_types(q.dtype, jnp.float32)
  logits = jnp.einsum("bqke,btke->bkqt", q, k, preferred_element_type=wide)
  weights = jax.nn.softmax(logits / q.shape[-1] ** 0.5).astype(v.dtype)
  return jnp.einsum("bkqt,btke->bqke", weights, v)


class Block(nn.Module):
  """Attention and MLP, each on a normalised copy and added back.

  Tokens come flat, [b * n, d]: products of matrices with one leading dimension
  are twice as fast on a CPU as with two, and the same elsewhere.
  """

  tokens: int
  num_heads: int
  mlp_dim: int
  zero_init_residual: bool
  dtype: jnp.dtype

  @nn.compact
  def __call__(self, x: Float[Array, "bn d"]) -> Float[Array, "bn d"]:
    """Returns the tokens after attention and MLP."""
    d = x.shape[-1]
    last_init = (
      nn.initializers.zeros
      if self.zero_init_residual
      else nn.initializers.lecun_normal()
    )
    last = functools.partial(
      nn.Dense, d, kernel_init=last_init, dtype=self.dtype
    )
    y = nn.LayerNorm(dtype=self.dtype, name="attention_norm")(x)
    y = nn.Dense(3 * d, dtype=self.dtype, name="qkv")(y)
    y = y.reshape(-1, self.tokens, 3, self.num_heads, d // self.num_heads)
    y = attention(y[:, :, 0], y[:, :, 1], y[:, :, 2]).reshape(-1, d)
    x = x + last(name="attention_out")(y)

    y = nn.LayerNorm(dtype=self.dtype, name="mlp_norm")(x)
    y = nn.gelu(nn.Dense(self.mlp_dim, dtype=self.dtype, name="mlp_in")(y))
    return x + last(name="mlp_out")(y)


class Encoder(nn.Module):
  """Images [b, h, w, c] to features [b, width]."""

  patch_size_px: int
  width: int
  depth: int
  num_heads: int
  mlp_dim: int
  zero_init_residual: bool
  dtype: jnp.dtype

  @nn.compact
  def __call__(self, images: Images, train: bool) -> Float[Array, "b d"]:
    """Returns the features; without dropout both modes are one."""
    del train
    h, w = images.shape[1:3]
    size = self.patch_size_px
    if h % size or w % size:
      raise ValueError(
        f"images of {h} x {w} px do not divide into patches of "
        f"model.patch_size_px={size}; change it or augment.crop_size_px"
      )
    x = patches(images.astype(self.dtype), size)
    tokens = x.shape[1]
    x = nn.Dense(self.width, dtype=self.dtype, name="embed")(x)
    positions = sincos_positions(h // size, w // size, self.width)
    x = x + jnp.asarray(positions[None], x.dtype)
    x = x.reshape(-1, self.width)
    for i in range(self.depth):
      x = Block(
        tokens,
        self.num_heads,
        self.mlp_dim,
        self.zero_init_residual,
        self.dtype,
        name=f"block_{i}",
      )(x)
    x = nn.LayerNorm(dtype=self.dtype, name="norm")(x)
    return x.reshape(-1, tokens, self.width).mean(axis=1)


@dataclasses.dataclass(frozen=True)
class ViT:
  """The `model` section of a config, for `model.name="vit"`.

  Usual sizes, width / depth / num_heads: Ti 192/12/3, S 384/12/6 (MoCo v3:
  12 heads), B 768/12/12, with patches of 16 px and mlp_ratio 4.

  Attributes:
    patch_size_px: side of a patch.
    width: of a token; the feature dimension.
    depth: number of blocks.
    num_heads: of attention, `width` is split over them.
    mlp_ratio: hidden width of a block's MLP over `width`.
    zero_init_residual: the last layers of attention and MLP start at zero, so
      that a block starts as the identity (Goyal et al. 2017, for ResNets).
    dtype: of activations; parameters keep the default dtype.
    mean: of the pixels, one value or one a channel.
    std: the same for the standard deviation.
  """

  patch_size_px: int
  width: int
  depth: int
  num_heads: int
  mlp_ratio: int = 4
  zero_init_residual: bool = False
  dtype: str = "float32"
  mean: tuple[float, ...] = (0.5,)
  std: tuple[float, ...] = (0.5,)

  def __post_init__(self) -> None:
    if self.width % self.num_heads:
      raise ValueError(
        f"model.width={self.width} does not divide over "
        f"model.num_heads={self.num_heads}"
      )

  def backbone(self) -> Backbone:
    """Returns the encoder as pure functions."""
    module = Encoder(
      self.patch_size_px,
      self.width,
      self.depth,
      self.num_heads,
      self.mlp_ratio * self.width,
      self.zero_init_residual,
      jnp.dtype(self.dtype),
    )
    return from_linen(module, self.width, mean=self.mean, std=self.std)
