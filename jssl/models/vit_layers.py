"""Layers of a vision transformer.

Blocks take flat tokens [b * n, d]: on CPU, matrix products are twice as fast
with one leading dimension as with two. On other backends the speed is the same.
"""

import functools
from typing import Literal

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Bool, Float

from jssl import rng
from jssl.mesh import rows_on_all
from jssl.typing import Keys

Gelu = Literal["tanh", "erf"]
QkvBias = Literal["qkv", "qv", "none"]

_EXPANSION_HIDDEN_DIM = 512

# The fast variance, E[x²] - E[x]², cancels for tokens of a large mean.
LayerNorm = functools.partial(nn.LayerNorm, use_fast_variance=False)


def sincos_positions(
  rows: int, columns: int, width: int, *, column_first: bool = False
) -> Float[np.ndarray, "n d"]:
  """Returns fixed position embeddings of a grid, [rows * columns, width].

  Sine and cosine of row and column take a quarter of the dimensions each, at
  geometric frequencies from 1 down to 1/10000. Positions count patches, so a
  smaller grid has a subset of the positions of a larger one. Row comes first
  (MoCo v3), or column (MAE and I-JEPA).
  """
  if width % 4:
    raise ValueError(f"model.width={width} must be a multiple of 4")
  frequencies = 10000.0 ** -np.linspace(0, 1, width // 4, endpoint=False)
  y, x = np.mgrid[:rows, :columns].reshape(2, -1, 1) * frequencies
  first, last = (x, y) if column_first else (y, x)
  return np.concatenate(
    [f(angle) for angle in (first, last) for f in (np.sin, np.cos)], axis=1
  )


def resized_positions(
  learned: Float[Array, "h w d"], rows: int, columns: int
) -> Float[Array, "n d"]:
  """Returns learned position embeddings for a grid, [rows * columns, d].

  Other grids are interpolated bicubically between patch centres (Keys' kernel,
  a = -1/2) without antialiasing, as DINO does for small crops (there a = -3/4).
  """
  d = learned.shape[-1]
  if learned.shape[:2] != (rows, columns):
    learned = jax.image.resize(
      learned, (rows, columns, d), method="bicubic", antialias=False
    )
  return learned.reshape(-1, d)


def pooled(
  x: Float[Array, "bn d"], tokens: int, valid: Bool[Array, "b n"] | None = None
) -> Float[Array, "b d"]:
  """Returns the mean over the valid tokens of each image."""
  x = x.reshape(-1, tokens, x.shape[-1])
  if valid is None:
    return x.mean(axis=1)
  return x.mean(axis=1, where=valid[..., None])


def standardized(x: Float[Array, "b d"], epsilon: float) -> Float[Array, "b d"]:
  """Returns rows of zero mean and unit variance, at least in float32."""
  x = x.astype(jnp.promote_types(x.dtype, jnp.float32))
  x = x - x.mean(axis=1, keepdims=True)
  return x / jnp.sqrt((x**2).mean(axis=1, keepdims=True) + epsilon)


def attention(
  q: Float[Array, "b n k e"],
  k: Float[Array, "b n k e"],
  v: Float[Array, "b n k e"],
  valid: Bool[Array, "b n"] | None = None,
) -> Float[Array, "b n k e"]:
  """Scaled dot-product attention with k heads of width e, to valid tokens."""
  # jax.nn.dot_product_attention would reduce float64 inputs to float32.
  wide = jnp.promote_types(q.dtype, jnp.float32)
  logits = jnp.einsum("bqke,btke->bkqt", q, k, preferred_element_type=wide)
  logits = logits / q.shape[-1] ** 0.5
  if valid is not None:
    logits = jnp.where(valid[:, None, None], logits, -jnp.inf)
  weights = jax.nn.softmax(logits).astype(v.dtype)
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
  gelu: Gelu = "tanh"
  norm_epsilon: float = 1e-6
  qkv_bias: QkvBias = "qkv"

  @nn.compact
  def __call__(
    self,
    x: Float[Array, "bn d"],
    factors: Float[Array, "2 b"] | None = None,
    valid: Bool[Array, "b n"] | None = None,
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

    norm = functools.partial(LayerNorm, self.norm_epsilon, dtype=self.dtype)
    y = norm(name="attention_norm")(x)
    bias = self.qkv_bias == "qkv"
    y = nn.Dense(3 * d, use_bias=bias, dtype=self.dtype, name="qkv")(y)
    if self.qkv_bias == "qv":
      zeros = nn.initializers.zeros
      q = self.param("q_bias", zeros, (d,), jnp.float32)
      v = self.param("v_bias", zeros, (d,), jnp.float32)
      biases = jnp.concatenate([q, jnp.zeros_like(q), v])
      y = y + biases.astype(self.dtype)[None]
    y = y.reshape(-1, self.tokens, 3, self.num_heads, d // self.num_heads)
    y = attention(y[:, :, 0], y[:, :, 1], y[:, :, 2], valid).reshape(-1, d)
    x = x + weighted(last(name="attention_out")(y), 0, "attention")

    y = norm(name="mlp_norm")(x)
    y = nn.Dense(self.mlp_dim, dtype=self.dtype, name="mlp_in")(y)
    y = nn.gelu(y, approximate=self.gelu == "tanh")
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
  def __call__(
    self, x: Float[Array, "bn w"], valid: Bool[Array, "b n"] | None = None
  ) -> Float[Array, "b d"]:
    y = x
    for i in range(2):
      y = nn.Dense(_EXPANSION_HIDDEN_DIM, dtype=self.dtype, name=f"dense_{i}")(
        y
      )
      y = nn.gelu(LayerNorm(dtype=self.dtype, name=f"norm_{i}")(y))
    # The last layer is linear and commutes with the mean.
    x, y = (pooled(z, self.tokens, valid) for z in (x, y))
    y = nn.Dense(self.dim, dtype=self.dtype, name="out")(y)
    return y + jnp.tile(x, self.dim // x.shape[-1])
