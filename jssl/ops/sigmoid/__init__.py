"""The sum of sigmoid losses over all pairs of rows."""

from jssl.ops.sigmoid.api import total

__all__ = ["total"]
