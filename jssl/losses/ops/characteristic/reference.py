"""Characteristic function: the formula, with an array of all knots.

    C_ts = sum_n cos(t step p_ns)      S_ts = sum_n sin(t step p_ns)

for t = 0, 1, ...: n times the empirical characteristic function of each column
of p.
"""

from typing import NamedTuple

import jax.numpy as jnp
from jaxtyping import Array, Float


class Waves(NamedTuple):
  """Cosines and sines."""

  cosine: Float[Array, "t s"]
  sine: Float[Array, "t s"]


def sums(p: Float[Array, "n s"], *, knots: int, step: float) -> Waves:
  """Returns the sums over rows."""
  angle = (jnp.arange(knots) * step)[:, None, None] * p[None]
  return Waves(jnp.cos(angle).sum(1), jnp.sin(angle).sum(1))
