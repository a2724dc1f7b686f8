"""Chooses how the log-sum-exp of similarities is computed, and derives it."""

import dataclasses
import functools
from typing import Literal

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float, Int

from jssl.losses.ops import autodiff, tiles
from jssl.losses.ops.autodiff import Implementation, Plan
from jssl.losses.ops.layout import Layout
from jssl.losses.ops.matmul import wide
from jssl.losses.ops.similarity import pallas_tpu, reference, ring, tiled
from jssl.losses.ops.similarity.reference import FILLING, MASKED, Floats, Side
from jssl.losses.ops.similarity.tiled import Block, Sums, Tile, Weights

Kind = Literal["both", "rows", "self"]
Pair = tuple[Float[Array, "n"], Float[Array, "m"] | None]
Sides = tuple[Floats, Floats | None]
Ids = tuple[Int[Array, "n"], Int[Array, "m"] | None]

_TILE: Tile = (1024, 1024)
# On a CPU threads start and stop with each tile, and larger ones pay.
_CPU_TIMES = 2


@dataclasses.dataclass(frozen=True)
class _Plan(Plan):
  """What is static about a call.

  Attributes:
    kind: which log-sum-exp is wanted: both; that of the rows; or that of the
      rows where the columns are the same features.
    shared: every device has all columns, instead of a part of them.
    tile: its rows and columns.
  """

  kind: Kind
  shared: bool
  tile: Tile

  @property
  def travels(self) -> bool:
    """Whether columns go round."""
    return bool(self.layout.axes) and not self.shared

  @property
  def block(self) -> Block:
    """The module that computes a block."""
    return pallas_tpu if self.implementation == "pallas_tpu" else tiled


def side(
  x: Float[Array, "n d"],
  scale: Float[Array, "n"] | Float[Array, ""] | float,
  *,
  ids: Int[Array, "n"] | int,
  bias: Float[Array, "n"] | None = None,
) -> Side:
  """Returns the rows or columns of a similarity matrix.

  Args:
    x: features.
    scale: of the similarities; 0 only where `x` is 0.
    ids: not negative; pairs with equal ids don't count. All do where the one
      side has 0 and the other 1.
    bias: added to the similarities.
  """
  zero = jnp.zeros_like(x[:, 0], wide(x.dtype))
  return Side(
    x,
    zero + scale,
    zero if bias is None else zero + bias,
    zero.astype(jnp.int32) + ids,
  )


def _sides(floats: Sides, ids: Ids) -> tuple[Side, Side | None]:
  rows = Side(*floats[0], ids[0])
  if floats[1] is None or ids[1] is None:
    return rows, None
  return rows, Side(*floats[1], ids[1])


def _merged(sums: Sums, axes: tuple[str, ...]) -> Sums:
  """Merges what each device has summed for the columns that all share."""
  if not axes:
    return sums
  maximum = jax.lax.pmax(sums.maximum, axes)
  rescaled = sums.sum * jnp.exp(sums.maximum - maximum)
  return Sums(maximum, jax.lax.psum(rescaled, axes))


def _forward(plan: _Plan, floats: Sides, ids: Ids) -> Pair:
  def local(rows: Side, columns: Side | None) -> Pair:
    columns = rows if columns is None else columns
    by_column = tiled.no_sums(columns) if plan.kind == "both" else None
    add = (
      functools.partial(ring.add, plan.block, plan.layout)
      if plan.travels
      else plan.block.add
    )
    by_row, by_column = add(
      rows, columns, tiled.no_sums(rows), by_column, tile=plan.tile
    )
    if by_column is not None and plan.shared:
      by_column = _merged(by_column, plan.layout.axes)
    return by_row.log(), None if by_column is None else by_column.log()

  specs = (True, not plan.shared)
  return plan.layout.split(local, specs, specs)(*_sides(floats, ids))


