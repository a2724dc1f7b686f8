"""The same, knot by knot and in tiles of rows.

One cosine and one sine of each element give those of all its multiples:
cos (t + 1) a = cos t a cos a - sin t a sin a, and the same for the sine. An
angle-addition a knot loses about a unit in the last place.
"""

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float

from jssl.ops import tiles
from jssl.ops.characteristic.reference import Waves


def _next(wave: Waves, base: Waves) -> Waves:
  cosine = wave.cosine * base.cosine - wave.sine * base.sine
  sine = wave.sine * base.cosine + wave.cosine * base.sine
  return Waves(cosine, sine)


def _base(p: Float[Array, "n s"], step: float) -> tuple[Waves, Waves]:
  """Returns the waves at knot 1, and those at knot 0."""
  return (
    Waves(jnp.cos(step * p), jnp.sin(step * p)),
    Waves(jnp.ones_like(p), jnp.zeros_like(p)),
  )


def add(
  p: Float[Array, "n s"],
  real: Float[Array, "n"],
  *,
  knots: int,
  step: float,
  tile: int,
) -> Waves:
  """Returns the sums over the rows that are real (1, else 0)."""
  empty = jnp.zeros_like(p, shape=(knots, p.shape[1]))

  def body(i: Array, _: Array, total: Waves) -> Waves:
    part, mask = tiles.at((p, real), i, tile)
    base, wave = _base(part, step)
    for knot in range(knots):
      cosine = jnp.sum(wave.cosine * mask[:, None], axis=0)
      sine = jnp.sum(wave.sine * mask[:, None], axis=0)
      total = Waves(
        total.cosine.at[knot].add(cosine), total.sine.at[knot].add(sine)
      )
      wave = _next(wave, base)
    return total

  return tiles.fold(body, len(p) // tile, 1, Waves(empty, empty))


def back(
  p: Float[Array, "n s"], g: Waves, *, step: float, tile: int
) -> Float[Array, "n s"]:
  """Returns what flows back: sum_t t step (g_S cos t a - g_C sin t a)."""

  def part(p: Float[Array, "r s"]) -> Float[Array, "r s"]:
    base, wave = _base(p, step)
    flow = jnp.zeros_like(p)
    for knot in range(len(g.cosine)):
      by_knot = g.sine[knot][None] * wave.cosine
      by_knot -= g.cosine[knot][None] * wave.sine
      flow = flow + knot * step * by_knot
      wave = _next(wave, base)
    return flow

  rows = p.reshape(-1, tile, p.shape[1])
  return jax.lax.map(part, rows).reshape(p.shape)
