"""The same as TPU kernels: nothing of the matrix is ever in HBM.

What flows back takes one sweep for the rows, and one for prototypes and their
values, each with an S of its own. They are separate kernels, so that one whose
result isn't used is dropped.
"""

import functools
from typing import Any

import jax.numpy as jnp
from jax.experimental import pallas as pl
from jaxtyping import Array, Float

from jssl.losses.ops import pallas
from jssl.losses.ops.pallas import Ref
from jssl.losses.ops.prototypes.reference import Attended
from jssl.losses.ops.prototypes.tiled import Ways
from jssl.losses.ops.similarity.pallas_tpu import (
  NUMBERS,
  OWN,
  across,
  alike,
  down,
  packed,
  product,
  similarities,
)
from jssl.losses.ops.similarity.reference import MASKED, Side
from jssl.losses.ops.similarity.tiled import Flow, Sums, Tile

_LSE, _G = OWN, OWN + 1


def _forward_needs(x: Array, values: Array) -> tuple[int, int]:
  features = pallas.operand_bytes(x.shape[1], x.dtype)
  value = pallas.operand_bytes(values.shape[1], values.dtype)
  mean = pallas.sum_bytes(values.shape[1], carried=False)
  return features + mean, features + value


def _backward_needs(
  width: int, dtype: Any, value_width: int, value_dtype: Any
) -> tuple[int, int]:
  both = pallas.operand_bytes(width, dtype)
  both += pallas.operand_bytes(value_width, value_dtype)
  sums = pallas.sum_bytes(width, carried=False)
  sums += pallas.sum_bytes(value_width, carried=False)
  return both + sums, both


def unfit(dtype: Any, width: int, value_width: int) -> str | None:
  """Returns why no kernel can run, None if they can.

  Args:
    dtype: of the features.
    width: of the features.
    value_width: of the values, be they float32.
  """
  return pallas.unfit(
    dtype, _backward_needs(width, dtype, value_width, jnp.float32)
  )


def _multiplied(values: Float[Array, "k e"]) -> Float[Array, "k e"]:
  """Returns them in what a TPU multiplies."""
  return values.astype(
    jnp.bfloat16 if values.dtype == jnp.bfloat16 else jnp.float32
  )


def _forward_kernel(
  lying: Ref,
  sweep: Ref,
  x: Ref,
  y: Ref,
  values: Ref,
  lse: Ref,
  mean: Ref,
  stay: Ref,
  maximum: Ref,
  total: Ref,
  *,
  size: int,
) -> None:
  j = pl.program_id(1)

  @pl.when(j == 0)
  def _() -> None:
    stay[...] = lying[...].T
    maximum[...] = jnp.full(maximum.shape, MASKED, maximum.dtype)
    total[...] = jnp.zeros(total.shape, total.dtype)
    mean[...] = jnp.zeros(mean.shape, mean.dtype)

  s = similarities(x, y, stay, sweep)[0]
  new = jnp.maximum(maximum[...], s.max(1, keepdims=True))
  kept = jnp.exp(maximum[...] - new)
  weights = jnp.exp(s - new)
  maximum[...] = new
  total[...] = total[...] * kept + weights.sum(1, keepdims=True)
  v = pallas.inside(values, size)
  mean[...] = mean[...] * kept + product(weights.astype(v.dtype), v, 0)

  @pl.when(j == pl.num_programs(1) - 1)
  def _() -> None:
    lse[...] = Sums(maximum[...], total[...]).log().T
    mean[...] = mean[...] / total[...]


def forward(
  rows: Side, columns: Side, values: Float[Array, "k e"], *, tile: Tile
) -> Attended:
  """Returns what `reference.attend` does; see `tiled.forward`."""
  rows, columns = alike(rows, columns)
  (n, d), (k, e) = rows.x.shape, values.shape
  values = _multiplied(values)
  cut = pallas.blocks((n, k), _forward_needs(rows.x, values), tile=tile)
  lse, mean = pallas.sweep(
    functools.partial(_forward_kernel, size=k),
    (packed(rows, block=cut.stay), cut.numbers_stay(NUMBERS)),
    (packed(columns, block=cut.sweep), cut.numbers_sweep(NUMBERS)),
    (rows.x, cut.stays(d)),
    (columns.x, cut.sweeps(d)),
    (values, cut.sweeps(e)),
    name="prototypes_forward",
    cut=cut,
    out=[
      ((1, cut.grid[0] * cut.stay), cut.numbers_stay(1)),
      ((n, e), cut.stays(e)),
    ],
    scratch=[
      cut.upright(NUMBERS, jnp.int32),
      cut.upright(1),
      cut.upright(1),
    ],
    products=d + e,
    exponentials=1,
  )
  dtype = rows.scale.dtype
  return Attended(lse[0, :n].astype(dtype), mean.astype(dtype))


