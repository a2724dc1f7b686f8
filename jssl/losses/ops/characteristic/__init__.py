"""Sums of cosines and sines at equally spaced frequencies."""

from jssl.losses.ops.characteristic.api import sums

__all__ = ["sums"]
