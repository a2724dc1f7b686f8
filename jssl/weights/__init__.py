"""Trained backbones for use in other programs."""

from jssl.weights.workdir import Encoder, load_backbone

__all__ = ["Encoder", "load_backbone"]
