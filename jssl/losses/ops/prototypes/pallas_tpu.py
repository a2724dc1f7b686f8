"""Attention to prototypes as TPU kernels: S never reaches HBM.

The backward pass is two kernel calls, each recomputing S: one with the rows
resident, and one with the prototypes and their values resident. As separate
calls, XLA drops the one whose result is unused.
"""

import functools
from typing import Any

import jax.numpy as jnp
from jax.experimental import pallas as pl
from jaxtyping import Array, Float

from jssl.losses.ops import pallas
from jssl.losses.ops.pallas import Ref
from jssl.losses.ops.prototypes.reference import Attention
from jssl.losses.ops.prototypes.tiled import Gradients
from jssl.losses.ops.similarity.pallas_tpu import (
  OWN,
  SCALARS,
  as_column,
  as_row,
  contract,
  kernel_inputs,
  same_dtype,
  similarities,
)
from jssl.losses.ops.similarity.reference import MASKED, Operand
from jssl.losses.ops.similarity.tiled import GradientSum, RunningSum, Tile

_LSE, _G = OWN, OWN + 1


def _forward_bytes(x: Array, values: Array) -> tuple[int, int]:
  features = pallas.operand_bytes(x.shape[1], x.dtype)
  value = pallas.operand_bytes(values.shape[1], values.dtype)
  mean = pallas.sum_bytes(values.shape[1], carried=False)
  return features + mean, features + value


def _backward_bytes(
  width: int, dtype: Any, value_width: int, value_dtype: Any
) -> tuple[int, int]:
  both = pallas.operand_bytes(width, dtype)
  both += pallas.operand_bytes(value_width, value_dtype)
  sums = pallas.sum_bytes(width, carried=False)
  sums += pallas.sum_bytes(value_width, carried=False)
  return both + sums, both


def unsupported(dtype: Any, width: int, value_width: int) -> str | None:
  """Returns the reason why no kernel can run, or None."""
  return pallas.unsupported(
    dtype, _backward_bytes(width, dtype, value_width, jnp.float32)
  )


def _supported(values: Float[Array, "k e"]) -> Float[Array, "k e"]:
  """Casts values to a dtype that a TPU multiplies."""
  return values.astype(
    jnp.bfloat16 if values.dtype == jnp.bfloat16 else jnp.float32
  )


def _forward_kernel(
  scalars: Ref,  # of the rows, [8, n]
  streamed: Ref,  # scalars of the prototypes, [8, k]
  x: Ref,  # rows, [n, d]
  y: Ref,  # prototypes, [k, d]
  values: Ref,  # [k, e]
  lse: Ref,  # result, [1, n]
  mean: Ref,  # result and accumulator, [n, e]
  resident: Ref,  # scratch: transposed scalars, [n, 8]
  maximum: Ref,  # scratch: running maximum, [n, 1]
  total: Ref,  # scratch: running sum, [n, 1]
  *,
  size: int,
) -> None:
  j = pl.program_id(1)

  @pl.when(j == 0)
  def _() -> None:
    resident[...] = scalars[...].T
    maximum[...] = jnp.full(maximum.shape, MASKED, maximum.dtype)
    total[...] = jnp.zeros(total.shape, total.dtype)
    mean[...] = jnp.zeros(mean.shape, mean.dtype)

  # Online softmax: sums are rescaled whenever the maximum grows.
  s = similarities(x, y, resident, streamed)[0]
  new = jnp.maximum(maximum[...], s.max(1, keepdims=True))
  rescale = jnp.exp(maximum[...] - new)
  weights = jnp.exp(s - new)
  maximum[...] = new
  total[...] = total[...] * rescale + weights.sum(1, keepdims=True)
  v = pallas.zero_padding(values, size)
  mean[...] = mean[...] * rescale + contract(weights.astype(v.dtype), v, 0)

  @pl.when(j == pl.num_programs(1) - 1)
  def _() -> None:
    lse[...] = RunningSum(maximum[...], total[...]).log().T
    mean[...] = mean[...] / total[...]


def forward(
  rows: Operand, columns: Operand, values: Float[Array, "k e"], *, tile: Tile
) -> Attention:
  """Computes `reference.attend`; see `tiled.forward`."""
  rows, columns = same_dtype(rows, columns)
  (n, d), (k, e) = rows.x.shape, values.shape
  values = _supported(values)
  row_bytes = _forward_bytes(rows.x, values)
  blocks = pallas.block_sizes((n, k), row_bytes, tile=tile)
  lse, mean = pallas.call_kernel(
    functools.partial(_forward_kernel, size=k),
    *kernel_inputs(blocks, rows, columns),
    (values, blocks.streamed_rows(e)),
    name="prototypes_forward",
    blocks=blocks,
    out=[
      ((1, blocks.grid[0] * blocks.resident), blocks.resident_scalars(1)),
      ((n, e), blocks.resident_rows(e)),
    ],
    scratch=[
      blocks.scratch(SCALARS, jnp.int32),
      blocks.scratch(1),
      blocks.scratch(1),
    ],
    contracted=d + e,
    exponentials=1,
  )
  dtype = rows.scale.dtype
  return Attention(lse[0, :n].astype(dtype), mean.astype(dtype))


