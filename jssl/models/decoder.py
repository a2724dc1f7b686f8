"""A transformer that predicts hidden patches from the tokens of visible ones.

The decoder of MAE (He et al., CVPR 2022) and the predictor of I-JEPA (Assran et
al., CVPR 2023).
"""

import dataclasses

import flax.linen as nn
import jax.numpy as jnp
from jaxtyping import Array, Bool, Float

from jssl.models.tokens import Drop, Grid
from jssl.models.vit_layers import Attention, Block, LayerNorm
from jssl.models.vit_positions import sincos_positions
from jssl.typing import Dtype, Key, Positive, PyTree, check_fields


@dataclasses.dataclass(frozen=True)
class Decoder:
  """A decoder of patch tokens: hyper-parameters and pure functions.

  Each block of `Drop.targets` is one sequence: visible tokens, then mask tokens
  in place of the targets. All have fixed positions, column first as in MAE. A
  sequence in another order has the same outputs, so that MAE's patches need not
  be put back into raster order.

  Attributes:
    width: width of a token.
    depth: number of blocks.
    num_heads: number of attention heads; must divide `width`.
    mlp_ratio: hidden width of the MLPs over `width`.
    dtype: dtype of activations; "float32" is promoted to that of wider tokens.
    attention: as of `ViT`.
  """

  width: Positive[int] = 512
  depth: Positive[int] = 8
  num_heads: Positive[int] = 16
  mlp_ratio: Positive[int] = 4
  dtype: Dtype = "float32"
  attention: Attention = "auto"

  def __post_init__(self) -> None:
    check_fields(self, "Decoder")
    if self.width % self.num_heads:
      raise ValueError(
        f"Decoder.width={self.width} must be a multiple of "
        f"Decoder.num_heads={self.num_heads}"
      )

  def init(self, key: Key, grid: Grid, out_dim: int) -> PyTree:
    """Returns the parameters for tokens of this grid."""
    index = jnp.zeros((1, 1), int)
    tokens = jnp.zeros((1, 1, grid.width))
    mask = Drop(index, targets=index[None])
    module = _Decoder(self, grid, out_dim)
    return module.init(key, tokens, mask)["params"]

  def apply(
    self,
    params: PyTree,
    tokens: Float[Array, "b k w"],
    mask: Drop,
    grid: Grid,
    out_dim: int,
    *,
    prefix: Float[Array, "b w"] | None = None,
  ) -> Float[Array, "b m t out"]:
    """Predicts the targets of a mask.

    Args:
      params: parameters of `init`.
      tokens: tokens of the visible patches.
      mask: their places, and the targets.
      grid: grid of the patches.
      out_dim: number of values per patch.
      prefix: another token without a position, such as a class token.
    """
    module = _Decoder(self, grid, out_dim)
    return jnp.asarray(module.apply({"params": params}, tokens, mask, prefix))


class _Decoder(nn.Module):
  config: Decoder
  grid: Grid
  out_dim: int

  @nn.compact
  def __call__(
    self,
    tokens: Float[Array, "b k w"],
    mask: Drop,
    prefix: Float[Array, "b w"] | None = None,
  ) -> Float[Array, "b m t out"]:
    config, d = self.config, self.config.width
    dtype = jnp.dtype(config.dtype)
    if dtype == jnp.float32:
      dtype = jnp.promote_types(tokens.dtype, dtype)
    positions = jnp.asarray(
      sincos_positions(self.grid.rows, self.grid.columns, d, column_first=True),
      dtype,
    )
    targets = mask.targets
    if targets is None:
      raise ValueError("the mask has no targets to predict")
    b, m, t = targets.shape
    embed = nn.Dense(d, dtype=dtype, name="embed")
    seen = embed(tokens) + positions[mask.visible]
    if prefix is not None:
      seen = jnp.concatenate([embed(prefix)[:, None], seen], axis=1)
    token = self.param("mask_token", nn.initializers.normal(0.02), (d,))
    hidden = token.astype(dtype).reshape(1, 1, 1, d) + positions[targets]

    # One sequence per block of targets: [b * m, visible + t, d].
    x = jnp.concatenate([jnp.repeat(seen, m, 0), hidden.reshape(-1, t, d)], 1)
    n = x.shape[1]
    valid = self._valid(mask, n)
    x = x.reshape(-1, d)
    for i in range(config.depth):
      x = Block(
        tokens=n,
        num_heads=config.num_heads,
        mlp_dim=config.mlp_ratio * d,
        zero_init_residual=False,
        layer_scale=0.0,
        dtype=dtype,
        attention=config.attention,
        name=f"block_{i}",
      )(x, None, valid)
    # The layers below act on each token alone: drop the visible ones.
    x = x.reshape(-1, n, d)[:, n - t :]
    x = LayerNorm(dtype=dtype, name="norm")(x)
    y = nn.Dense(self.out_dim, dtype=dtype, name="out")(x)
    return y.reshape(b, m, t, self.out_dim)

  def _valid(self, mask: Drop, n: int) -> Bool[Array, "bm n"] | None:
    """Returns the tokens of each sequence that others may attend to."""
    if mask.valid is None or mask.targets_valid is None:
      return None
    b, m, t = mask.targets_valid.shape
    seen = mask.valid
    prefix = n - t - seen.shape[1]
    seen = jnp.pad(seen, ((0, 0), (prefix, 0)), constant_values=True)
    hidden = mask.targets_valid.reshape(b * m, t)
    return jnp.concatenate([jnp.repeat(seen, m, 0), hidden], axis=1)
