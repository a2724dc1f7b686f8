"""Inner products of cross-moments, without a [d, d] or [n, n] array."""

from jssl.losses.ops.gram.api import inner
from jssl.losses.ops.gram.reference import Factor, Pair

__all__ = ["Factor", "Pair", "inner"]
