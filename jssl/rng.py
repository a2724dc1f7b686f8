"""Named streams of random keys.

All keys derive from one root key by the name of their use and the step; no key
is used twice. Keys per image fold in the row in the global batch, so random
numbers do not depend on the number of hosts or devices.
"""

import zlib

import jax
import jax.numpy as jnp

from jssl.typing import Key, Keys, Seed, Step, check_value


def root(seed: int | jax.Array) -> Key:
  """Returns a root key: threefry, whatever `jax_default_prng_impl` says.

  Other implementations draw other numbers for an image in another batch.

  Raises:
    ValueError: if a seed that is not traced is outside of [0, 2**32).
  """
  if not isinstance(seed, jax.core.Tracer):
    check_value("seed", seed, Seed)
  return jax.random.key(seed, impl="threefry2x32")


def stream(root: Key, name: str, step: Step = 0) -> Key:
  """Returns the key of a stream at a step.

  Args:
    root: root key of the run.
    name: name of the stream, whose CRC-32 is folded in.
    step: non-negative step, traced or static.
  """
  return jax.random.fold_in(
    jax.random.fold_in(root, zlib.crc32(name.encode())), step
  )


def per_row(key: Key, rows: int) -> Keys:
  """Returns a key per row of the global batch, shape [rows]."""
  return jax.vmap(jax.random.fold_in, (None, 0))(key, jnp.arange(rows))
