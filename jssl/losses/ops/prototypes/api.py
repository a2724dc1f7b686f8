"""Attention to prototypes: entry point, and the operation on a mesh."""

from types import ModuleType

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float, Int

from jssl.losses.ops.base import FusedOperation
from jssl.losses.ops.layout import Layout
from jssl.losses.ops.prototypes import pallas_tpu, reference, tiled
from jssl.losses.ops.prototypes.reference import Attention
from jssl.losses.ops.similarity.reference import Differentiable, Operand
from jssl.losses.ops.similarity.tiled import gradients

# Rows, columns, and the values of the columns.
Operands = tuple[Differentiable, Differentiable, Array]
Ids = tuple[Int[Array, "n"], Int[Array, "k"]]


def _operands(floats: Operands, ids: Ids) -> tuple[Operand, Operand, Array]:
  return Operand(*floats[0], ids[0]), Operand(*floats[1], ids[1]), floats[2]


class Attend(FusedOperation):
  """Log-sum-exp over prototypes, and mean of their values.

  On a mesh the rows are sharded and the prototypes replicated. The only
  communication is the all-reduce of the prototypes' gradients.
  """

  name = "prototypes"
  max_tile = (1024, 1024)

  @property
  def _kernels(self) -> ModuleType:
    return pallas_tpu if self.implementation == "pallas_tpu" else tiled

  def reference(self, operands: Operands, constants: Ids) -> Attention:
    return reference.attend(*_operands(operands, constants))

  def forward(self, operands: Operands, constants: Ids) -> Attention:
    def local(rows: Operand, columns: Operand, values: Array) -> Attention:
      return self._kernels.forward(rows, columns, values, tile=self.tile)

    function = self.layout.shard_map(local, (True, False, False), True)
    return function(*_operands(operands, constants))

  def backward(
    self, operands: Operands, constants: Ids, out: Attention, g: Attention
  ) -> Operands:
    def local(
      rows: Operand,
      columns: Operand,
      values: Float[Array, "k e"],
      out: Attention,
      g: Attention,
    ) -> Operands:
      g = g._replace(lse=g.lse - jnp.sum(g.mean * out.mean, axis=1))
      by_rows, by_columns, by_values = self._kernels.backward(
        rows, columns, values, out.lse, g, tile=self.tile
      )
      by_columns, by_values = self.layout.all_reduce_gradients(
        (by_columns, by_values)
      )
      return (
        gradients(rows, by_rows),
        gradients(columns, by_columns),
        by_values.astype(values.dtype),
      )

    specs = (True, False, False)
    function = self.layout.shard_map(local, (*specs, True, True), specs)
    return function(*_operands(operands, constants), out, g)


def attend(
  layout: Layout, rows: Operand, columns: Operand, values: Float[Array, "k e"]
) -> Attention:
  """Returns each row's log-sum-exp over the columns, and its mean of `values`.

  Args:
    layout: layout of the rows; columns and values are replicated.
    rows: rows that attend.
    columns: prototypes; every row has an unmasked prototype.
    values: [k, e] values of the prototypes.

  Returns:
    The log-sum-exps [n] and means [n, e], float32 or wider.
  """
  n = len(rows.ids)
  op = Attend.create(
    layout,
    n,
    len(columns.ids),
    no_kernel=pallas_tpu.unsupported(
      rows.x.dtype, rows.x.shape[1], values.shape[1]
    ),
    replicated_columns=True,
  )
  rows = op.pad(rows)
  columns, values = op.pad((columns, values), axis=1, replicated=True)
  out = op((rows[:3], columns[:3], values), (rows.ids, columns.ids))
  return jax.tree.map(lambda a: a[:n], out)
