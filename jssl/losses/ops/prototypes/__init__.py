"""The softmax over prototypes: its log-sum-exp, and means under it."""

from jssl.losses.ops.prototypes.api import attend

__all__ = ["attend"]
