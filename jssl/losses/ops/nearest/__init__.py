"""Each row's most similar other row."""

from jssl.losses.ops.nearest.api import neighbours

__all__ = ["neighbours"]
