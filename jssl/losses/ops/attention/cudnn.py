"""Attention by cuDNN, through `jax.nn`, which defines its derivative."""

from typing import Any

import jax
import jax.numpy as jnp
from jaxtyping import Array, Bool, Float

from jssl.losses.ops.attention.reference import split_heads


def unsupported(dtype: Any, head_dim: int, device_kind: str) -> str | None:
  """Returns the reason why cuDNN cannot run, None if it can."""
  if dtype not in (jnp.bfloat16, jnp.float16):
    name = jnp.dtype(dtype).name
    return f"cuDNN takes bfloat16 and float16, but the tokens are {name}"
  if head_dim % 8 or head_dim > 128:
    return f"heads have {head_dim} dimensions, not a multiple of 8 up to 128"
  # Other GPUs, and those of NVIDIA before Ampere, have other names.
  if not device_kind.startswith("NVIDIA"):
    return f"cuDNN runs on NVIDIA GPUs, not on {device_kind!r}"
  return None


def attention(
  qkv: Float[Array, "bn _w"],
  valid: Bool[Array, "b n"] | None,
  *,
  tokens: int,
  num_heads: int,
) -> Float[Array, "bn d"]:
  """Computes `api.attention`; has no second derivatives."""
  x = split_heads(qkv, tokens, num_heads)
  mask = None if valid is None else valid[:, None, None]
  lengths = None
  if tokens % 2:
    # `jax.nn` passes an empty array for an absent bias, so that its check of
    # biases rejects the gradient of an odd number of tokens.
    x = jnp.pad(x, ((0, 0), (0, 1), *[(0, 0)] * 3))
    if mask is None:
      lengths = jnp.full(x.shape[:1], tokens, jnp.int32)
    else:
      mask = jnp.pad(mask, ((0, 0), (0, 0), (0, 0), (0, 1)))
  if mask is not None:
    shape = (x.shape[0], 1, x.shape[1], x.shape[1])
    mask = jnp.broadcast_to(mask, shape)
  out = jax.nn.dot_product_attention(
    *(x[:, :, 0], x[:, :, 1], x[:, :, 2]),
    mask=mask,
    query_seq_lengths=lengths,
    key_value_seq_lengths=lengths,
    implementation="cudnn",
  )
  return out[:, :tokens].reshape(-1, qkv.shape[1] // 3)