def _backward(
  plan: _Plan, floats: Sides, ids: Ids, lse: Pair, g: Pair
) -> Sides:
  def local(
    rows: Side,
    columns: Side | None,
    by_row: Weights,
    by_column: Weights | None,
  ) -> Sides:
    into_columns = None if columns is None else tiled.no_flow(columns)
    if columns is None:
      # S is symmetric, so all that a row gets as a column it gets as a row.
      columns, by_column = rows, by_row
    parts = rows, columns, by_row, by_column
    into_rows = tiled.no_flow(rows)
    if plan.travels:
      into_rows, to_columns = ring.flow(
        plan.block, plan.layout, *parts, into_rows, into_columns, tile=plan.tile
      )
      return tiled.gradients(rows, into_rows), to_columns
    into_rows, into_columns = plan.block.flow(
      *parts, into_rows, into_columns, tile=plan.tile
    )
    if into_columns is None:
      return tiled.gradients(rows, into_rows), None
    if plan.shared and plan.layout.mesh is not None and plan.layout.axes:
      into_columns = jax.lax.psum(into_columns, plan.layout.axes)
    return (
      tiled.gradients(rows, into_rows),
      tiled.gradients(columns, into_columns),
    )

  def weights(lse: Array, g: Array) -> Weights:
    # What has no pair is constant.
    return Weights(lse, jnp.where(lse > MASKED, g, 0))

  by_row = weights(lse[0], g[0])
  by_column = None
  if lse[1] is not None and g[1] is not None:
    due = plan.layout.of_sum(g[1]) if plan.shared else g[1]
    by_column = weights(lse[1], due)
  by_rows = (True, not plan.shared)
  return plan.layout.split(local, by_rows * 2, by_rows)(
    *_sides(floats, ids), by_row, by_column
  )


def _reference(plan: _Plan, floats: Sides, ids: Ids) -> Pair:
  rows, columns = _sides(floats, ids)
  by_row, by_column = reference.log_sum_exp(
    rows, rows if columns is None else columns
  )
  return by_row, by_column if plan.kind == "both" else None


_log_sum_exp = autodiff.recomputing(_reference, _forward, _backward)


def log_sum_exp(
  layout: Layout,
  rows: Side,
  columns: Side | None,
  *,
  shared: bool = False,
  implementation: Implementation | None = None,
) -> Float[Array, "n"]:
  """Returns log sum_j exp S_ij of each row i.

  Args:
    layout: how the rows lie on devices, and the columns unless `shared`.
    rows: of the matrix.
    columns: of the matrix; None takes the rows again, and is cheaper than
      passing them twice.
    shared: all columns are on every device, as prototypes or a queue are.
    implementation: see `fused.choose`.

  Returns:
    [n], at least float32; `MASKED` where no pair counts.

  Raises:
    ValueError: there is no such implementation, or not here.
  """
  kind: Kind = "self" if columns is None else "rows"
  return _run(layout, rows, columns, kind, shared, implementation)[0]


def log_sum_exps(
  layout: Layout,
  rows: Side,
  columns: Side,
  *,
  shared: bool = False,
  implementation: Implementation | None = None,
) -> tuple[Float[Array, "n"], Float[Array, "m"]]:
  """Returns log sum_j exp S_ij of each row i, and log sum_i of each column j.

  Both are of one pass over the matrix. See `log_sum_exp`.
  """
  by_row, by_column = _run(
    layout, rows, columns, "both", shared, implementation
  )
  if by_column is None:
    raise TypeError("columns must be a Side, got None")
  return by_row, by_column


def _run(
  layout: Layout,
  rows: Side,
  columns: Side | None,
  kind: Kind,
  shared: bool,
  implementation: Implementation | None,
) -> Pair:
  n, m = len(rows.ids), len((rows if columns is None else columns).ids)
  shards = layout.shards, 1 if shared else layout.shards
  times = _CPU_TIMES if layout.platform == "cpu" else 1
  row_tile, column_tile = (
    tiles.fitting(-(-size // parts), tile * times)
    for size, parts, tile in zip((n, m), shards, _TILE, strict=True)
  )
  plan = _Plan(
    layout,
    autodiff.choose(
      implementation,
      layout,
      "similarity",
      no_kernel=pallas_tpu.unfit(rows.x.dtype, rows.x.shape[1]),
      no_gain=None
      if kind == "self"
      else "with gradients of both sides it takes 5 products instead of 4",
    ),
    implementation is not None,
    kind,
    shared,
    (row_tile, row_tile if columns is None else column_tile),
  )
  if plan.implementation == "reference":
    return _reference(plan, *_parted(rows, columns))
  rows = tiles.filled(rows, FILLING, tile=plan.tile[0], shards=shards[0])
  if columns is not None:
    columns = tiles.filled(
      columns, FILLING, tile=plan.tile[1], shards=shards[1]
    )
  by_row, by_col = _log_sum_exp(plan, *_parted(rows, columns))
  return by_row[:n], None if by_col is None else by_col[:m]


def _parted(rows: Side, columns: Side | None) -> tuple[Sides, Ids]:
  if columns is None:
    return (Floats(*rows[:3]), None), (rows.ids, None)
  floats = Floats(*rows[:3]), Floats(*columns[:3])
  return floats, (rows.ids, columns.ids)
