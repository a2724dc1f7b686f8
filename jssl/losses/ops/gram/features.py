"""Inner products of moments by features, in strips of the [d, d] matrices.

Used where there are at least as many rows as features.
"""

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float

from jssl.losses.ops.gram.tiled import Gradient, Operand, zero_gradient
from jssl.losses.ops.layout import Layout
from jssl.losses.ops.matmul import cast_matmul, matmul, upcast_dtype
from jssl.typing import PyTree

_MAX_STRIP = 1024
_MIN_STRIP = 128


def _strip_rows(d: int) -> int:
  """Returns the largest number of rows that divides a [d, d] matrix evenly."""
  largest = min(d, _MAX_STRIP)
  best = next(b for b in range(largest, 0, -1) if d % b == 0)
  # The whole matrix instead of very thin strips, as for a prime d.
  return best if best >= min(largest, _MIN_STRIP) else d


def inner(
  layout: Layout,
  rows: Operand,
  columns: Operand | None,
  *,
  diagonal: bool,
  gradients: bool,
) -> tuple[Float[Array, ""], Gradient | None, Gradient | None]:
  """Returns <A^T B, C^T E> over all devices, and gradients by rows and columns.

  Each device multiplies its own rows. Each [strip, d] strip of both moments is
  all-reduced, multiplied, and dropped. `columns` is None for the rows.
  """
  a, b = rows.rows()
  c, e = (rows if columns is None else columns).rows()
  strip = _strip_rows(a.shape[1])

  def masked(part: Float[Array, "m d"], k: Array) -> Float[Array, "m d"]:
    if diagonal:
      return part
    row, column = (
      jax.lax.broadcasted_iota(jnp.int32, part.shape, axis) for axis in (0, 1)
    )
    return jnp.where(row + k * strip == column, 0, part)

  def add(
    total: Gradient, k: Array, first: Array, second: Array, moment: Array
  ) -> Gradient:
    times = total.multiplicity(symmetric=columns is None)
    part = cast_matmul(times * moment, second.T).T
    by_first = jax.lax.dynamic_update_slice_in_dim(
      total.first, part, k * strip, 1
    )
    if total.second is None:
      return Gradient(by_first, None)
    step = matmul(first, (times * moment).astype(first.dtype))
    return Gradient(by_first, total.second + step)

  def body(k: Array, state: PyTree) -> PyTree:
    value, by_rows, by_columns = state

    def cut(x: Array) -> Array:
      return jax.lax.dynamic_slice_in_dim(x, k * strip, strip, 1)

    f = masked(layout.all_reduce(matmul(cut(a).T, b)), k)
    m = f
    if columns is not None:
      m = masked(layout.all_reduce(matmul(cut(c).T, e)), k)
    if by_rows is not None:
      by_rows = add(by_rows, k, cut(a), b, m)
    if by_columns is not None:
      by_columns = add(by_columns, k, cut(c), e, f)
    return value + jnp.sum(f * m), by_rows, by_columns

  init = (
    jnp.zeros((), upcast_dtype(a.dtype)),
    zero_gradient(rows) if gradients else None,
    zero_gradient(columns) if gradients and columns else None,
  )
  return jax.lax.fori_loop(0, a.shape[1] // strip, body, init)