def _backward_kernel(*refs: Ref, size: int, columns_stay: bool) -> None:
  # Beside the columns lie the values; beside the rows, what their mean is due.
  if columns_stay:
    lying, sweep, x, a, y, b, into, into_s, into_a, stay, total = refs
  else:
    lying, sweep, x, a, y, b, into, into_s, stay, total = refs
  j = pl.program_id(1)

  @pl.when(j == 0)
  def _() -> None:
    stay[...] = lying[...].T
    total[...] = jnp.zeros(total.shape, total.dtype)
    into[...] = jnp.zeros(into.shape, into.dtype)
    if columns_stay:
      into_a[...] = jnp.zeros(into_a.shape, into_a.dtype)

  s, scale = similarities(x, y, stay, sweep)
  lse, g = (
    across(sweep, k) if columns_stay else down(stay, k) for k in (_LSE, _G)
  )
  p = jnp.exp(s - lse)
  swept = pallas.inside(b, size)
  d = p * (g + product(a[...], swept, 1))
  scaled = (d * scale).astype(y.dtype)
  into[...] += product(scaled, pallas.inside(y, size), 0)
  total[...] += d.sum(1, keepdims=True)
  if columns_stay:
    into_a[...] += product(p.astype(swept.dtype), swept, 0)

  @pl.when(j == pl.num_programs(1) - 1)
  def _() -> None:
    into_s[...] = total[...].T


def _backward(
  stay: Side,
  sweep: Side,
  beside_stay: Float[Array, "n e"],
  beside_sweep: Float[Array, "m e"],
  weights: tuple[Array, Array],
  *,
  columns_stay: bool,
  tile: Tile,
) -> tuple[Flow, list[Float[Array, "n e"]]]:
  """Returns what flows into the side that stays, and into its values."""
  stay, sweep = alike(stay, sweep)
  (n, d), (m, e) = stay.x.shape, beside_sweep.shape
  needs = _backward_needs(d, stay.x.dtype, e, beside_sweep.dtype)
  cut = pallas.blocks((n, m), needs, tile=tile)
  own, others = ((), weights) if columns_stay else (weights, ())
  out = [
    ((n, d), cut.stays(d)),
    ((1, cut.grid[0] * cut.stay), cut.numbers_stay(1)),
  ]
  if columns_stay:
    out.append(((n, e), cut.stays(e)))
  x, s, *into_values = pallas.sweep(
    functools.partial(_backward_kernel, size=m, columns_stay=columns_stay),
    (packed(stay, *own, block=cut.stay), cut.numbers_stay(NUMBERS)),
    (packed(sweep, *others, block=cut.sweep), cut.numbers_sweep(NUMBERS)),
    (stay.x, cut.stays(d)),
    (beside_stay, cut.stays(e)),
    (sweep.x, cut.sweeps(d)),
    (beside_sweep, cut.sweeps(e)),
    name="prototypes_backward",
    cut=cut,
    out=out,
    scratch=[cut.upright(NUMBERS, jnp.int32), cut.upright(1)],
    products=2 * d + (2 * e if columns_stay else e),
    exponentials=1,
  )
  dtype = stay.scale.dtype
  return (
    Flow(x.astype(dtype), s[0, :n].astype(dtype)),
    [v.astype(dtype) for v in into_values],
  )


def backward(
  rows: Side,
  columns: Side,
  values: Float[Array, "k e"],
  lse: Float[Array, "n"],
  g: Attended,
  *,
  tile: Tile,
) -> Ways:
  """Returns what flows back; see `tiled.backward`."""
  values = _multiplied(values)
  due = g.mean.astype(values.dtype)
  weights = lse, g.lse
  into_rows, _ = _backward(
    rows, columns, due, values, weights, columns_stay=False, tile=tile
  )
  into_columns, (into_values,) = _backward(
    columns, rows, values, due, weights, columns_stay=True, tile=tile[::-1]
  )
  return Ways(into_rows, into_columns, into_values)
