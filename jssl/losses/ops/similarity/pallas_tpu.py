"""The same as TPU kernels: nothing of the matrix is ever in HBM.

The log-sum-exp of both sides takes one sweep over the matrix. What flows back
takes one for each side, so that its sum can stay where it is, and computes S in
each: a value with its gradients is 5 products of n x m x d where `tiled` has 4.
"""

import functools
from typing import Any

import jax
import jax.numpy as jnp
from jax.experimental import pallas as pl
from jaxtyping import Array, Float, Int

from jssl.losses.ops import pallas
from jssl.losses.ops.matmul import precision
from jssl.losses.ops.pallas import Ref
from jssl.losses.ops.similarity.reference import FILL, MASKED, Side
from jssl.losses.ops.similarity.tiled import Flow, Sums, Tile, Weights

# Which of its numbers is what. Those of an operation come last.
_IDS, _SCALE, _BIAS, OWN = range(4)
_MAXIMUM, _SUM = OWN, OWN + 1
_LSE, _G, _S = OWN, OWN + 1, OWN + 2

# How many a row has: as many as vectors have sublanes.
NUMBERS = 8

# The sums of so many columns, and copies of them, take 2 MiB.
_COLUMNS = 2**16


def packed(side: Side, *own: Array, block: int) -> Int[Array, "8 n"]:
  """Returns the numbers of each row as bits, filled up to whole blocks."""
  missing = 0, -len(side.ids) % block
  # Not float ids, which are exact up to 2^24 only.
  ids = jnp.pad(side.ids.astype(jnp.int32), missing, constant_values=FILL)
  floats = [
    jnp.pad(a.astype(jnp.float32), missing)
    for a in (side.scale, side.bias, *own)
  ]
  bits = [jax.lax.bitcast_convert_type(a, jnp.int32) for a in floats]
  unused = [jnp.zeros_like(ids)] * (NUMBERS - 1 - len(bits))
  return jnp.stack([ids, *bits, *unused])


def down(upright: Ref, number: int) -> Array:
  """Returns one of the numbers of rows that stay, [n, 1]."""
  return _value(upright[:, number : number + 1], number)


def across(lying: Ref, number: int) -> Array:
  """Returns one of the numbers of rows that sweep, [1, m]."""
  return _value(lying[number : number + 1, :], number)


def _value(bits: Int[Array, "_ _"], number: int) -> Array:
  if number == _IDS:
    return bits
  return jax.lax.bitcast_convert_type(bits, jnp.float32)


def product(a: Array, b: Array, axis: int) -> Float[Array, "n m"]:
  """Returns the sum over axis 1 of `a` and `axis` of `b`, in float32."""
  return jax.lax.dot_general(
    a,
    b,
    (((1,), (axis,)), ((), ())),
    precision=precision(b.dtype),
    preferred_element_type=jnp.float32,
  )


def similarities(
  x: Ref, y: Ref, upright: Ref, lying: Ref
) -> tuple[Float[Array, "n m"], Float[Array, "n m"]]:
  """Returns S, `MASKED` where a pair doesn't count, and its scale.

  Args:
    x: features that stay.
    y: features that sweep.
    upright: numbers of `x`.
    lying: numbers of `y`.
  """
  scale = down(upright, _SCALE) * across(lying, _SCALE)
  s = product(x[...], y[...], 1) * scale
  s = s + (down(upright, _BIAS) + across(lying, _BIAS))
  i, j = down(upright, _IDS), across(lying, _IDS)
  counts = (i != j) & (i != FILL) & (j != FILL)
  return jnp.where(counts, s, MASKED), scale


def alike(a: Side, b: Side) -> tuple[Side, Side]:
  """Returns sides of one dtype, since only such are multiplied."""
  dtype = jnp.promote_types(a.x.dtype, b.x.dtype)
  return a._replace(x=a.x.astype(dtype)), b._replace(x=b.x.astype(dtype))


