"""Log-sum-exps of similarities: entry points, and the operation on a mesh."""

import dataclasses
from types import ModuleType
from typing import Any, Literal

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float, Int

from jssl.losses.ops.base import FusedOperation
from jssl.losses.ops.layout import Layout
from jssl.losses.ops.ring import ring_fold
from jssl.losses.ops.similarity import pallas_tpu, reference, tiled
from jssl.losses.ops.similarity.reference import MASKED, Differentiable, Operand
from jssl.losses.ops.similarity.tiled import Cotangent, GradientSum, RunningSum
from jssl.typing import PyTree

Kind = Literal["both", "rows", "self"]
# Of the columns there is None where they are the rows, or are not needed.
Outputs = tuple[Float[Array, "n"], Any]
Operands = tuple[Differentiable, Differentiable | None]
Ids = tuple[Int[Array, "n"], Int[Array, "m"] | None]

# XLA starts and stops CPU threads for each tile: larger tiles are faster.
_CPU_FACTOR = 2


def _operands(floats: Operands, ids: Ids) -> tuple[Operand, Operand | None]:
  rows = Operand(*floats[0], ids[0])
  if floats[1] is None or ids[1] is None:
    return rows, None
  return rows, Operand(*floats[1], ids[1])


@dataclasses.dataclass(frozen=True)
class LogSumExp(FusedOperation):
  """Row and column log-sum-exps.

  On a mesh the rows are resident and the columns rotate, with their running
  sums (forward) or their gradients (backward). Replicated columns stay: their
  sums and gradients are all-reduced.

  Attributes:
    kind: "both" log-sum-exps; that of the "rows"; or that of the rows where the
      columns are the same array ("self").
    replicated: True if every device holds all columns.
  """

  kind: Kind
  replicated: bool

  name = "similarity"
  max_tile = (1024, 1024)

  @property
  def _kernels(self) -> ModuleType:
    return pallas_tpu if self.implementation == "pallas_tpu" else tiled

  @property
  def _ring(self) -> tuple[str, ...]:
    return () if self.replicated else self.layout.axes

  def reference(self, operands: Operands, constants: Ids) -> Outputs:
    rows, columns = _operands(operands, constants)
    by_row, by_column = reference.log_sum_exps(
      rows, rows if columns is None else columns
    )
    return by_row, by_column if self.kind == "both" else None

  def forward(self, operands: Operands, constants: Ids) -> Outputs:
    kernels = self._kernels

    def local(rows: Operand, columns: Operand | None) -> Outputs:
      columns = rows if columns is None else columns
      # Columns rotate with their running sums: all devices add to them.
      by_row, by_column = ring_fold(
        self._ring,
        lambda by_row, block, by_column: kernels.forward(
          rows, block, by_row, by_column, tile=self.tile
        ),
        tiled.empty_sum(rows),
        columns,
        tiled.empty_sum(columns) if self.kind == "both" else None,
        tile=self.tile[1],
      )
      if by_column is None:
        return by_row.log(), None
      if self.replicated and self.layout.axes:
        # Each device has summed over its own rows.
        maximum = jax.lax.pmax(by_column.maximum, self.layout.axes)
        rescaled = by_column.sum * jnp.exp(by_column.maximum - maximum)
        by_column = RunningSum(maximum, self.layout.all_reduce(rescaled))
      return by_row.log(), by_column.log()

    specs = (True, not self.replicated)
    function = self.layout.shard_map(local, specs, specs)
    return function(*_operands(operands, constants))

  def backward(
    self, operands: Operands, constants: Ids, out: Outputs, g: Outputs
  ) -> Operands:
    kernels = self._kernels

    def local(
      rows: Operand,
      columns: Operand | None,
      row_cotangent: Cotangent,
      column_cotangent: Cotangent | None,
    ) -> Operands:
      to_columns = None if columns is None else tiled.zero_gradient(columns)
      if columns is None:
        # S is symmetric: the gradient by rows includes the one by columns.
        columns, column_cotangent = rows, row_cotangent

      def body(
        to_rows: GradientSum, block: Operand, partial: PyTree
      ) -> tuple[GradientSum, PyTree]:
        cotangent, to_block = partial
        to_rows, to_block = kernels.backward(
          rows,
          block,
          row_cotangent,
          cotangent,
          to_rows,
          to_block,
          tile=self.tile,
        )
        return to_rows, (cotangent, to_block)

      def finish(block: Operand, partial: PyTree) -> Differentiable | None:
        if partial[1] is None:
          return None
        total = partial[1]
        if self.replicated:
          total = self.layout.all_reduce_gradients(total)
        # Block by block, since the sums of all columns are float32.
        return tiled.gradients(block, total)

      # Columns rotate with their cotangents and gradients.
      to_rows, by_columns = ring_fold(
        self._ring,
        body,
        tiled.zero_gradient(rows),
        columns,
        (column_cotangent, to_columns),
        tile=self.tile[1],
        finish=finish,
      )
      return tiled.gradients(rows, to_rows), by_columns

    def cotangent(lse: Array, g: Array) -> Cotangent:
      # The log-sum-exp of masked pairs is constant.
      return Cotangent(lse, jnp.where(lse > MASKED, g, 0))

    by_column = None
    if out[1] is not None and g[1] is not None:
      due = self.layout.sum_transpose(g[1]) if self.replicated else g[1]
      by_column = cotangent(out[1], due)
    specs = (True, not self.replicated)
    return self.layout.shard_map(local, specs * 2, specs)(
      *_operands(operands, constants), cotangent(out[0], g[0]), by_column
    )


