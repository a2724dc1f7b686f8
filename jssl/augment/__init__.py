"""Augmentation on device: `(keys, images) -> images`, batched, under jit.

Images are [b, h, w, c] in [0, 1]; each has its own key, and what happens to it
depends on nothing else.
"""

from jssl.augment.support import includes
from jssl.augment.views import Augment, center_view, views

__all__ = [
  "Augment",
  "center_view",
  "includes",
  "views",
]
