"""Named streams of random keys.

One root key is made from the seed; every use of randomness has a name and a
step, and no key is used twice. Per-image keys fold in the row of the image in
the global batch, so neither the number of hosts nor that of devices shows.
"""

import zlib

import jax
import jax.numpy as jnp

from jssl.typing import Key, Keys, Step


def stream(root: Key, name: str, step: Step = 0) -> Key:
  """Returns the key of stream `name` at `step`.

  Args:
    root: the key made from the seed.
    name: what the randomness is for; a checksum of it is folded in.
    step: non-negative, traced or not.
  """
  return jax.random.fold_in(
    jax.random.fold_in(root, zlib.crc32(name.encode())), step
  )


def per_row(key: Key, rows: int) -> Keys:
  """Returns one key for each of `rows` rows of the global batch, shape [b]."""
  return jax.vmap(jax.random.fold_in, (None, 0))(key, jnp.arange(rows))
