"""Layers of a vision transformer.

Blocks take flat tokens [b * n, d]: on CPU, matrix products are twice as fast
with one leading dimension as with two. On other backends the speed is the same.
"""

import functools
from collections.abc import Callable
from typing import Any, Literal

import flax.linen as nn
import jax
import jax.numpy as jnp
from jaxtyping import Array, Bool, Float

from jssl import rng
from jssl.losses.ops.attention import (
  attention,
  attention_weights,
  split_heads,
)
from jssl.mesh import rows_on_all
from jssl.models.vit_positions import rotated
from jssl.typing import Keys

Mlp = Literal["gelu", "swiglu"]
Gelu = Literal["tanh", "erf"]
QkvBias = Literal["qkv", "qv", "none"]
Attention = Literal["auto", "reference"]

# Collection of attention weights, for figures.
ATTENTION = "attention"

_EXPANSION_HIDDEN_DIM = 512

# The fast variance, E[x²] - E[x]², cancels for tokens of a large mean.
LayerNorm = functools.partial(nn.LayerNorm, use_fast_variance=False)


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


def drop_path_factors(
  keys: Keys, depth: int, rate: float, *, uniform: bool = False
) -> Float[Array, "depth 2 b"]:
  """Draws the stochastic-depth factors of both branches of every block.

  A branch of block i is dropped with probability p_i and otherwise scaled by
  1 / (1 - p_i); p_i grows linearly from 0 in the first block to `rate` in the
  last, or is `rate` if `uniform`. The draw for an image depends only on its
  key, the block and the branch.
  """
  first = rate if uniform else 0
  keep = 1 - jnp.linspace(first, rate, depth, dtype=jnp.float32)

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
  `drop_path_factors` and the learned scale of LayerScale. `rotations` turn
  queries and keys. `tokens` is the number of tokens per image; `ViT` documents
  the other attributes. If the collection `ATTENTION` is mutable, it holds the
  attention of the first token.
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
  mlp: Mlp = "gelu"
  attention: Attention = "auto"

  @nn.compact
  def __call__(
    self,
    x: Float[Array, "bn d"],
    factors: Float[Array, "2 b"] | None = None,
    valid: Bool[Array, "b n"] | None = None,
    rotations: Float[Array, "2 _b n e"] | None = None,
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
    heads = split_heads(y, self.tokens, self.num_heads)
    if rotations is not None:
      queries_keys = [rotated(heads[:, :, i], rotations) for i in (0, 1)]
      heads = jnp.stack([*queries_keys, heads[:, :, 2]], axis=2)
      y = heads.reshape(y.shape)
    if self.is_mutable_collection(ATTENTION) and not self.is_initializing():
      q, k = heads[:, :1, 0], heads[:, :, 1]
      self.sow(ATTENTION, "first", attention_weights(q, k, valid))
    y = attention(
      y,
      tokens=self.tokens,
      num_heads=self.num_heads,
      valid=valid,
      implementation=None if self.attention == "auto" else self.attention,
    )
    x = x + weighted(last(name="attention_out")(y), 0, "attention")

    y = norm(name="mlp_norm")(x)
    gated = self.mlp == "swiglu"
    hidden = (2 if gated else 1) * self.mlp_dim
    y = nn.Dense(hidden, dtype=self.dtype, name="mlp_in")(y)
    if gated:
      gate, value = jnp.split(y, 2, axis=-1)
      y = nn.silu(gate) * value
    else:
      y = nn.gelu(y, approximate=self.gelu == "tanh")
    return x + weighted(last(name="mlp_out")(y), 1, "mlp")


def run_blocks(
  block: Callable[..., nn.Module],
  depth: int,
  x: Float[Array, "bn d"],
  factors: Float[Array, "depth 2 b"] | None,
  *shared: Array | None,
  scan_layers: bool,
  feature: Callable[[Array], Array | None],
) -> tuple[Float[Array, "bn d"], list[Any]]:
  """Runs blocks within the `__call__` of a module.

  Args:
    block: makes a block from its name.
    depth: number of blocks.
    x: tokens.
    factors: second argument of the blocks.
    *shared: further arguments, the same for all blocks.
    scan_layers: True to compile one block and scan over it.
    feature: function of the output of each block.

  Returns:
    The last output, and the features of all blocks.
  """
  if not scan_layers:
    features = []
    for i in range(depth):
      own = None if factors is None else factors[i]
      x = block(name=f"block_{i}")(x, own, *shared)
      features.append(feature(x))
    return x, features

  def body(block: nn.Module, x: Array, *rest: Any) -> tuple[Array, Any]:
    x = block(x, *rest)
    return x, feature(x)

  scan = nn.scan(
    body,
    in_axes=(0, *[nn.broadcast] * len(shared)),
    variable_axes={"params": 0, ATTENTION: 0},
    split_rngs={"params": True},
    length=depth,
  )
  x, features = scan(block(name="blocks"), x, factors, *shared)
  return x, [] if features is None else list(features)


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
