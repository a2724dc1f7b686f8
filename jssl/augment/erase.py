"""Random erasing (Zhong et al., AAAI 2020): noise in a box of a view.

Boxes are those of timm, which DeiT and MAE use: 2% to a third of the view, with
a ratio of sides between 0.3 and 1 / 0.3.
"""

from functools import partial

import jax
import jax.numpy as jnp

from jssl.augment import crop
from jssl.typing import Images, Keys

_AREAS = (0.02, 1 / 3)
_RATIOS = (0.3, 1 / 0.3)


def random_erase(keys: Keys, images: Images, *, probability: float) -> Images:
  """Fills a box of each image with uniform noise, with `probability`.

  The noise is that of the paper, of each pixel and channel, opacity included;
  timm's is Gaussian, after standardisation.
  """
  _, height, width, channels = images.shape
  random_box = partial(
    crop.random_box, height=height, width=width, areas=_AREAS, ratios=_RATIOS
  )
  chance_keys, box_keys, noise_keys = jax.vmap(
    partial(jax.random.split, num=3), out_axes=1
  )(keys)
  chance = jax.vmap(lambda key: jax.random.bernoulli(key, probability))
  erased = crop.inside(jax.vmap(random_box)(box_keys), height, width)
  erased &= chance(chance_keys)[:, None, None]
  shape = (height, width, channels)
  noise = jax.vmap(lambda key: jax.random.uniform(key, shape))(noise_keys)
  return jnp.where(erased[..., None], noise, images)
