"""Log-sum-exps of a similarity matrix as TPU kernels: S never reaches HBM.

The forward kernel computes both log-sum-exps in one pass over S. The backward
kernel runs once per operand, with that operand resident, so that its gradient
accumulates in VMEM; each run recomputes S. Value and gradients take 5 matmuls
of n x m x d, where `tiled` takes 4.
"""

import functools
from collections.abc import Sequence
from typing import Any

import jax
import jax.numpy as jnp
from jax.experimental import pallas as pl
from jaxtyping import Array, Float, Int

from jssl.losses.ops import pallas
from jssl.losses.ops.matmul import precision
from jssl.losses.ops.pallas import Blocks, Ref
from jssl.losses.ops.similarity.reference import MASKED, Operand
from jssl.losses.ops.similarity.tiled import (
  Cotangent,
  GradientSum,
  RunningSum,
  Tile,
)
from jssl.losses.ops.tiles import PAD_ID

# Indices of the scalars of a row. Those of a kernel start at OWN.
_IDS, _SCALE, _BIAS, OWN = range(4)
_MAXIMUM, _SUM = OWN, OWN + 1
_LSE, _G, _S = OWN, OWN + 1, OWN + 2

# Scalars per row: the number of sublanes of a vector register.
SCALARS = 8

# Running sums of this many columns, and their copies, take 2 MiB of VMEM.
_MAX_COLUMNS = 2**16


def _pack_scalars(
  operand: Operand, own: Sequence[Array], block: int
) -> Int[Array, "8 n"]:
  """Packs the scalars of all rows as int32 bits, padded to whole blocks."""
  padding = 0, -len(operand.ids) % block
  # As bits: float32 holds integer ids exactly up to 2^24 only.
  ids = jnp.pad(operand.ids.astype(jnp.int32), padding, constant_values=PAD_ID)
  floats = [
    jnp.pad(a.astype(jnp.float32), padding)
    for a in (operand.scale, operand.bias, *own)
  ]
  bits = [jax.lax.bitcast_convert_type(a, jnp.int32) for a in floats]
  unused = [jnp.zeros_like(ids)] * (SCALARS - 1 - len(bits))
  return jnp.stack([ids, *bits, *unused])


def kernel_inputs(
  blocks: Blocks,
  resident: Operand,
  streamed: Operand,
  resident_own: Sequence[Array] = (),
  streamed_own: Sequence[Array] = (),
) -> list[tuple[Array, Any]]:
  """Returns arrays and block specs: scalars of both operands, then features.

  Args:
    blocks: block sizes.
    resident: resident operand.
    streamed: streamed operand.
    resident_own: the kernel's own scalars of resident rows.
    streamed_own: the kernel's own scalars of streamed rows.
  """
  d = resident.x.shape[1]
  left = _pack_scalars(resident, resident_own, blocks.resident)
  right = _pack_scalars(streamed, streamed_own, blocks.streamed)
  return [
    (left, blocks.resident_scalars(SCALARS)),
    (right, blocks.streamed_scalars(SCALARS)),
    (resident.x, blocks.resident_rows(d)),
    (streamed.x, blocks.streamed_rows(d)),
  ]


def as_column(transposed: Ref, index: int) -> Array:
  """Reads one scalar of the resident rows as [n, 1], from [n, 8] scratch."""
  return _unpack(transposed[:, index : index + 1], index)


def as_row(scalars: Ref, index: int) -> Array:
  """Reads one scalar of the streamed rows as [1, m], from an [8, m] block."""
  return _unpack(scalars[index : index + 1, :], index)


def _unpack(bits: Int[Array, "_ _"], index: int) -> Array:
  if index == _IDS:
    return bits
  return jax.lax.bitcast_convert_type(bits, jnp.float32)


def contract(a: Array, b: Array, axis: int) -> Float[Array, "n m"]:
  """Contracts axis 1 of `a` with `axis` of `b`, in float32."""
  return jax.lax.dot_general(
    a,
    b,
    (((1,), (axis,)), ((), ())),
    precision=precision(b.dtype),
    preferred_element_type=jnp.float32,
  )


