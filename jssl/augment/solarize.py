"""Solarisation: inverts bright pixels."""

import jax
import jax.numpy as jnp

from jssl.typing import Images, Keys, Scalar


def random_solarize(
  keys: Keys, images: Images, *, probability: Scalar | float, threshold: float
) -> Images:
  """Replaces x by 1 - x where x >= `threshold`, with `probability`."""
  return jax.vmap(
    lambda key, image: jnp.where(
      jax.random.bernoulli(key, probability) & (image >= threshold),
      1 - image,
      image,
    )
  )(keys, images)
