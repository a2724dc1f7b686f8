"""Exact self-attention of vision transformers."""

from jssl.losses.ops.attention.api import attention
from jssl.losses.ops.attention.reference import attention_weights, split_heads

__all__ = ["attention", "attention_weights", "split_heads"]
