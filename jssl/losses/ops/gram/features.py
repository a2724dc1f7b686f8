"""The same by features, in blocks of the [d, d] matrices."""

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float

from jssl.losses.ops.gram.tiled import Flow, Side, no_flow
from jssl.losses.ops.layout import Layout
from jssl.losses.ops.matmul import product, weighted, wide
from jssl.typing import PyTree

_BLOCK = 1024
_LEAST = 128


def _block(d: int) -> int:
  """Returns the most rows of a [d, d] matrix that divide it evenly."""
  best = next(b for b in range(min(d, _BLOCK), 0, -1) if d % b == 0)
  # Rather the whole of it than strips of a few rows, as for a prime d.
  return best if best >= min(d, _BLOCK, _LEAST) else d


def add(
  layout: Layout,
  rows: Side,
  columns: Side | None,
  *,
  diagonal: bool,
  gradients: bool,
) -> tuple[Float[Array, ""], Flow | None, Flow | None]:
  """Returns <A^T B, C^T E> over all devices, and what flows back of it.

  Args:
    layout: of the rows; inside of `shard_map`.
    rows: of this device.
    columns: the same; None takes the rows.
    diagonal: whether the diagonals of both moments count.
    gradients: whether they are wanted.
  """

  def total(x: Array) -> Array:
    return jax.lax.psum(x, layout.axes) if layout.axes else x

  def kept(moment: Float[Array, "m d"], k: Array) -> Float[Array, "m d"]:
    if diagonal:
      return moment
    row, column = (
      jax.lax.broadcasted_iota(jnp.int32, moment.shape, axis) for axis in (0, 1)
    )
    return jnp.where(row + k * block == column, 0, moment)

  a, b = rows.rows()
  c, e = (rows if columns is None else columns).rows()
  block = _block(a.shape[1])
  # As in `tiled`: one flow stands for two where two factors are the same.
  twice = 1 + (columns is None)

  def onto(
    flow: Flow, k: Array, first: Array, second: Array, moment: Array
  ) -> Flow:
    times = twice * (2 if flow.second is None else 1)
    part = weighted(times * moment, second.T).T
    to_first = jax.lax.dynamic_update_slice_in_dim(
      flow.first, part, k * block, 1
    )
    if flow.second is None:
      return Flow(to_first, None)
    step = product(first, (times * moment).astype(first.dtype))
    return Flow(to_first, flow.second + step)

  def body(k: Array, state: PyTree) -> PyTree:
    value, to_rows, to_columns = state

    def cut(x: Array) -> Array:
      return jax.lax.dynamic_slice_in_dim(x, k * block, block, 1)

    f = kept(total(product(cut(a).T, b)), k)
    m = f if columns is None else kept(total(product(cut(c).T, e)), k)
    if to_rows is not None:
      to_rows = onto(to_rows, k, cut(a), b, m)
    if to_columns is not None:
      to_columns = onto(to_columns, k, cut(c), e, f)
    return value + jnp.sum(f * m), to_rows, to_columns

  into_rows = no_flow(rows) if gradients else None
  into_columns = no_flow(columns) if gradients and columns else None
  zero = jnp.zeros((), wide(a.dtype))
  return jax.lax.fori_loop(
    0, a.shape[1] // block, body, (zero, into_rows, into_columns)
  )
