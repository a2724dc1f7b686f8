"""Vision transformers (Dosovitskiy et al., ICLR 2021), without classifier.

Pre-norm blocks over patch tokens. The default positions and pooling are those
of MoCo v3 and MAE.
"""

import dataclasses
import functools
from typing import Any, Literal

import flax.linen as nn
import jax
import jax.numpy as jnp
from jaxtyping import Array, Bool, Float

from jssl.models.backbone import Backbone, Width, from_linen
from jssl.models.tokens import Drop, Encoded, Grid, Mask, Replace, patches
from jssl.models.vit_layers import (
  Block,
  Expansion,
  Gelu,
  LayerNorm,
  QkvBias,
  drop_path_factors,
  pooled,
  resized_positions,
  sincos_positions,
  standardized,
)
from jssl.typing import (
  Decay,
  Dtype,
  Images,
  Keys,
  NonNegative,
  Positive,
  check_fields,
)

Pooling = Literal["mean", "cls", "cls_mean"]
Positions = Literal["sincos", "learned"]
Remat = Literal["none", "block", "dots"]


@dataclasses.dataclass(frozen=True)
class ViT:
  """Hyper-parameters of a vision transformer; the `model` section of a config.

  Common sizes, width / depth / num_heads: Ti 192/12/3, S 384/12/6 (MoCo v3:
  12 heads), B 768/12/12, with patches of 16 px and mlp_ratio 4.

  Example:
    >>> model = ViT(patch_size_px=4, width=64, depth=2, num_heads=2)
    >>> model.backbone().feature_dim
    64

  Attributes:
    patch_size_px: side of a patch.
    width: width of a token, and feature dimension unless expanded.
    depth: number of blocks.
    num_heads: number of attention heads; must divide `width`.
    mlp_ratio: hidden width of the MLPs over `width`.
    pooling: the feature is the mean of the normalised patch tokens ("mean"),
      the normalised class token ("cls"), or the class token and the mean one
      after the other ("cls_mean": twice the width).
    num_registers: number of learned tokens between the class token and the
      patches, without positions (Darcet et al., ICLR 2024). No output contains
      them.
    positions: fixed for the grid of the image ("sincos"), or "learned" for the
      grid of the images of `init` and interpolated for other grids.
    gelu: the GELU of the MLPs, by its "tanh" approximation (JAX's default) or
      exact, by "erf" (PyTorch's default, and so in most published weights).
    norm_epsilon: epsilon of the layer norms (DINOv3: 1e-5).
    qkv_bias: linear maps of the attention that have a bias: "qkv", "qv"
      (SimMIM, DINOv3) or "none".
    zero_init_residual: True to initialise the last layer of each branch with
      zeros, so that a block starts as the identity (Goyal et al. 2017).
    layer_scale: initial value of LayerScale (Touvron et al., ICCV 2021: 0.1
      down to 1e-6 with growing depth); 0: none.
    drop_path: probability of dropping the branches of the last block in
      training, growing linearly from 0 in the first (stochastic depth, Huang
      et al., ECCV 2016); in [0, 1).
    mask_token: True for a learned token in place of hidden patches, which
      objectives with masks of `Replace` need (BEiT, SimMIM, iBOT).
    expand_dim: feature dimension after a bottleneck expansion, a multiple of
      `width`; 0: none.
    scan_layers: True to compile one block and scan over it. Parameters are
      stacked under `blocks` [depth, ...] instead of `block_i`.
    remat: parts of a block to recompute in the backward pass: "none", "block"
      (everything), or "dots" (everything but matrix products).
    dtype: dtype of activations; parameters keep the default dtype.
    mean: mean of the pixels, one value or one per channel.
    std: standard deviation of the pixels, one value or one per channel.

  Raises:
    ValueError: if a field is out of range; the message names its config key.
  """

  patch_size_px: Positive[int]
  width: Width
  depth: Positive[int]
  num_heads: Positive[int]
  mlp_ratio: Positive[int] = 4
  pooling: Pooling = "mean"
  num_registers: NonNegative[int] = 0
  positions: Positions = "sincos"
  gelu: Gelu = "tanh"
  norm_epsilon: Positive[float] = 1e-6
  qkv_bias: QkvBias = "qkv"
  zero_init_residual: bool = False
  layer_scale: NonNegative[float] = 0.0
  drop_path: Decay = 0.0
  mask_token: bool = False
  expand_dim: NonNegative[int] = 0
  scan_layers: bool = False
  remat: Remat = "none"
  dtype: Dtype = "float32"
  mean: tuple[float, ...] = (0.5,)
  std: tuple[Positive[float], ...] = (0.5,)

  def __post_init__(self) -> None:
    check_fields(self, "model")
    if self.width % self.num_heads:
      raise ValueError(
        f"model.width={self.width} must be a multiple of "
        f"model.num_heads={self.num_heads}"
      )
    if self.expand_dim % self.width:
      raise ValueError(
        f"model.expand_dim={self.expand_dim} must be 0 or a multiple of "
        f"model.width={self.width}"
      )
    if self.expand_dim and self.pooling == "cls_mean":
      raise ValueError(
        f"model.expand_dim={self.expand_dim} expands one token: expected "
        'model.pooling "mean" or "cls", not "cls_mean"'
      )

  def backbone(self) -> Backbone:
    """Returns the encoder as pure functions."""
    parts = 2 if self.pooling == "cls_mean" else 1
    feature_dim = self.expand_dim or parts * self.width
    return from_linen(
      Encoder(self), feature_dim, mean=self.mean, std=self.std, grid=self.grid
    )

  def grid(self, image_shape: tuple[int, ...]) -> Grid:
    """Returns the patch tokens of an image (h, w, c).

    Raises:
      ValueError: if the patches do not divide the image.
    """
    (h, w), size = image_shape[:2], self.patch_size_px
    if h % size or w % size:
      raise ValueError(
        f"images of {h} x {w} px do not divide into patches of "
        f"model.patch_size_px={size}; change it or augment.crop_size_px "
        "(augment.small_crop_size_px, of small crops)"
      )
    return Grid(h // size, w // size, self.width, size)


class Encoder(nn.Module):
  """Vision transformer from images [b, h, w, c] to features and tokens."""

  config: ViT

  @nn.compact
  def __call__(
    self,
    images: Images,
    train: bool,
    keys: Keys | None = None,
    mask: Mask | None = None,
    tokens: bool = False,
    blocks: int = 0,
  ) -> Encoded:
    if not 0 <= blocks <= self.config.depth:
      raise ValueError(
        f"blocks={blocks}: expected 0 to model.depth={self.config.depth}"
      )
    config, dtype = self.config, jnp.dtype(self.config.dtype)
    grid = config.grid(images.shape[1:])
    x = patches(images.astype(dtype), config.patch_size_px)
    x = nn.Dense(config.width, dtype=dtype, name="embed")(x)
    x = self._replaced(x, mask)
    x = x + self._positions(grid.rows, grid.columns).astype(dtype)[None]
    valid = None
    if isinstance(mask, Drop):
      x = jnp.take_along_axis(x, mask.visible[..., None], axis=1)
      valid = mask.valid
    prefix = self._prefix(x)
    if prefix is not None:
      x = jnp.concatenate([prefix, x], axis=1)
      if valid is not None:
        pad = ((0, 0), (prefix.shape[1], 0))
        valid = jnp.pad(valid, pad, constant_values=True)
    n = x.shape[1]

    factors = None
    if train and keys is not None and config.drop_path:
      factors = drop_path_factors(keys, config.depth, config.drop_path)
    x = x.reshape(-1, config.width)
    x, of_blocks = self._blocks(x, n, factors, valid, blocks)
    if config.pooling == "cls" and not tokens:
      # The layers below act on each token alone: drop the patch tokens.
      x, n = x.reshape(-1, n, config.width)[:, 0], 1
    norm = LayerNorm(config.norm_epsilon, dtype=dtype, name="norm")
    x = norm(x)
    encoded = self._outputs(x.reshape(-1, n, config.width), mask, tokens)
    if of_blocks is None:
      return encoded
    affine = norm.variables["params"]
    of_blocks = of_blocks * affine["scale"][None, None]
    of_blocks = of_blocks + affine["bias"][None, None]
    return encoded._replace(blocks=of_blocks)

  def _prefix(self, x: Float[Array, "b n d"]) -> Float[Array, "b p d"] | None:
    """Returns the tokens before the patches: class token and registers."""
    config, prefix = self.config, []
    # They are parameters, so they need no position embedding.
    init = nn.initializers.normal(0.02)
    if config.pooling != "mean":
      cls = self.param("cls", init, (config.width,), jnp.float32)
      prefix.append(cls[None])
    if config.num_registers:
      shape = (config.num_registers, config.width)
      prefix.append(self.param("registers", init, shape, jnp.float32))
    if not prefix:
      return None
    together = jnp.concatenate(prefix).astype(x.dtype)
    return jnp.broadcast_to(together, (len(x), *together.shape))

  def _outputs(
    self, x: Float[Array, "b n d"], mask: Mask | None, tokens: bool
  ) -> Encoded:
    """Pools normalised tokens."""
    config = self.config
    valid = mask.valid if isinstance(mask, Drop) else None
    cls = config.pooling != "mean"
    patch_tokens = x[:, cls + config.num_registers :]
    pool, y = config.pooling, patch_tokens
    if pool == "cls":
      y, valid = x[:, :1], None
    n, y = y.shape[1], y.reshape(-1, config.width)
    if config.expand_dim:
      dtype = jnp.dtype(config.dtype)
      expansion = Expansion(config.expand_dim, n, dtype, name="expansion")
      feature = expansion(y, valid)
    else:
      feature = pooled(y, n, valid)
    if pool == "cls_mean":
      feature = jnp.concatenate([x[:, 0], feature], axis=1)
    return Encoded(feature, patch_tokens if tokens else None)

  def _replaced(
    self, x: Float[Array, "b n d"], mask: Mask | None
  ) -> Float[Array, "b n d"]:
    """Puts the mask token in place of hidden patches."""
    if not self.config.mask_token:
      if isinstance(mask, Replace):
        raise ValueError("a mask that replaces patches: set model.mask_token")
      return x
    zeros = nn.initializers.zeros
    token = self.param("mask_token", zeros, x.shape[-1:], jnp.float32)
    if not isinstance(mask, Replace):
      return x
    token = token.astype(x.dtype)[None, None]
    return jnp.where(mask.hidden[..., None], token, x)

  def _positions(self, rows: int, columns: int) -> Float[Array, "n d"]:
    config = self.config
    if config.positions == "sincos":
      fixed = sincos_positions(rows, columns, config.width)
      return jnp.asarray(fixed, config.dtype)
    # `self.param` would require the shape for the grid of these images.
    learned: Array | None = self.get_variable("params", "positions")
    if learned is None:
      learned = self.param(
        "positions",
        nn.initializers.normal(0.02),
        (rows, columns, config.width),
        jnp.float32,
      )
    return resized_positions(learned, rows, columns)

  def _blocks(
    self,
    x: Float[Array, "bn d"],
    tokens: int,
    factors: Float[Array, "depth 2 b"] | None,
    valid: Bool[Array, "b n"] | None,
    last: int,
  ) -> tuple[Float[Array, "bn d"], Float[Array, "b l d"] | None]:
    """Runs the blocks; also returns features of the last ones, without affine.

    The affine map of the norm commutes with the mean over tokens.
    """
    config, kind = self.config, Block

    def feature(x: Float[Array, "bn d"]) -> Float[Array, "b d"] | None:
      if not last:
        return None
      x = x.reshape(-1, tokens, config.width)
      if config.pooling != "mean":
        return standardized(x[:, 0], config.norm_epsilon)
      x, shown = x[:, config.num_registers :], valid
      if shown is not None:
        shown = shown[:, config.num_registers :]
      y = standardized(x.reshape(-1, config.width), config.norm_epsilon)
      return pooled(y, x.shape[1], shown)

    if config.remat != "none":
      policy = {
        "block": None,
        "dots": jax.checkpoint_policies.dots_with_no_batch_dims_saveable,
      }[config.remat]
      # A scan already prevents common-subexpression elimination.
      kind = nn.remat(Block, policy=policy, prevent_cse=not config.scan_layers)
    block = functools.partial(
      kind,
      tokens,
      config.num_heads,
      config.mlp_ratio * config.width,
      config.zero_init_residual,
      config.layer_scale,
      jnp.dtype(config.dtype),
      config.gelu,
      config.norm_epsilon,
      config.qkv_bias,
    )
    if config.scan_layers:

      def body(block: Block, x: Array, *rest: Any) -> tuple[Array, Any]:
        x = block(x, *rest)
        return x, feature(x)

      scan = nn.scan(
        body,
        in_axes=(0, nn.broadcast),
        variable_axes={"params": 0},
        split_rngs={"params": True},
        length=config.depth,
      )
      x, features = scan(block(name="blocks"), x, factors, valid)
      return x, features[-last:].swapaxes(0, 1) if last else None
    features = []
    for i in range(config.depth):
      drawn = None if factors is None else factors[i]
      x = block(name=f"block_{i}")(x, drawn, valid)
      if i >= config.depth - last:
        features.append(feature(x))
    return x, jnp.stack(features, axis=1) if last else None
