"""Fused operations, each with a reference, a tiled, and a mesh version."""
