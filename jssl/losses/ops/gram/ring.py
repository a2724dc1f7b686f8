"""The same by rows, over a mesh: the columns go round, the rows stay."""

from jaxtyping import Array, Float

from jssl.losses.ops import ring
from jssl.losses.ops.gram import tiled
from jssl.losses.ops.gram.reference import Pair
from jssl.losses.ops.gram.tiled import Flow, Side
from jssl.losses.ops.layout import Layout
from jssl.typing import PyTree


def add(
  layout: Layout,
  rows: Side,
  columns: Side,
  sums: Float[Array, "n"],
  into_rows: Flow | None,
  into_columns: Flow | None,
  *,
  tile: tuple[int, int],
) -> tuple[Float[Array, "n"], Flow | None, Flow | None]:
  """Adds the blocks with the columns of all devices; see `tiled.add`."""

  def body(stay: PyTree, part: PyTree, go: Flow | None) -> PyTree:
    xs, real = part
    sums, into_rows = stay
    # Only rows travel: shifts and scales are the same everywhere.
    first, second = columns.pair
    first = first._replace(x=xs[0])
    second = None if second is None else second._replace(x=xs[1])
    sums, into_rows, go = tiled.add(
      rows, Side(Pair(first, second), real), sums, into_rows, go, tile=tile
    )
    return (sums, into_rows), go

  xs = tuple(None if f is None else f.x for f in columns.pair)
  (sums, into_rows), into_columns = ring.around(
    layout,
    body,
    lambda part, go: go,
    (xs, columns.real),
    (sums, into_rows),
    into_columns,
    tile=tile[1],
  )
  return sums, into_rows, into_columns
