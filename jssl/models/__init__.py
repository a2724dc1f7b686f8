"""Backbones and heads: `(init, apply)` is all that the rest sees."""