def _add_needs(width: int, dtype: Any) -> tuple[int, int]:
  x = pallas.operand_bytes(width, dtype)
  return x, x


def _flow_needs(width: int, dtype: Any) -> tuple[int, int]:
  x = pallas.operand_bytes(width, dtype)
  return x + pallas.sum_bytes(width, carried=True), x


def unfit(dtype: Any, width: int) -> str | None:
  """Returns why no kernel can run, None if they can.

  Args:
    dtype: of the features.
    width: of the features.
  """
  return pallas.unfit(dtype, _flow_needs(width, dtype))


def _merge(
  maximum: Array, total: Array, s: Float[Array, "n m"], axis: int
) -> tuple[Array, Array]:
  new = jnp.maximum(maximum, s.max(axis, keepdims=True))
  shifted = jnp.exp(s - new).sum(axis, keepdims=True)
  return new, total * jnp.exp(maximum - new) + shifted


def _add_kernel(*refs: Ref, by_column: bool) -> None:
  if by_column:
    lying, sweep, x, y, before, rows, columns, stay, maximum, total = refs
  else:
    lying, sweep, x, y, rows, stay, maximum, total = refs
  i, j = pl.program_id(0), pl.program_id(1)

  @pl.when(j == 0)
  def _() -> None:
    stay[...] = lying[...].T
    maximum[...] = down(stay, _MAXIMUM)
    total[...] = down(stay, _SUM)

  s = similarities(x, y, stay, sweep)[0]
  maximum[...], total[...] = _merge(maximum[...], total[...], s, 1)

  if by_column:

    @pl.when((i == 0) & (j == 0))
    def _() -> None:
      columns[...] = before[...]

    here = pl.ds(pl.multiple_of(j * len(y), len(y)), len(y))
    columns[0:1, here], columns[1:2, here] = _merge(
      columns[0:1, here], columns[1:2, here], s, 0
    )

  @pl.when(j == pl.num_programs(1) - 1)
  def _() -> None:
    rows[0:1, :] = maximum[...].T
    rows[1:2, :] = total[...].T


def _unpacked(numbers: Float[Array, "2 n"], like: Sums) -> Sums:
  maximum, total = numbers[:, : len(like.sum)].astype(like.sum.dtype)
  return Sums(maximum, total)


def add(
  rows: Side,
  columns: Side,
  row_sums: Sums,
  column_sums: Sums | None,
  *,
  tile: Tile,
) -> tuple[Sums, Sums | None]:
  """Adds a block of the matrix to the sums; see `tiled.add`."""
  rows, columns = alike(rows, columns)
  (n, d), m = rows.x.shape, len(columns.ids)
  if column_sums is not None and m > _COLUMNS:
    by_row, _ = add(rows, columns, row_sums, None, tile=tile)
    by_column, _ = add(columns, rows, column_sums, None, tile=tile[::-1])
    return by_row, by_column
  cut = pallas.blocks((n, m), _add_needs(d, rows.x.dtype), tile=tile)
  padded = cut.grid[0] * cut.stay, cut.grid[1] * cut.sweep
  args = [
    (packed(rows, *row_sums, block=cut.stay), cut.numbers_stay(NUMBERS)),
    (packed(columns, block=cut.sweep), cut.numbers_sweep(NUMBERS)),
    (rows.x, cut.stays(d)),
    (columns.x, cut.sweeps(d)),
  ]
  out = [((2, padded[0]), cut.numbers_stay(2))]
  if column_sums is not None:
    whole = 2, padded[1]
    before = jnp.stack(column_sums).astype(jnp.float32)
    before = jnp.pad(before, ((0, 0), (0, padded[1] - m)))
    args.append((before, cut.whole(whole)))
    out.append((whole, cut.whole(whole)))
  sums = pallas.sweep(
    functools.partial(_add_kernel, by_column=column_sums is not None),
    *args,
    name="similarity_add",
    cut=cut,
    out=out,
    scratch=[
      cut.upright(NUMBERS, jnp.int32),
      cut.upright(1),
      cut.upright(1),
    ],
    products=d,
    exponentials=len(out),
    in_order=column_sums is not None,
  )
  by_row = _unpacked(sums[0], row_sums)
  if column_sums is None:
    return by_row, None
  return by_row, _unpacked(sums[1], column_sums)