def log_sum_exp(
  layout: Layout,
  rows: Operand,
  columns: Operand | None = None,
  *,
  replicated: bool = False,
) -> Float[Array, "n"]:
  """Returns log sum_j exp S_ij of each row i.

  Args:
    layout: layout of the rows, and of the columns unless `replicated`.
    rows: rows of the matrix.
    columns: columns of the matrix; None for the rows, which is cheaper than
      passing the rows twice.
    replicated: True if every device holds all columns (prototypes, a queue).

  Returns:
    [n] array, at least float32; `MASKED` where all pairs are masked.
  """
  kind: Kind = "self" if columns is None else "rows"
  return _run(layout, rows, columns, kind, replicated=replicated)[0]


def log_sum_exps(
  layout: Layout, rows: Operand, columns: Operand, *, replicated: bool = False
) -> tuple[Float[Array, "n"], Float[Array, "m"]]:
  """Returns the log-sum-exps of all rows and of all columns, from one pass.

  See `log_sum_exp` for the arguments.
  """
  return _run(layout, rows, columns, "both", replicated=replicated)


def _run(
  layout: Layout,
  rows: Operand,
  columns: Operand | None,
  kind: Kind,
  *,
  replicated: bool,
) -> Outputs:
  factor = _CPU_FACTOR if layout.platform == "cpu" else 1
  max_rows, max_columns = LogSumExp.max_tile
  two_operands = "with gradients of both operands it takes 5 matmuls, not 4"
  n, m = len(rows.ids), None if columns is None else len(columns.ids)
  op = LogSumExp.create(
    layout,
    n,
    m,
    no_kernel=pallas_tpu.unsupported(rows.x.dtype, rows.x.shape[1]),
    no_gain=None if columns is None else two_operands,
    replicated_columns=replicated,
    max_tile=(max_rows * factor, max_columns * factor),
    kind=kind,
    replicated=replicated,
  )
  rows = op.pad(rows)
  columns = columns and op.pad(columns, axis=1, replicated=replicated)
  by_row, by_column = op(
    (rows[:3], columns and columns[:3]), (rows.ids, columns and columns.ids)
  )
  return by_row[:n], None if by_column is None else by_column[:m]
