"""The Flax module of a vision transformer."""

import functools
from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp
from jaxtyping import Array, Bool, Float

from jssl.models.tokens import Drop, Encoded, Grid, Mask, Replace, patches
from jssl.models.vit import ViT
from jssl.models.vit_layers import (
  ATTENTION,
  Block,
  Expansion,
  LayerNorm,
  drop_path_factors,
  pooled,
  run_blocks,
  standardized,
)
from jssl.models.vit_positions import (
  augmented_coordinates,
  resized_positions,
  rope_coordinates,
  rope_rotations,
  sincos_positions,
)
from jssl.typing import Images, Keys, Pixels, Variables


def _products_saveable(primitive: Any, *args: Any, **params: Any) -> bool:
  """Policy of `remat="dots"`: saves products with weights, and attention."""
  policies = jax.checkpoint_policies
  return (
    policies.dots_with_no_batch_dims_saveable(primitive, *args, **params)
    or policies.save_only_these_names("attention")(primitive, *args, **params)
    # The result of cuDNN, and the sums that its gradient needs.
    or primitive.name == "dot_product_attention_fwd_wrapper"
  )


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
    if (added := self._positions(grid)) is not None:
      x = x + added.astype(dtype)[None]
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

    if not train:
      keys = None
    rotations = self._rotations(grid, mask, keys)
    factors = None
    if keys is not None and config.drop_path:
      factors = drop_path_factors(
        keys,
        config.depth,
        config.drop_path,
        uniform=config.drop_path_uniform,
      )
    x = x.reshape(-1, config.width)
    x, of_blocks = self._blocks(x, n, factors, valid, rotations, blocks)
    if config.pooling == "cls" and not tokens:
      # The layers below act on each token alone: drop the patch tokens.
      x, n = x.reshape(-1, n, config.width)[:, 0], 1
    norm = LayerNorm(config.norm_epsilon, dtype=dtype, name="norm")
    if not config.norm_pooled:
      x = norm(x)
    encoded = self._outputs(x.reshape(-1, n, config.width), mask, tokens)
    if config.norm_pooled:
      encoded = encoded._replace(pooled=norm(encoded.pooled))
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
    if config.has_class_token:
      cls = self.param("cls", init, (config.width,), jnp.float32)
      if config.class_position:
        zeros = nn.initializers.zeros
        cls += self.param("cls_position", zeros, cls.shape, jnp.float32)
      prefix.append(cls[None])
    if config.num_registers:
      shape = (config.num_registers, config.width)
      prefix.append(self.param("registers", init, shape, jnp.float32))
    if not prefix:
      return None
    together = jnp.concatenate(prefix).astype(x.dtype)
    return jnp.broadcast_to(together, (x.shape[0], *together.shape))

  def _outputs(
    self, x: Float[Array, "b n d"], mask: Mask | None, tokens: bool
  ) -> Encoded:
    """Pools normalised tokens."""
    config = self.config
    valid = mask.valid if isinstance(mask, Drop) else None
    patch_tokens = x[:, config.prefix_tokens :]
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

  def _positions(self, grid: Grid) -> Float[Array, "n d"] | None:
    """Returns position embeddings; None with RoPE."""
    config, rows, columns = self.config, grid.rows, grid.columns
    if config.positions == "rope":
      return None
    if config.positions != "learned":
      column_first = config.positions == "sincos_column"
      fixed = sincos_positions(
        rows, columns, config.width, column_first=column_first
      )
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
    return resized_positions(learned, rows, columns, config.interpolation)

  def _rotations(
    self, grid: Grid, mask: Mask | None, keys: Keys | None
  ) -> Float[Array, "2 _b n e"] | None:
    """Returns the rotations of RoPE, of all tokens; None without it."""
    config = self.config
    if config.positions != "rope":
      return None
    wide = jnp.promote_types(config.dtype, jnp.float32)
    x = jnp.asarray(rope_coordinates(grid.rows, grid.columns), wide)
    if keys is not None and config.augments_rope:
      x = augmented_coordinates(
        keys,
        x,
        shift=config.rope_shift,
        jitter=config.rope_jitter,
        rescale=config.rope_rescale,
      )
    else:
      x = x[None]
    if isinstance(mask, Drop):
      x = jnp.take_along_axis(x, mask.visible[..., None], axis=1)
    # Angles of 0 leave the class token and registers as they are.
    x = jnp.pad(x, ((0, 0), (config.prefix_tokens, 0), (0, 0)))
    return rope_rotations(x, config.width // config.num_heads)

  def _blocks(
    self,
    x: Float[Array, "bn d"],
    tokens: int,
    factors: Float[Array, "depth 2 b"] | None,
    valid: Bool[Array, "b n"] | None,
    rotations: Float[Array, "2 _b n e"] | None,
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
      x, shown = x[:, config.prefix_tokens :], valid
      if shown is not None:
        shown = shown[:, config.prefix_tokens :]
      n, y = x.shape[1], x.reshape(-1, config.width)
      if config.norm_pooled:
        return standardized(pooled(y, n, shown), config.norm_epsilon)
      return pooled(standardized(y, config.norm_epsilon), n, shown)

    if config.remat != "none":
      policy = {"block": None, "dots": _products_saveable}[config.remat]
      # A scan already prevents common-subexpression elimination.
      kind = nn.remat(Block, policy=policy, prevent_cse=not config.scan_layers)
    block = functools.partial(
      kind,
      tokens,
      config.num_heads,
      config.mlp_hidden_dim,
      config.zero_init_residual,
      config.layer_scale,
      jnp.dtype(config.dtype),
      config.gelu,
      config.norm_epsilon,
      config.qkv_bias,
      config.mlp,
      config.attention,
    )
    x, features = run_blocks(
      block,
      config.depth,
      x,
      factors,
      valid,
      rotations,
      scan_layers=config.scan_layers,
      feature=feature,
    )
    return x, jnp.stack(features[-last:], axis=1) if last else None


def class_attention(
  model: ViT, variables: Variables, images: Pixels
) -> Float[Array, "b heads n"]:
  """Returns the attention of the class token to the patches, in the last block.

  Caron et al., DINO, ICCV 2021, figure 1. Attention to the class token itself
  and to registers is left out, so that rows sum to less than 1.

  Args:
    model: a vision transformer with a class token.
    variables: variables of its backbone.
    images: [b, h, w, c] as `Backbone.apply` takes them.

  Raises:
    ValueError: if the model has no class token.
  """
  if not model.has_class_token:
    raise ValueError(
      "the backbone has no class token: expected model.class_token=True or "
      'model.pooling "cls" or "cls_mean"'
    )
  standardized = model.backbone().standardize(jnp.asarray(images))
  _, found = Encoder(model).apply(
    variables, standardized, train=False, tokens=True, mutable=[ATTENTION]
  )
  if model.scan_layers:
    (weights,) = found[ATTENTION]["blocks"]["first"]
    weights = weights[-1]
  else:
    (weights,) = found[ATTENTION][f"block_{model.depth - 1}"]["first"]
  return weights[:, :, 0, model.prefix_tokens :]
