"""Softmax attention of rows to prototypes: log-sum-exp, and mean of values."""

from jssl.losses.ops.prototypes.api import attend

__all__ = ["attend"]
