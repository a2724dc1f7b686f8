"""Augmentation on the accelerator: random views of a batch of images.

Images are uint8, uint16 or floats in [0, 1], [b, h, w, c], of any number of
channels; views are floats in [0, 1]. A view depends only
on its image and the key of that image, so results do not change with batch
size, device count or mesh.

    >>> augment = Augment(crop_size_px=28, crop_min_area=0.2)
    >>> images = np.zeros((8, 32, 32, 3), np.uint8)
    >>> keys = jax.random.split(jax.random.key(0), 8)
    >>> (large,) = views(augment, keys, images, num_views=2)
"""

from jssl.augment.corruptions import CORRUPTIONS, corrupt
from jssl.augment.mix import mix
from jssl.augment.support import includes
from jssl.augment.views import Augment, center_view, views

__all__ = [
  "CORRUPTIONS",
  "Augment",
  "center_view",
  "corrupt",
  "includes",
  "mix",
  "views",
]