def _backward_kernel(*refs: Ref, size: int, resident_columns: bool) -> None:
  # In: scalars [8, n] and [8, m]; features x [n, d] (resident) and y [m, d]
  # (streamed), with a [n, e] and b [m, e]: the values of columns, and the
  # cotangents of the means of rows. Out: gradients by x [n, d], by s [1, n]
  # and, with resident columns, by the values [n, e].
  if resident_columns:
    scalars, streamed, x, y, a, b, to_x, to_s, to_a, resident, total = refs
  else:
    scalars, streamed, x, y, a, b, to_x, to_s, resident, total = refs
  j = pl.program_id(1)

  @pl.when(j == 0)
  def _() -> None:
    resident[...] = scalars[...].T
    total[...] = jnp.zeros(total.shape, total.dtype)
    to_x[...] = jnp.zeros(to_x.shape, to_x.dtype)
    if resident_columns:
      to_a[...] = jnp.zeros(to_a.shape, to_a.dtype)

  s, scale = similarities(x, y, resident, streamed)
  lse, g = (
    as_row(streamed, k) if resident_columns else as_column(resident, k)
    for k in (_LSE, _G)
  )
  p = jnp.exp(s - lse)
  streamed_b = pallas.zero_padding(b, size)
  d = p * (g + contract(a[...], streamed_b, 1))
  scaled = (d * scale).astype(y.dtype)
  to_x[...] += contract(scaled, pallas.zero_padding(y, size), 0)
  total[...] += d.sum(1, keepdims=True)
  if resident_columns:
    to_a[...] += contract(p.astype(streamed_b.dtype), streamed_b, 0)

  @pl.when(j == pl.num_programs(1) - 1)
  def _() -> None:
    to_s[...] = total[...].T


def _backward(
  resident: Operand,
  streamed: Operand,
  resident_values: Float[Array, "n e"],
  streamed_values: Float[Array, "m e"],
  lse_and_g: tuple[Array, Array],
  *,
  resident_columns: bool,
  tile: Tile,
) -> tuple[GradientSum, list[Float[Array, "n e"]]]:
  """Returns the gradients by the resident operand and by its values."""
  resident, streamed = same_dtype(resident, streamed)
  (n, d), (m, e) = resident.x.shape, streamed_values.shape
  row_bytes = _backward_bytes(d, resident.x.dtype, e, streamed_values.dtype)
  blocks = pallas.block_sizes((n, m), row_bytes, tile=tile)
  own, others = ((), lse_and_g) if resident_columns else (lse_and_g, ())
  out = [
    ((n, d), blocks.resident_rows(d)),
    ((1, blocks.grid[0] * blocks.resident), blocks.resident_scalars(1)),
  ]
  if resident_columns:
    out.append(((n, e), blocks.resident_rows(e)))
  x, s, *by_values = pallas.call_kernel(
    functools.partial(
      _backward_kernel, size=m, resident_columns=resident_columns
    ),
    *kernel_inputs(blocks, resident, streamed, own, others),
    (resident_values, blocks.resident_rows(e)),
    (streamed_values, blocks.streamed_rows(e)),
    name="prototypes_backward",
    blocks=blocks,
    out=out,
    scratch=[blocks.scratch(SCALARS, jnp.int32), blocks.scratch(1)],
    contracted=2 * d + (2 * e if resident_columns else e),
    exponentials=1,
  )
  dtype = resident.scale.dtype
  return (
    GradientSum(x.astype(dtype), s[0, :n].astype(dtype)),
    [v.astype(dtype) for v in by_values],
  )


def backward(
  rows: Operand,
  columns: Operand,
  values: Float[Array, "k e"],
  lse: Float[Array, "n"],
  g: Attention,
  *,
  tile: Tile,
) -> Gradients:
  """Computes the gradients; see `tiled.backward`."""
  values = _supported(values)
  g_mean = g.mean.astype(values.dtype)
  lse_and_g = lse, g.lse
  by_rows, _ = _backward(
    rows, columns, g_mean, values, lse_and_g, resident_columns=False, tile=tile
  )
  by_columns, (by_values,) = _backward(
    columns,
    rows,
    values,
    g_mean,
    lse_and_g,
    resident_columns=True,
    tile=tile[::-1],
  )
  return Gradients(by_rows, by_columns, by_values)
