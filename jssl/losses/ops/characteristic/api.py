"""Chooses how the characteristic function is summed, and derives it."""

import dataclasses

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float

from jssl.losses.ops import autodiff, tiles
from jssl.losses.ops.autodiff import Implementation, Plan
from jssl.losses.ops.characteristic import reference, tiled
from jssl.losses.ops.characteristic.reference import Waves
from jssl.losses.ops.layout import Layout

_TILE = 256


@dataclasses.dataclass(frozen=True)
class _Plan(Plan):
  knots: int
  step: float
  tile: int


def _forward(
  plan: _Plan, p: Float[Array, "n s"], real: Float[Array, "n"]
) -> Waves:
  def local(p: Array, real: Array) -> Waves:
    waves = tiled.add(p, real, knots=plan.knots, step=plan.step, tile=plan.tile)
    if plan.layout.axes:
      return jax.lax.psum(waves, plan.layout.axes)
    return waves

  return plan.layout.split(local, (True, True), False)(p, real)


def _backward(
  plan: _Plan,
  p: Float[Array, "n s"],
  real: Float[Array, "n"],
  out: Waves,
  g: Waves,
) -> Float[Array, "n s"]:
  del real, out  # What only fills up is cut off by the caller.

  def local(p: Array, g: Waves) -> Array:
    return tiled.back(p, g, step=plan.step, tile=plan.tile)

  g = jax.tree.map(plan.layout.of_sum, g)
  return plan.layout.split(local, (True, False), True)(p, g)


def _reference(
  plan: _Plan, p: Float[Array, "n s"], real: Float[Array, "n"]
) -> Waves:
  waves = reference.sums(p * real[:, None], knots=plan.knots, step=plan.step)
  return waves._replace(cosine=waves.cosine - jnp.sum(1 - real))


_sums = autodiff.recomputing(_reference, _forward, _backward)


def sums(
  layout: Layout,
  p: Float[Array, "n s"],
  *,
  knots: int,
  step: float,
  implementation: Implementation | None = None,
) -> Waves:
  """Returns sums of cosines and sines over the rows of all devices.

  Args:
    layout: how the rows lie on devices.
    p: at least float32.
    knots: multiples of `step`, from 0 on.
    step: between two knots.
    implementation: see `fused.choose`.

  Raises:
    ValueError: there is no such implementation, or not here.
  """
  chosen = autodiff.choose(
    implementation,
    layout,
    "characteristic",
    no_kernel="it has none: it is bound by no matrix product",
  )
  if chosen == "reference":
    return reference.sums(p, knots=knots, step=step)
  tile = tiles.fitting(-(-len(p) // layout.shards), _TILE)
  plan = _Plan(layout, chosen, implementation is not None, knots, step, tile)
  p, real = tiles.filled(
    (p, jnp.ones_like(p[:, 0])), (0, 0), tile=tile, shards=layout.shards
  )
  return _sums(plan, p, real)
