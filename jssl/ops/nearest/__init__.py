"""Each row's most similar other row."""

from jssl.ops.nearest.api import neighbours

__all__ = ["neighbours"]
