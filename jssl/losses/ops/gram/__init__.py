"""Squared norms of products of features, without a [d, d] array."""

from jssl.losses.ops.gram.api import inner
from jssl.losses.ops.gram.reference import Factor, Pair

__all__ = ["Factor", "Pair", "inner"]
