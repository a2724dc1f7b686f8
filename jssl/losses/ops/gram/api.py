"""Inner products of moments: entry point, and the operation on a mesh."""

import dataclasses
import functools

import jax.numpy as jnp
from jaxtyping import Array, Float

from jssl.losses.ops.base import FusedSum
from jssl.losses.ops.gram import features, reference, tiled
from jssl.losses.ops.gram.reference import Factor, Pair
from jssl.losses.ops.gram.tiled import Gradient, Operand
from jssl.losses.ops.layout import Layout
from jssl.losses.ops.matmul import upcast_dtype
from jssl.losses.ops.ring import ring_fold
from jssl.typing import PyTree, Scalar

# Bytes of a tile of one factor, in the dtype of its product.
_TILE_BYTES = 4 * 2**20

Mask = Float[Array, "n"]
Operands = tuple[Pair, Pair | None]
Sums = tuple[Scalar, Gradient | None, Gradient | None]

# Shard specs of a factor: rows are sharded, shift and scale replicated.
_SPECS = Factor(True, False, False)  # type: ignore[arg-type]


@dataclasses.dataclass(frozen=True)
class Inner(FusedSum):
  """The inner product <A^T B, C^T E> of two cross-moments.

  Attributes:
    by_rows: True if [n, n] matrices are smaller than [d, d] matrices.
    diagonal: True if the diagonals of A^T B and C^T E count.
  """

  by_rows: bool
  diagonal: bool

  name = "gram"

  def reference(self, operands: Operands, constants: Mask) -> Scalar:
    def masked(pair: Pair) -> Pair:
      return Pair(*map(Factor, Operand(pair, constants).rows()))

    rows, columns = operands
    return reference.inner(
      masked(rows),
      None if columns is None else masked(columns),
      diagonal=self.diagonal,
    )

  def value_and_gradients(
    self, operands: Operands, constants: Mask, *, gradients: bool
  ) -> tuple[Scalar, Operands | None]:
    def local(
      rows: Pair, columns: Pair | None, mask: Mask
    ) -> tuple[Scalar, Operands | None]:
      row_operand = Operand(rows, mask)
      column_operand = None if columns is None else Operand(columns, mask)
      if self.by_rows:
        value, by_rows, by_columns = self._sum_by_rows(
          row_operand, column_operand, gradients=gradients
        )
      else:
        value, by_rows, by_columns = features.inner(
          self.layout,
          row_operand,
          column_operand,
          diagonal=self.diagonal,
          gradients=gradients,
        )
      if by_rows is None:
        return value, None
      by_pair = self._factor_gradients
      return value, (
        by_pair(rows, by_rows),
        columns and by_columns and by_pair(columns, by_columns),
      )

    specs = tuple(p and p.map(lambda factor: _SPECS) for p in operands)
    out_specs = (False, specs if gradients else None)
    function = self.layout.shard_map(local, (*specs, True), out_specs)
    return function(*operands, constants)

  def _sum_by_rows(
    self, rows: Operand, columns: Operand | None, *, gradients: bool
  ) -> Sums:
    """Sums over pairs of rows: rows are resident, columns rotate."""
    symmetric = columns is None
    to_rows = tiled.zero_gradient(rows) if gradients else None
    to_columns = tiled.zero_gradient(columns) if gradients and columns else None
    columns = rows if columns is None else columns
    first, second = columns.pair

    def body(resident: PyTree, block: PyTree, partial: PyTree) -> PyTree:
      (x, y), mask = block
      # Only rows rotate: shifts and scales are replicated.
      pair = Pair(
        first._replace(x=x), None if second is None else second._replace(x=y)
      )
      sums, to_rows = resident
      sums, to_rows, partial = tiled.add_block(
        rows, Operand(pair, mask), sums, to_rows, partial, tile=self.tile
      )
      return (sums, to_rows), partial

    (sums, to_rows), to_columns = ring_fold(
      self.layout.axes,
      body,
      (jnp.zeros_like(rows.mask), to_rows),
      ((first.x, None if second is None else second.x), columns.mask),
      to_columns,
      tile=self.tile[1],
    )
    value = self.layout.all_reduce(sums.sum())
    if self.diagonal:
      return value, to_rows, to_columns

    def diagonal_of(operand: Operand) -> Float[Array, "d"]:
      first, second = (x.astype(upcast_dtype(x.dtype)) for x in operand.rows())
      return self.layout.all_reduce(jnp.sum(first * second, axis=0))

    # With fewer rows than features, the rest is no smaller than the diagonal:
    # the difference keeps its digits.
    of_rows = diagonal_of(rows)
    of_columns = of_rows if symmetric else diagonal_of(columns)
    less = functools.partial(tiled.subtract_diagonal, symmetric=symmetric)
    return (
      value - jnp.sum(of_rows * of_columns),
      less(to_rows, rows, of_columns),
      less(to_columns, columns, of_rows),
    )

  def _factor_gradients(self, pair: Pair, gradient: Gradient) -> Pair:
    """Returns the gradients with respect to features, shifts and scales."""

    def by_factor(factor: Factor, g: Float[Array, "n d"]) -> Factor:
      x, shift, scale = factor
      if shift is None or scale is None:
        return Factor(g.astype(x.dtype))
      scaled = g * scale[None]
      centred = x.astype(shift.dtype) - shift[None]
      shared = self.layout.all_reduce_gradients(
        (-scaled.sum(0), jnp.sum(g * centred, axis=0))
      )
      return Factor(scaled.astype(x.dtype), *shared)

    second = None
    if pair.second is not None and gradient.second is not None:
      second = by_factor(pair.second, gradient.second)
    return Pair(by_factor(pair.first, gradient.first), second)


def inner(
  layout: Layout,
  rows: Pair,
  columns: Pair | None = None,
  *,
  diagonal: bool = True,
) -> Scalar:
  """Returns <A^T B, C^T E> over the rows of all devices.

  Args:
    layout: layout of the rows.
    rows: A and B.
    columns: C and E, with the same number of rows; None for A and B, which is
      cheaper than passing them twice.
    diagonal: True if the diagonals of A^T B and C^T E count. False excludes
      them without cancellation, even if they dominate the sum.
  """
  n, d = rows.first.x.shape
  dtype = upcast_dtype(rows.first.x.dtype)
  max_rows = max(8, _TILE_BYTES // (d * jnp.dtype(dtype).itemsize))
  by_rows = layout.num_rows(n) < d
  op = Inner.create(
    layout,
    n,
    no_kernel="it has no kernel, as XLA's matmuls suffice",
    max_tile=(max_rows, max_rows),
    by_rows=by_rows,
    diagonal=diagonal,
  )
  if not by_rows:
    # Whole rows enter each product: nothing to pad but for the mesh.
    op = dataclasses.replace(op, tile=(1, 1))

  def pad(factor: Factor) -> Factor:
    return factor._replace(x=op.pad(factor.x))

  mask = layout.as_varying(op.pad(jnp.ones(n, dtype)))
  return op((rows.map(pad), columns and columns.map(pad)), mask)
