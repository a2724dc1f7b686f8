"""Vision transformers (Dosovitskiy et al., ICLR 2021), without classifier.

Pre-norm blocks over patch tokens. Unless a config says otherwise, positions are
fixed 2-D sines and cosines (MoCo v3, He et al. 2021 showed that they train as
well as learned ones) and the feature is the mean of the normalised tokens.
"""

import dataclasses
import functools
import typing
from typing import Literal

import flax.linen as nn
import jax
import jax.numpy as jnp
from jaxtyping import Array, Float

from jssl.models.backbone import Backbone, from_linen
from jssl.models.block import Block, Expansion, drop_path_factors
from jssl.models.tokens import (
  patches,
  pooled,
  resized_positions,
  sincos_positions,
)
from jssl.typing import Images, Keys

Pooling = Literal["mean", "cls"]
Positions = Literal["sincos", "learned"]
Remat = Literal["none", "block", "dots"]


class Encoder(nn.Module):
  """Images [b, h, w, c] to features [b, d]; `ViT` says what the fields are."""

  patch_size_px: int
  width: int
  depth: int
  num_heads: int
  mlp_dim: int
  pooling: Pooling
  positions: Positions
  zero_init_residual: bool
  layer_scale: float
  drop_path: float
  expand_dim: int
  scan_layers: bool
  remat: Remat
  dtype: jnp.dtype

  @nn.compact
  def __call__(
    self, images: Images, train: bool, keys: Keys | None = None
  ) -> Float[Array, "b d"]:
    """Returns the features; blocks are dropped in training, if there are keys.

    Raises:
      ValueError: the images do not divide into patches.
    """
    h, w = images.shape[1:3]
    size = self.patch_size_px
    if h % size or w % size:
      raise ValueError(
        f"images of {h} x {w} px do not divide into patches of "
        f"model.patch_size_px={size}; change it or augment.crop_size_px "
        "(augment.small_crop_size_px, of small crops)"
      )
    x = patches(images.astype(self.dtype), size)
    x = nn.Dense(self.width, dtype=self.dtype, name="embed")(x)
    x = x + self._positions(h // size, w // size)[None]
    if self.pooling == "cls":
      # A position of its own would only add to the token, which is a parameter.
      init = nn.initializers.normal(0.02)
      cls = self.param("cls", init, (self.width,), jnp.float32).astype(x.dtype)
      cls = jnp.broadcast_to(cls, (x.shape[0], 1, self.width))
      x = jnp.concatenate([cls, x], axis=1)
    tokens = x.shape[1]

    factors = None
    if train and keys is not None and self.drop_path:
      factors = drop_path_factors(keys, self.depth, self.drop_path)
    x = self._blocks(x.reshape(-1, self.width), tokens, factors)

    if self.pooling == "cls":
      # What follows works token by token, and the others aren't needed.
      x, tokens = x.reshape(-1, tokens, self.width)[:, 0], 1
    x = nn.LayerNorm(dtype=self.dtype, name="norm")(x)
    if self.expand_dim:
      expansion = Expansion(
        self.expand_dim, tokens, self.dtype, name="expansion"
      )
      return expansion(x)
    return pooled(x, tokens)

  def _positions(self, rows: int, columns: int) -> Float[Array, "n d"]:
    if self.positions == "sincos":
      fixed = sincos_positions(rows, columns, self.width)
      return jnp.asarray(fixed, self.dtype)
    # Linen's `param` would insist on the shape that these images ask for.
    learned: Array | None = self.get_variable("params", "positions")
    if learned is None:
      learned = self.param(
        "positions",
        nn.initializers.normal(0.02),
        (rows, columns, self.width),
        jnp.float32,
      )
    return resized_positions(learned, rows, columns).astype(self.dtype)

  def _blocks(
    self,
    x: Float[Array, "bn d"],
    tokens: int,
    factors: Float[Array, "depth 2 b"] | None,
  ) -> Float[Array, "bn d"]:
    kind = Block
    if self.remat != "none":
      policy = {
        "block": None,
        "dots": jax.checkpoint_policies.dots_with_no_batch_dims_saveable,
      }[self.remat]
      # Inside of a scan there is nothing that it could be merged with.
      kind = nn.remat(Block, policy=policy, prevent_cse=not self.scan_layers)
    block = functools.partial(
      kind,
      tokens,
      self.num_heads,
      self.mlp_dim,
      self.zero_init_residual,
      self.layer_scale,
      self.dtype,
    )
    if self.scan_layers:
      scan = nn.scan(
        lambda block, x, factors: (block(x, factors), None),
        variable_axes={"params": 0},
        split_rngs={"params": True},
        length=self.depth,
      )
      return scan(block(name="blocks"), x, factors)[0]
    for i in range(self.depth):
      x = block(name=f"block_{i}")(x, None if factors is None else factors[i])
    return x


@dataclasses.dataclass(frozen=True)
class ViT:
  """The `model` section of a config, for `model.name="vit"`.

  Usual sizes, width / depth / num_heads: Ti 192/12/3, S 384/12/6 (MoCo v3:
  12 heads), B 768/12/12, with patches of 16 px and mlp_ratio 4.

  Attributes:
    patch_size_px: side of a patch.
    width: of a token; the feature dimension, unless it is expanded.
    depth: number of blocks.
    num_heads: of attention, `width` is split over them.
    mlp_ratio: hidden width of a block's MLP over `width`.
    pooling: the feature is the mean of the normalised tokens ("mean"), or the
      normalised class token ("cls"), which only this choice adds.
    positions: fixed ones of the grid at hand ("sincos"), or "learned" for the
      grid of the run's large crops, and interpolated for others.
    zero_init_residual: the last layers of attention and MLP start at zero, so
      that a block starts as the identity (Goyal et al. 2017, for ResNets).
    layer_scale: initial value of LayerScale (Touvron et al., ICCV 2021: 0.1
      down to 1e-6 with growing depth); 0: none.
    drop_path: probability with which the branches of the last block are
      dropped in training, growing linearly from 0 in the first (stochastic
      depth, Huang et al., ECCV 2016); in [0, 1).
    expand_dim: feature dimension after a bottleneck expansion, a multiple of
      `width`; 0: none.
    scan_layers: one compiled block instead of `depth` of them: parameters are
      stacked under `blocks`, [depth, ...], instead of being in `block_i`.
    remat: what of a block is computed anew in the backward pass: "none",
      everything ("block"), or all but its matrix products ("dots").
    dtype: of activations; parameters keep the default dtype.
    mean: of the pixels, one value or one a channel.
    std: the same for the standard deviation.

  Raises:
    ValueError: a field is out of range; names it.
  """

  patch_size_px: int
  width: int
  depth: int
  num_heads: int
  mlp_ratio: int = 4
  pooling: Pooling = "mean"
  positions: Positions = "sincos"
  zero_init_residual: bool = False
  layer_scale: float = 0.0
  drop_path: float = 0.0
  expand_dim: int = 0
  scan_layers: bool = False
  remat: Remat = "none"
  dtype: str = "float32"
  mean: tuple[float, ...] = (0.5,)
  std: tuple[float, ...] = (0.5,)

  def __post_init__(self) -> None:
    for key in ("patch_size_px", "width", "num_heads", "mlp_ratio"):
      if getattr(self, key) < 1:
        raise ValueError(f"model.{key}={getattr(self, key)} must be positive")
    for key in ("depth", "layer_scale"):
      if getattr(self, key) < 0:
        raise ValueError(f"model.{key}={getattr(self, key)} must not be < 0")
    choices = {"pooling": Pooling, "positions": Positions, "remat": Remat}
    for key, choice in choices.items():
      known = typing.get_args(choice)
      if getattr(self, key) not in known:
        raise ValueError(
          f"model.{key}={getattr(self, key)!r} must be one of {known}"
        )
    if self.width % self.num_heads:
      raise ValueError(
        f"model.width={self.width} does not divide over "
        f"model.num_heads={self.num_heads}"
      )
    if not 0 <= self.drop_path < 1:
      raise ValueError(f"model.drop_path={self.drop_path} must be in [0, 1)")
    if self.expand_dim < 0 or self.expand_dim % self.width:
      raise ValueError(
        f"model.expand_dim={self.expand_dim} must be 0 or a multiple of "
        f"model.width={self.width}"
      )

  def backbone(self) -> Backbone:
    """Returns the encoder as pure functions."""
    module = Encoder(
      patch_size_px=self.patch_size_px,
      width=self.width,
      depth=self.depth,
      num_heads=self.num_heads,
      mlp_dim=self.mlp_ratio * self.width,
      pooling=self.pooling,
      positions=self.positions,
      zero_init_residual=self.zero_init_residual,
      layer_scale=self.layer_scale,
      drop_path=self.drop_path,
      expand_dim=self.expand_dim,
      scan_layers=self.scan_layers,
      remat=self.remat,
      dtype=jnp.dtype(self.dtype),
    )
    feature_dim = self.expand_dim or self.width
    return from_linen(module, feature_dim, mean=self.mean, std=self.std)