def _flow_kernel(
  lying: Ref,
  sweep: Ref,
  x: Ref,
  y: Ref,
  before: Ref,
  into: Ref,
  into_s: Ref,
  stay: Ref,
  total: Ref,
  *,
  size: int,
  by_stay: bool,
  by_sweep: bool,
) -> None:
  j = pl.program_id(1)

  @pl.when(j == 0)
  def _() -> None:
    stay[...] = lying[...].T
    total[...] = down(stay, _S)
    into[...] = before[...]

  s, scale = similarities(x, y, stay, sweep)
  d = jnp.zeros_like(s)
  if by_stay:
    d += jnp.exp(s - down(stay, _LSE)) * down(stay, _G)
  if by_sweep:
    d += jnp.exp(s - across(sweep, _LSE)) * across(sweep, _G)
  scaled = (d * scale).astype(y.dtype)
  into[...] += product(scaled, pallas.inside(y, size), 0)
  total[...] += d.sum(1, keepdims=True)

  @pl.when(j == pl.num_programs(1) - 1)
  def _() -> None:
    into_s[...] = total[...].T


def _flow(
  stay: Side,
  sweep: Side,
  stay_weights: Weights | None,
  sweep_weights: Weights | None,
  into: Flow,
  *,
  tile: Tile,
) -> Flow:
  """Adds what flows into the side that stays."""
  stay, sweep = alike(stay, sweep)
  (n, d), m = stay.x.shape, len(sweep.ids)
  cut = pallas.blocks((n, m), _flow_needs(d, stay.x.dtype), tile=tile)
  nothing = jnp.zeros_like(into.s)
  own = *(stay_weights or (nothing, nothing)), into.s
  others = sweep_weights or ()
  x, s = pallas.sweep(
    functools.partial(
      _flow_kernel,
      size=m,
      by_stay=stay_weights is not None,
      by_sweep=sweep_weights is not None,
    ),
    (packed(stay, *own, block=cut.stay), cut.numbers_stay(NUMBERS)),
    (packed(sweep, *others, block=cut.sweep), cut.numbers_sweep(NUMBERS)),
    (stay.x, cut.stays(d)),
    (sweep.x, cut.sweeps(d)),
    (into.x.astype(jnp.float32), cut.stays(d)),
    name="similarity_flow",
    cut=cut,
    out=[
      ((n, d), cut.stays(d)),
      ((1, cut.grid[0] * cut.stay), cut.numbers_stay(1)),
    ],
    scratch=[cut.upright(NUMBERS, jnp.int32), cut.upright(1)],
    products=2 * d,
    exponentials=(stay_weights is not None) + (sweep_weights is not None),
    aliases={4: 0},
  )
  return Flow(x.astype(into.x.dtype), s[0, :n].astype(into.s.dtype))


def flow(
  rows: Side,
  columns: Side,
  row_weights: Weights,
  column_weights: Weights | None,
  into_rows: Flow,
  into_columns: Flow | None,
  *,
  tile: Tile,
) -> tuple[Flow, Flow | None]:
  """Adds what a block of the matrix sends back; see `tiled.flow`."""
  to_rows = _flow(
    rows, columns, row_weights, column_weights, into_rows, tile=tile
  )
  if into_columns is None:
    return to_rows, None
  to_columns = _flow(
    columns, rows, column_weights, row_weights, into_columns, tile=tile[::-1]
  )
  return to_rows, to_columns
