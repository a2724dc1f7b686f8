"""Chooses how prototypes are attended to, and derives it.

Over a mesh the rows are split and the prototypes are everywhere: nothing
travels but what is added up of the prototypes' gradients.
"""

import dataclasses
from typing import NamedTuple

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float, Int

from jssl.losses.ops import autodiff, tiles
from jssl.losses.ops.autodiff import Implementation, Plan
from jssl.losses.ops.layout import Layout
from jssl.losses.ops.prototypes import pallas_tpu, reference, tiled
from jssl.losses.ops.prototypes.reference import Attended
from jssl.losses.ops.similarity import tiled as similarity
from jssl.losses.ops.similarity.reference import FILLING, Floats, Side
from jssl.losses.ops.similarity.tiled import Tile

_TILE: Tile = (1024, 1024)

Ids = tuple[Int[Array, "n"], Int[Array, "k"]]


class _Inputs(NamedTuple):
  rows: Floats
  columns: Floats
  values: Float[Array, "k e"]


@dataclasses.dataclass(frozen=True)
class _Plan(Plan):
  tile: Tile


def _sides(inputs: _Inputs, ids: Ids) -> tuple[Side, Side, Array]:
  return (
    Side(*inputs.rows, ids[0]),
    Side(*inputs.columns, ids[1]),
    inputs.values,
  )


def _reference(plan: _Plan, inputs: _Inputs, ids: Ids) -> Attended:
  del plan
  return reference.attend(*_sides(inputs, ids))


def _forward(plan: _Plan, inputs: _Inputs, ids: Ids) -> Attended:
  kernel = pallas_tpu if plan.implementation == "pallas_tpu" else tiled

  def local(rows: Side, columns: Side, values: Float[Array, "k e"]) -> Attended:
    return kernel.forward(rows, columns, values, tile=plan.tile)

  return plan.layout.split(local, (True, False, False), True)(
    *_sides(inputs, ids)
  )


def _backward(
  plan: _Plan, inputs: _Inputs, ids: Ids, out: Attended, g: Attended
) -> _Inputs:
  kernel = pallas_tpu if plan.implementation == "pallas_tpu" else tiled

  def local(
    rows: Side,
    columns: Side,
    values: Float[Array, "k e"],
    out: Attended,
    g: Attended,
  ) -> tuple[Floats, Floats, Array]:
    g = g._replace(lse=g.lse - jnp.sum(g.mean * out.mean, axis=1))
    ways = kernel.backward(rows, columns, values, out.lse, g, tile=plan.tile)
    into_columns, into_values = ways.columns, ways.values
    if plan.layout.mesh is not None and plan.layout.axes:
      into_columns, into_values = jax.lax.psum(
        (into_columns, into_values), plan.layout.axes
      )
    return (
      similarity.gradients(rows, ways.rows),
      similarity.gradients(columns, into_columns),
      into_values.astype(values.dtype),
    )

  by_rows = (True, False, False)
  return _Inputs(
    *plan.layout.split(local, (*by_rows, True, True), by_rows)(
      *_sides(inputs, ids), out, g
    )
  )


_attend = autodiff.recomputing(_reference, _forward, _backward)


def attend(
  layout: Layout,
  rows: Side,
  columns: Side,
  values: Float[Array, "k e"],
  *,
  implementation: Implementation | None = None,
) -> Attended:
  """Returns each row's log-sum-exp over the columns, and its mean of `values`.

  Args:
    layout: how the rows lie on devices; columns and values are on all of them.
    rows: that attend.
    columns: the prototypes; every row has one that counts.
    values: [k, e], of the columns.
    implementation: see `fused.choose`.

  Returns:
    [n] and [n, e], float32 or wider.

  Raises:
    ValueError: there is no such implementation, or not here.
  """
  n, k = len(rows.ids), len(columns.ids)
  plan = _Plan(
    layout,
    autodiff.choose(
      implementation,
      layout,
      "prototypes",
      no_kernel=pallas_tpu.unfit(
        rows.x.dtype, rows.x.shape[1], values.shape[1]
      ),
    ),
    implementation is not None,
    (
      tiles.fitting(-(-n // layout.shards), _TILE[0]),
      tiles.fitting(k, _TILE[1]),
    ),
  )
  if plan.implementation != "reference":
    rows = tiles.filled(rows, FILLING, tile=plan.tile[0], shards=layout.shards)
    columns, values = tiles.filled(
      (columns, values), (*FILLING, 0), tile=plan.tile[1], shards=1
    )
  inputs = _Inputs(Floats(*rows[:3]), Floats(*columns[:3]), values)
  ids = rows.ids, columns.ids
  if plan.implementation == "reference":
    return _reference(plan, inputs, ids)
  return jax.tree.map(lambda a: a[:n], _attend(plan, inputs, ids))
