"""Chooses how sigmoid losses are summed over pairs, and derives the sum.

The sum is additive in pairs, so that value and gradients come from one pass.
"""

import dataclasses

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float, Int

from jssl.losses.ops import autodiff, tiles
from jssl.losses.ops.autodiff import Implementation, Plan
from jssl.losses.ops.layout import Layout
from jssl.losses.ops.sigmoid import reference, ring, tiled
from jssl.losses.ops.sigmoid.reference import Floats, Ids
from jssl.losses.ops.similarity.reference import FILL
from jssl.typing import PyTree, Scalar

_TILE = (1024, 1024)


@dataclasses.dataclass(frozen=True)
class _Plan(Plan):
  tile: tuple[int, int]


def _run(
  plan: _Plan, floats: Floats, ids: Ids, *, gradients: bool
) -> tuple[Scalar, Floats | None]:
  layout = plan.layout

  def everywhere(x: Array) -> Array:
    return jax.lax.psum(x, layout.axes) if layout.axes else x

  def local(
    x: Array, y: Array, scale: Scalar, bias: Scalar, x_ids: Array, y_ids: Array
  ) -> tuple[Scalar, PyTree]:
    floats, ids = Floats(x, y, scale, bias), Ids(x_ids, y_ids)
    sums = tiled.nothing(floats, gradients=gradients)
    into_y = jnp.zeros_like(y, sums.value.dtype) if gradients else None
    if layout.axes:
      sums, into_y = ring.add(layout, floats, ids, sums, into_y, tile=plan.tile)
    else:
      sums, into_y = tiled.add(floats, ids, sums, into_y, tile=plan.tile)
    value = everywhere(sums.value.sum())
    if sums.flow is None or into_y is None:
      return value, None
    into_x, *shared = sums.flow
    shared = [part.sum() for part in shared]
    if not layout.manual:
      shared = [everywhere(part) for part in shared]
    return value, (into_x.astype(x.dtype), into_y.astype(y.dtype), *shared)

  specs = (True, True, False, False)
  value, by_floats = layout.split(
    local, (*specs, True, True), (False, specs if gradients else None)
  )(*floats, *ids)
  return value, None if by_floats is None else Floats(*by_floats)


def _value(plan: _Plan, floats: Floats, ids: Ids) -> Scalar:
  return _run(plan, floats, ids, gradients=False)[0]


def _value_and_gradients(
  plan: _Plan, floats: Floats, ids: Ids
) -> tuple[Scalar, Floats | None]:
  return _run(plan, floats, ids, gradients=True)


def _reference(plan: _Plan, floats: Floats, ids: Ids) -> Scalar:
  del plan
  return reference.total(floats, ids)


_total = autodiff.at_once(_reference, _value, _value_and_gradients)


def total(
  layout: Layout,
  x: Float[Array, "n d"],
  y: Float[Array, "m d"],
  scale: Scalar,
  bias: Scalar,
  *,
  ids: tuple[Int[Array, "n"], Int[Array, "m"]],
  implementation: Implementation | None = None,
) -> Scalar:
  """Returns the sum of sigmoid losses over all pairs, of all devices.

  Args:
    layout: how rows and columns lie on devices.
    x: rows.
    y: columns, of the same dtype.
    scale: of their products, at least float32.
    bias: added to them, the same dtype.
    ids: of rows and columns, not negative; equal ones are positive pairs.
    implementation: see `fused.choose`.

  Raises:
    ValueError: there is no such implementation, or not here.
  """
  chosen = autodiff.choose(
    implementation,
    layout,
    "sigmoid",
    no_kernel="it has none yet",
  )
  floats, which = Floats(x, y, scale, bias), Ids(*ids)
  tile = (
    tiles.fitting(-(-len(x) // layout.shards), _TILE[0]),
    tiles.fitting(-(-len(y) // layout.shards), _TILE[1]),
  )
  plan = _Plan(layout, chosen, implementation is not None, tile)
  if chosen == "reference":
    return _reference(plan, floats, which)
  filled_x, x_ids = tiles.filled(
    (x, which.x), (0, FILL), tile=tile[0], shards=layout.shards
  )
  filled_y, y_ids = tiles.filled(
    (y, which.y), (0, FILL), tile=tile[1], shards=layout.shards
  )
  floats = Floats(filled_x, filled_y, scale, bias)
  return _total(plan, floats, Ids(x_ids, y_ids))
