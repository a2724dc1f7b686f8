"""Trained backbones for use in other programs."""

from jssl.weights.workdir import load_backbone

__all__ = ["load_backbone"]
