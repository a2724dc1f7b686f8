"""Chooses by which side an inner product of moments is summed, and derives it.

Value and gradients come from one pass over the matrices.
"""

import dataclasses

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float

from jssl.losses.ops import autodiff, tiles
from jssl.losses.ops.autodiff import Implementation, Plan
from jssl.losses.ops.gram import features, reference, ring, tiled
from jssl.losses.ops.gram.reference import Factor, Pair
from jssl.losses.ops.gram.tiled import Flow, Side
from jssl.losses.ops.layout import Layout
from jssl.losses.ops.matmul import wide
from jssl.typing import Scalar

# Of a tile of one factor, as wide as it is multiplied.
_TILE_BYTES = 4 * 2**20

Pairs = tuple[Pair, Pair | None]


@dataclasses.dataclass(frozen=True)
class _Plan(Plan):
  """What is static about a call.

  Attributes:
    by_rows: whether [n, n] matrices are smaller than [d, d] ones.
    diagonal: whether the diagonals of both moments count.
    tile: rows and columns of their tiles.
  """

  by_rows: bool
  diagonal: bool
  tile: tuple[int, int]


def _returned(pair: Pair, flow: Flow) -> Pair:
  """Returns the gradients by features, shifts and scales."""

  def back(factor: Factor, flow: Float[Array, "n d"]) -> Factor:
    x, shift, scale = factor
    if shift is None or scale is None:
      return Factor(flow.astype(x.dtype))
    scaled = flow * scale[None]
    centred = x.astype(shift.dtype) - shift[None]
    return Factor(
      scaled.astype(x.dtype), -scaled.sum(0), jnp.sum(flow * centred, axis=0)
    )

  second = None
  if pair.second is not None and flow.second is not None:
    second = back(pair.second, flow.second)
  return Pair(back(pair.first, flow.first), second)


# Which arrays of a factor are split by rows.
_ROWS = Factor(True, False, False)  # type: ignore[arg-type]


def _specs(pair: Pair | None) -> Pair | None:
  """Returns which of its arrays are split by rows."""
  if pair is None:
    return None
  return pair.map(lambda factor: _ROWS)


def _summed(layout: Layout, pair: Pair) -> Pair:
  """Adds the gradients by shifts and scales, if devices are ours."""
  if layout.mesh is None or not layout.axes:
    return pair

  def back(factor: Factor) -> Factor:
    x, *shared = factor
    return Factor(x, *jax.lax.psum(shared, layout.axes))

  return pair.map(back)


def _by_rows(
  plan: _Plan, rows: Side, columns: Side | None, *, gradients: bool
) -> tuple[Scalar, Flow | None, Flow | None]:
  def everywhere(x: Array) -> Array:
    return jax.lax.psum(x, plan.layout.axes) if plan.layout.axes else x

  into_rows = tiled.no_flow(rows) if gradients else None
  into_columns = tiled.no_flow(columns) if gradients and columns else None
  sides = rows, rows if columns is None else columns
  parts = *sides, jnp.zeros_like(rows.real), into_rows, into_columns
  if plan.layout.axes:
    sums, into_rows, into_columns = ring.add(
      plan.layout, *parts, tile=plan.tile
    )
  else:
    sums, into_rows, into_columns = tiled.add(*parts, tile=plan.tile)
  value = everywhere(sums.sum())
  if plan.diagonal:
    return value, into_rows, into_columns

  def of(side: Side) -> Float[Array, "d"]:
    first, second = (x.astype(wide(x.dtype)) for x in side.rows())
    return everywhere(jnp.sum(first * second, axis=0))

  of_rows = of(rows)
  of_columns = of_rows if columns is None else of(columns)
  less, into_rows, into_columns = tiled.less_diagonal(
    *sides, (of_rows, of_columns), into_rows, into_columns
  )
  return value - less, into_rows, into_columns


def _run(
  plan: _Plan, pairs: Pairs, real: tuple[Array, Array], *, gradients: bool
) -> tuple[Scalar, Pairs | None]:
  layout = plan.layout

  def local(
    rows: Pair, columns: Pair | None, real: tuple[Array, Array]
  ) -> tuple[Scalar, Pairs | None]:
    side = Side(rows, real[0])
    other = None if columns is None else Side(columns, real[1])
    if plan.by_rows:
      value, into_rows, into_columns = _by_rows(
        plan, side, other, gradients=gradients
      )
    else:
      value, into_rows, into_columns = features.add(
        layout, side, other, diagonal=plan.diagonal, gradients=gradients
      )
    if into_rows is None:
      return value, None
    into = _summed(layout, _returned(rows, into_rows)), None
    if columns is None or into_columns is None:
      return value, into
    return value, (into[0], _summed(layout, _returned(columns, into_columns)))

  specs = _specs(pairs[0]), _specs(pairs[1])
  return layout.split(
    local, (*specs, True), (False, specs if gradients else None)
  )(*pairs, real)


def _value(plan: _Plan, pairs: Pairs, real: tuple[Array, Array]) -> Scalar:
  return _run(plan, pairs, real, gradients=False)[0]


def _value_and_gradients(
  plan: _Plan, pairs: Pairs, real: tuple[Array, Array]
) -> tuple[Scalar, Pairs | None]:
  return _run(plan, pairs, real, gradients=True)


def _reference(plan: _Plan, pairs: Pairs, real: tuple[Array, Array]) -> Scalar:
  def masked(pair: Pair, real: Array) -> Pair:
    return Pair(*map(Factor, Side(pair, real).rows()))

  rows, columns = pairs
  return reference.inner(
    masked(rows, real[0]),
    None if columns is None else masked(columns, real[1]),
    diagonal=plan.diagonal,
  )


_inner = autodiff.at_once(_reference, _value, _value_and_gradients)


def inner(
  layout: Layout,
  rows: Pair,
  columns: Pair | None = None,
  *,
  diagonal: bool = True,
  implementation: Implementation | None = None,
) -> Scalar:
  """Returns <A^T B, C^T E> over the rows of all devices.

  Args:
    layout: how the rows lie on devices.
    rows: A and B.
    columns: C and E, as many rows; None takes the rows, and is cheaper than
      passing them twice.
    diagonal: whether the diagonals of A^T B and C^T E count. Without, they
      aren't subtracted from a sum that they may be most of.
    implementation: see `fused.choose`.

  Raises:
    ValueError: there is no such implementation, or not here.
  """
  chosen = autodiff.choose(
    implementation,
    layout,
    "gram",
    no_kernel="it has none: the compiler's own products are all there is",
  )
  if chosen == "reference":
    return reference.inner(rows, columns, diagonal=diagonal)
  n, d = rows.first.x.shape
  dtype = wide(rows.first.x.dtype)
  by_rows = layout.rows(n) < d
  most = max(8, _TILE_BYTES // (d * jnp.dtype(dtype).itemsize))
  tile = tiles.fitting(-(-n // layout.shards), most)
  plan = _Plan(
    layout, chosen, implementation is not None, by_rows, diagonal, (tile, tile)
  )
  step = tile if by_rows else 1

  def filled(pair: Pair | None) -> Pair | None:
    def fill(factor: Factor) -> Factor:
      return factor._replace(
        x=tiles.filled(factor.x, (0,), tile=step, shards=layout.shards)
      )

    return None if pair is None else pair.map(fill)

  filled_rows = filled(rows)
  real = layout.per_device(
    tiles.filled(jnp.ones(n, dtype), (0,), tile=step, shards=layout.shards)
  )
  return _inner(plan, (filled_rows, filled(columns)), (real, real))