def similarities(
  x: Ref, y: Ref, resident: Ref, streamed: Ref
) -> tuple[Float[Array, "n m"], Float[Array, "n m"]]:
  """Returns S of a pair of blocks (`MASKED` where masked), and its scale.

  Args:
    x: resident features, [n, d].
    y: streamed features, [m, d].
    resident: scalars of `x`, transposed: [n, 8].
    streamed: scalars of `y`, [8, m].
  """
  scale = as_column(resident, _SCALE) * as_row(streamed, _SCALE)
  s = contract(x[...], y[...], 1) * scale
  s = s + (as_column(resident, _BIAS) + as_row(streamed, _BIAS))
  i, j = as_column(resident, _IDS), as_row(streamed, _IDS)
  counts = (i != j) & (i != PAD_ID) & (j != PAD_ID)
  return jnp.where(counts, s, MASKED), scale


def same_dtype(a: Operand, b: Operand) -> tuple[Operand, Operand]:
  """Promotes the features of both operands to one dtype."""
  dtype = jnp.promote_types(a.x.dtype, b.x.dtype)
  return a._replace(x=a.x.astype(dtype)), b._replace(x=b.x.astype(dtype))


def _backward_bytes(width: int, dtype: Any) -> tuple[int, int]:
  x = pallas.operand_bytes(width, dtype)
  return x + pallas.sum_bytes(width, carried=True), x


def unsupported(dtype: Any, width: int) -> str | None:
  """Returns the reason why no kernel can run on such features, or None."""
  return pallas.unsupported(dtype, _backward_bytes(width, dtype))


def _merge(
  maximum: Array, total: Array, s: Float[Array, "n m"], axis: int
) -> tuple[Array, Array]:
  new = jnp.maximum(maximum, s.max(axis, keepdims=True))
  shifted = jnp.exp(s - new).sum(axis, keepdims=True)
  return new, total * jnp.exp(maximum - new) + shifted


def _forward_kernel(*refs: Ref, by_column: bool) -> None:
  # In: scalars [8, n] and [8, m], features [n, d] and [m, d], and the running
  # sums of all columns [2, M]. Out: sums of the rows [2, n], of all columns
  # [2, M]. Scratch: transposed scalars [n, 8], and sums of the rows [n, 1].
  if by_column:
    scalars, streamed, x, y, before, rows, columns, resident, *sums = refs
  else:
    scalars, streamed, x, y, rows, resident, *sums = refs
  maximum, total = sums
  i, j = pl.program_id(0), pl.program_id(1)

  # Once per resident block: its scalars become columns.
  @pl.when(j == 0)
  def _() -> None:
    resident[...] = scalars[...].T
    maximum[...] = as_column(resident, _MAXIMUM)
    total[...] = as_column(resident, _SUM)

  s = similarities(x, y, resident, streamed)[0]
  maximum[...], total[...] = _merge(maximum[...], total[...], s, 1)

  if by_column:
    # Sums of all columns stay in VMEM, since each resident block adds to them.
    @pl.when((i == 0) & (j == 0))
    def _() -> None:
      columns[...] = before[...]

    block = pl.ds(pl.multiple_of(j * len(y), len(y)), len(y))
    columns[0:1, block], columns[1:2, block] = _merge(
      columns[0:1, block], columns[1:2, block], s, 0
    )

  @pl.when(j == pl.num_programs(1) - 1)
  def _() -> None:
    rows[0:1, :] = maximum[...].T
    rows[1:2, :] = total[...].T


def forward(
  rows: Operand,
  columns: Operand,
  row_sums: RunningSum,
  column_sums: RunningSum | None,
  *,
  tile: Tile,
) -> tuple[RunningSum, RunningSum | None]:
  """Adds a block of the matrix to the sums; see `tiled.forward`."""
  rows, columns = same_dtype(rows, columns)
  (n, d), m = rows.x.shape, len(columns.ids)
  if column_sums is not None and m > _MAX_COLUMNS:
    by_row, _ = forward(rows, columns, row_sums, None, tile=tile)
    by_column, _ = forward(columns, rows, column_sums, None, tile=tile[::-1])
    return by_row, by_column
  row_bytes = pallas.operand_bytes(d, rows.x.dtype)
  blocks = pallas.block_sizes((n, m), (row_bytes, row_bytes), tile=tile)
  padded = blocks.grid[0] * blocks.resident, blocks.grid[1] * blocks.streamed
  args = kernel_inputs(blocks, rows, columns, row_sums)
  out = [((2, padded[0]), blocks.resident_scalars(2))]
  if column_sums is not None:
    whole = 2, padded[1]
    before = jnp.stack(column_sums).astype(jnp.float32)
    before = jnp.pad(before, ((0, 0), (0, padded[1] - m)))
    args.append((before, blocks.whole(whole)))
    out.append((whole, blocks.whole(whole)))
  sums = pallas.call_kernel(
    functools.partial(_forward_kernel, by_column=column_sums is not None),
    *args,
    name="similarity_forward",
    blocks=blocks,
    out=out,
    scratch=[
      blocks.scratch(SCALARS, jnp.int32),
      blocks.scratch(1),
      blocks.scratch(1),
    ],
    contracted=d,
    exponentials=len(out),
    sequential=column_sums is not None,
  )

  def unpacked(sums: Float[Array, "2 n"], like: RunningSum) -> RunningSum:
    return RunningSum(*sums[:, : len(like.sum)].astype(like.sum.dtype))

  by_row = unpacked(sums[0], row_sums)
  if column_sums is None:
    return by_row, None
  return by_row, unpacked(sums[1], column_sums)


