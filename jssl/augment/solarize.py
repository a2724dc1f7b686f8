"""Solarisation: inverts bright pixels."""

import jax
import jax.numpy as jnp

from jssl.typing import Images, Keys, Scalar


def random_solarize(
  keys: Keys, images: Images, *, probability: Scalar | float, threshold: float
) -> Images:
  """Replaces x by 1 - x where x >= `threshold`, with `probability`.

  Args:
    keys: one key per image, [b].
    images: [b, h, w, c] in [0, 1].
    probability: probability of changing an image.
    threshold: smallest pixel value to invert.
  """
  return jax.vmap(
    lambda key, image: jnp.where(
      jax.random.bernoulli(key, probability) & (image >= threshold),
      1 - image,
      image,
    )
  )(keys, images)
