"""Blocks of a vision transformer, and its expansion layer.

Tokens are flat [b * n, d]: on CPU, matrix products are twice as fast with one
leading dimension as with two. On other backends the speed is the same.
"""

import functools

import flax.linen as nn
import jax
import jax.numpy as jnp
from jaxtyping import Array, Float

from jssl import rng
from jssl.mesh import rows_on_all
from jssl.models.tokens import pooled
from jssl.typing import Keys

_EXPANSION_HIDDEN_DIM = 512


def attention(
  q: Float[Array, "b n k e"],
  k: Float[Array, "b n k e"],
  v: Float[Array, "b n k e"],
) -> Float[Array, "b n k e"]:
  """Scaled dot-product attention with k heads of width e."""
  # jax.nn.dot_product_attention would reduce float64 inputs to float32.
  wide = jnp.promote_types(q.dtype, jnp.float32)
  logits = jnp.einsum("bqke,btke->bkqt", q, k, preferred_element_type=wide)
  weights = jax.nn.softmax(logits / q.shape[-1] ** 0.5).astype(v.dtype)
  return jnp.einsum("bkqt,btke->bqke", weights, v)


def drop_path_factors(
  keys: Keys, depth: int, rate: float
) -> Float[Array, "depth 2 b"]:
  """Draws the stochastic-depth factors of both branches of every block.

  A branch of block i is dropped with probability p_i and otherwise scaled by
  1 / (1 - p_i); p_i grows linearly from 0 in the first block to `rate` in the
  last. The draw for an image depends only on its key, the block and the branch.
  """
  keep = 1 - jnp.linspace(0, rate, depth, dtype=jnp.float32)

  def of_image(key: jax.Array) -> Float[Array, "depth 2"]:
    places = jnp.arange(2 * depth)
    branch_keys = jax.vmap(rng.stream, (None, None, 0))(
      key, "drop_path", places
    )
    return jax.vmap(lambda k: jax.random.uniform(k, dtype=jnp.float32))(
      branch_keys
    ).reshape(depth, 2)

  draws = jax.vmap(of_image, out_axes=-1)(keys)
  kept = keep[:, None, None]
  return jnp.where(draws < kept, 1 / kept, 0.0)


class Block(nn.Module):
  """Pre-norm transformer block: an attention and an MLP branch.

  Each branch computes x + factor * scale * branch(norm(x)), with factors from
  `drop_path_factors` and the learned scale of LayerScale. `tokens` is the
  number of tokens per image; `ViT` documents the other attributes.
  """

  tokens: int
  num_heads: int
  mlp_dim: int
  zero_init_residual: bool
  layer_scale: float
  dtype: jnp.dtype

  @nn.compact
  def __call__(
    self,
    x: Float[Array, "bn d"],
    factors: Float[Array, "2 b"] | None = None,
  ) -> Float[Array, "bn d"]:
    x = rows_on_all(x)
    d = x.shape[-1]
    last_init = (
      nn.initializers.zeros
      if self.zero_init_residual
      else nn.initializers.lecun_normal()
    )
    last = functools.partial(
      nn.Dense, d, kernel_init=last_init, dtype=self.dtype
    )

    def weighted(y: Array, branch: int, name: str) -> Array:
      if self.layer_scale:
        start = nn.initializers.constant(self.layer_scale)
        scale = self.param(f"{name}_scale", start, (d,), jnp.float32)
        y = y * scale.astype(self.dtype)[None]
      if factors is not None:
        of_tokens = jnp.repeat(factors[branch], self.tokens)
        y = y * of_tokens.astype(self.dtype)[:, None]
      return y

    y = nn.LayerNorm(dtype=self.dtype, name="attention_norm")(x)
    y = nn.Dense(3 * d, dtype=self.dtype, name="qkv")(y)
    y = y.reshape(-1, self.tokens, 3, self.num_heads, d // self.num_heads)
    y = attention(y[:, :, 0], y[:, :, 1], y[:, :, 2]).reshape(-1, d)
    x = x + weighted(last(name="attention_out")(y), 0, "attention")

    y = nn.LayerNorm(dtype=self.dtype, name="mlp_norm")(x)
    y = nn.gelu(nn.Dense(self.mlp_dim, dtype=self.dtype, name="mlp_in")(y))
    return x + weighted(last(name="mlp_out")(y), 1, "mlp")


class Expansion(nn.Module):
  """Expands tokens [b * n, width] to features [b, d] through a bottleneck.

  Returns the mean over tokens of f(x) + x tiled d/width times, where f is an
  MLP with two hidden layers of 512, each with LayerNorm and GELU. This is our
  counterpart of the expansion of ResNets in Dubois et al. (NeurIPS 2022).
  """

  dim: int
  tokens: int
  dtype: jnp.dtype

  @nn.compact
  def __call__(self, x: Float[Array, "bn w"]) -> Float[Array, "b d"]:
    y = x
    for i in range(2):
      y = nn.Dense(_EXPANSION_HIDDEN_DIM, dtype=self.dtype, name=f"dense_{i}")(
        y
      )
      y = nn.gelu(nn.LayerNorm(dtype=self.dtype, name=f"norm_{i}")(y))
    # The last layer is linear and commutes with the mean.
    x, y = pooled(x, self.tokens), pooled(y, self.tokens)
    y = nn.Dense(self.dim, dtype=self.dtype, name="out")(y)
    return y + jnp.tile(x, self.dim // x.shape[-1])
