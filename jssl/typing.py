"""Array types and the names of axes.

Annotations, einsums and docstrings use the same letters:

    b  images of a batch          v  views of an image
    h w c  height, width, channel n  tokens, or rows of a feature matrix
    d  feature dimension          k  classes, prototypes
    q  queue                      m  members of a vmapped sweep
"""

from collections.abc import Mapping
from typing import Any

import jax
import numpy as np
from jaxtyping import Array, Float, Int, UInt8

Key = jax.Array
"""A typed key of `jax.random.key`; `Keys` has one per image."""
Keys = jax.Array

Scalar = Float[Array, ""]
Step = Int[Array, ""] | int

Images = Float[Array, "b h w c"]
"""Pixels in [0, 1]."""
Pixels = UInt8[Array | np.ndarray, "b h w c"]
"""Stored pixels, 0 to 255."""
Views = Float[Array, "_v b _h _w c"]
"""Views [v, b, h, w, c] of one size; v, h and w differ within a tuple."""
Labels = Int[Array, "b"]

PyTree = Any
Variables = Mapping[str, Any]
"""A Linen variable dict: `params` and other collections of the model."""
Batch = Mapping[str, Any]
"""`image`: uint8 [b, h, w, c]; `label`: int32 [b], -1 where there is none."""
Metrics = dict[str, Scalar]
