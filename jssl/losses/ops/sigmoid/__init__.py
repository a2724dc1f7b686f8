"""The sum of sigmoid losses over all pairs of rows."""

from jssl.losses.ops.sigmoid.api import total

__all__ = ["total"]
