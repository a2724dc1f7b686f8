"""Attention as written in papers: the whole matrix of weights."""

import jax
import jax.numpy as jnp
from jaxtyping import Array, Bool, Float


def split_heads(
  qkv: Float[Array, "bn _w"], tokens: int, num_heads: int
) -> Float[Array, "b n 3 k e"]:
  """Returns queries, keys and values of each image and head."""
  return qkv.reshape(-1, tokens, 3, num_heads, qkv.shape[1] // (3 * num_heads))


def attention_weights(
  q: Float[Array, "b m k e"],
  k: Float[Array, "b n k e"],
  valid: Bool[Array, "b n"] | None = None,
) -> Float[Array, "b k m n"]:
  """Returns the weight of each token in each query's sum, by head."""
  # jax.nn.dot_product_attention would reduce float64 inputs to float32.
  wide = jnp.promote_types(q.dtype, jnp.float32)
  logits = jnp.einsum("bqke,btke->bkqt", q, k, preferred_element_type=wide)
  logits = logits / q.shape[-1] ** 0.5
  if valid is not None:
    logits = jnp.where(valid[:, None, None], logits, -jnp.inf)
  return jax.nn.softmax(logits)


def attention(
  qkv: Float[Array, "bn _w"],
  valid: Bool[Array, "b n"] | None,
  *,
  tokens: int,
  num_heads: int,
) -> Float[Array, "bn d"]:
  """Computes `api.attention`."""
  heads = split_heads(qkv, tokens, num_heads)
  q, k, v = heads[:, :, 0], heads[:, :, 1], heads[:, :, 2]
  weights = attention_weights(q, k, valid).astype(v.dtype)
  out = jnp.einsum("bkqt,btke->bqke", weights, v)
  return out.reshape(-1, num_heads * out.shape[-1])
