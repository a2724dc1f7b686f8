"""Characteristic function, knot by knot in tiles of rows.

One cosine and one sine per element give those of all its multiples:
cos (t + 1) a = cos t a cos a - sin t a sin a, and the same for the sine. Each
knot loses about one unit in the last place.
"""

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float

from jssl.losses.ops import tiles
from jssl.losses.ops.characteristic.reference import Waves


def _next(wave: Waves, base: Waves) -> Waves:
  cosine = wave.cosine * base.cosine - wave.sine * base.sine
  sine = wave.sine * base.cosine + wave.cosine * base.sine
  return Waves(cosine, sine)


def _start(p: Float[Array, "n s"], step: float) -> tuple[Waves, Waves]:
  """Returns the waves at knot 1 and at knot 0."""
  return (
    Waves(jnp.cos(step * p), jnp.sin(step * p)),
    Waves(jnp.ones_like(p), jnp.zeros_like(p)),
  )


def forward(
  p: Float[Array, "n s"],
  mask: Float[Array, "n"],
  *,
  knots: int,
  step: float,
  tile: int,
) -> Waves:
  """Returns the sums over the rows with mask 1 (padding has 0)."""
  empty = jnp.zeros_like(p, shape=(knots, p.shape[1]))

  def body(i: Array, _: Array, total: Waves) -> Waves:
    part, part_mask = tiles.read((p, mask), i, tile)
    base, first = _start(part, step)

    def knot(t: Array, state: tuple[Waves, Waves]) -> tuple[Waves, Waves]:
      wave, total = state
      valid = part_mask[:, None]
      cosine = total.cosine.at[t].add(jnp.sum(wave.cosine * valid, 0))
      sine = total.sine.at[t].add(jnp.sum(wave.sine * valid, 0))
      return _next(wave, base), Waves(cosine, sine)

    return jax.lax.fori_loop(0, knots, knot, (first, total))[1]

  return tiles.loop(body, (len(p), 1), (tile, 1), Waves(empty, empty))


def backward(
  p: Float[Array, "n s"], g: Waves, *, step: float, tile: int
) -> Float[Array, "n s"]:
  """Returns the gradient: sum_t t step (g_S cos t a - g_C sin t a)."""

  def of_tile(p: Float[Array, "r s"]) -> Float[Array, "r s"]:
    base, first = _start(p, step)

    def knot(t: Array, state: tuple[Waves, Array]) -> tuple[Waves, Array]:
      wave, total = state
      due = g.sine[t][None] * wave.cosine - g.cosine[t][None] * wave.sine
      return _next(wave, base), total + t * step * due

    knots = len(g.cosine)
    return jax.lax.fori_loop(0, knots, knot, (first, jnp.zeros_like(p)))[1]

  rows = p.reshape(-1, tile, p.shape[1])
  return jax.lax.map(of_tile, rows).reshape(p.shape)