def _backward_kernel(
  scalars: Ref,  # of the resident rows, [8, n]
  streamed: Ref,  # scalars of the streamed rows, [8, m]
  x: Ref,  # resident features, [n, d]
  y: Ref,  # streamed features, [m, d]
  before: Ref,  # gradient so far, [n, d]
  to_x: Ref,  # result: gradient with respect to x, [n, d]
  to_s: Ref,  # result: row sums of D, [1, n]
  resident: Ref,  # scratch: transposed scalars, [n, 8]
  total: Ref,  # scratch: row sums of D, [n, 1]
  *,
  size: int,
  resident_lse: bool,
  streamed_lse: bool,
) -> None:
  j = pl.program_id(1)

  @pl.when(j == 0)
  def _() -> None:
    resident[...] = scalars[...].T
    total[...] = as_column(resident, _S)
    to_x[...] = before[...]

  s, scale = similarities(x, y, resident, streamed)
  d = jnp.zeros_like(s)
  if resident_lse:
    d += jnp.exp(s - as_column(resident, _LSE)) * as_column(resident, _G)
  if streamed_lse:
    d += jnp.exp(s - as_row(streamed, _LSE)) * as_row(streamed, _G)
  scaled = (d * scale).astype(y.dtype)
  to_x[...] += contract(scaled, pallas.zero_padding(y, size), 0)
  total[...] += d.sum(1, keepdims=True)

  @pl.when(j == pl.num_programs(1) - 1)
  def _() -> None:
    to_s[...] = total[...].T


def _backward(
  resident: Operand,
  streamed: Operand,
  resident_cotangent: Cotangent | None,
  streamed_cotangent: Cotangent | None,
  before: GradientSum,
  *,
  tile: Tile,
) -> GradientSum:
  """Adds the gradient with respect to the resident operand."""
  resident, streamed = same_dtype(resident, streamed)
  (n, d), m = resident.x.shape, len(streamed.ids)
  row_bytes = _backward_bytes(d, resident.x.dtype)
  blocks = pallas.block_sizes((n, m), row_bytes, tile=tile)
  zero = jnp.zeros_like(before.s)
  own = *(resident_cotangent or (zero, zero)), before.s
  x, s = pallas.call_kernel(
    functools.partial(
      _backward_kernel,
      size=m,
      resident_lse=resident_cotangent is not None,
      streamed_lse=streamed_cotangent is not None,
    ),
    *kernel_inputs(blocks, resident, streamed, own, streamed_cotangent or ()),
    (before.x.astype(jnp.float32), blocks.resident_rows(d)),
    name="similarity_backward",
    blocks=blocks,
    out=[
      ((n, d), blocks.resident_rows(d)),
      ((1, blocks.grid[0] * blocks.resident), blocks.resident_scalars(1)),
    ],
    scratch=[blocks.scratch(SCALARS, jnp.int32), blocks.scratch(1)],
    contracted=2 * d,
    exponentials=(resident_cotangent is not None)
    + (streamed_cotangent is not None),
    aliases={4: 0},
  )
  s = s[0, :n].astype(before.s.dtype)
  return GradientSum(x.astype(before.x.dtype), s)


def backward(
  rows: Operand,
  columns: Operand,
  row_cotangent: Cotangent,
  column_cotangent: Cotangent | None,
  row_gradient: GradientSum,
  column_gradient: GradientSum | None,
  *,
  tile: Tile,
) -> tuple[GradientSum, GradientSum | None]:
  """Adds the gradients of a block of the matrix; see `tiled.backward`."""
  by_row = _backward(
    rows, columns, row_cotangent, column_cotangent, row_gradient, tile=tile
  )
  if column_gradient is None:
    return by_row, None
  by_column = _backward(
    columns,
    rows,
    column_cotangent,
    row_cotangent,
    column_gradient,
    tile=tile[::-1],
  )
  return by_row, by_column
