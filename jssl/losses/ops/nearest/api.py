"""Chooses how neighbours are found, and derives what they are used for.

Which row is nearest is constant; its features are not, and what flows back to
them goes to the device that has them.
"""

import dataclasses

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float, Int

from jssl.losses.ops import autodiff, tiles
from jssl.losses.ops.autodiff import Implementation, Plan
from jssl.losses.ops.layout import Layout
from jssl.losses.ops.matmul import wide
from jssl.losses.ops.nearest import reference, ring, tiled
from jssl.losses.ops.similarity.api import side
from jssl.losses.ops.similarity.reference import FILLING, Side

_TILE = 1024


@dataclasses.dataclass(frozen=True)
class _Plan(Plan):
  tile: int


Where = tuple[Int[Array, "n"], Int[Array, "n"]]
"""Positions of the rows, and of those that are taken."""


def _index(
  plan: _Plan, rows: Side, positions: Int[Array, "n"]
) -> Int[Array, "n"]:
  def local(rows: Side, positions: Int[Array, "n"]) -> Int[Array, "n"]:
    best = tiled.none_yet(rows)
    if plan.layout.axes:
      return ring.add(
        plan.layout, rows, positions, best, tile=plan.tile
      ).position
    return tiled.add(rows, rows, positions, best, tile=plan.tile).position

  return plan.layout.split(local, (True, True), True)(rows, positions)


def _forward(plan: _Plan, x: Float[Array, "n d"], where: Where) -> Array:
  def local(x: Array, positions: Array, index: Array) -> Array:
    taken = jnp.zeros_like(x)
    if plan.layout.axes:
      return ring.take(plan.layout, x, positions, index, taken, tile=plan.tile)
    return tiled.take(x, positions, index, taken)

  return plan.layout.split(local, (True, True, True), True)(x, *where)


def _backward(
  plan: _Plan,
  x: Float[Array, "n d"],
  where: Where,
  out: Float[Array, "n d"],
  g: Float[Array, "n d"],
) -> Float[Array, "n d"]:
  del out

  def local(g: Array, positions: Array, index: Array) -> Array:
    into = jnp.zeros_like(g, wide(g.dtype))
    if plan.layout.axes:
      return ring.give(plan.layout, into, positions, index, g, tile=plan.tile)
    return tiled.give(into, positions, index, g)

  into = plan.layout.split(local, (True, True, True), True)(g, *where)
  return into.astype(x.dtype)


def _reference(plan: _Plan, x: Float[Array, "n d"], where: Where) -> Array:
  del plan
  return reference.take(x, where[1])


_take = autodiff.recomputing(_reference, _forward, _backward)


def neighbours(
  layout: Layout,
  x: Float[Array, "n d"],
  scale: Float[Array, "n"],
  *,
  implementation: Implementation | None = None,
) -> Float[Array, "n d"]:
  """Returns each row's most similar other row, of all devices.

  Args:
    layout: how the rows lie on devices.
    x: features; what flows back goes through them alone.
    scale: of the similarities.
    implementation: see `fused.choose`.

  Raises:
    ValueError: there is no such implementation, or not here.
  """
  chosen = autodiff.choose(
    implementation, layout, "nearest", no_kernel="it has none yet"
  )
  n = len(x)
  constant = jax.lax.stop_gradient((x, scale))
  rows = side(*constant, ids=layout.positions(n))
  if chosen == "reference":
    return reference.take(x, reference.index(rows))
  tile = tiles.fitting(-(-n // layout.shards), _TILE)
  plan = _Plan(layout, chosen, implementation is not None, tile)
  rows, x = tiles.filled(
    (rows, x), (*FILLING, 0), tile=tile, shards=layout.shards
  )
  # In a caller's `shard_map` every device fills up its own rows.
  positions = layout.positions(len(x))
  index = _index(plan, rows, positions)
  return _take(plan, x, (positions, index))[:n]
