"""The same over a mesh: the columns go round, the rows stay."""

from jssl.losses.ops import ring
from jssl.losses.ops.layout import Layout
from jssl.losses.ops.similarity.reference import Floats, Side
from jssl.losses.ops.similarity.tiled import (
  Block,
  Flow,
  Sums,
  Tile,
  Weights,
  gradients,
)
from jssl.typing import PyTree


def add(
  block: Block,
  layout: Layout,
  rows: Side,
  columns: Side,
  row_sums: Sums,
  column_sums: Sums | None,
  *,
  tile: Tile,
) -> tuple[Sums, Sums | None]:
  """Sums over the columns of all devices; see `tiled.add`."""
  return ring.around(
    layout,
    lambda stay, part, go: block.add(rows, part, stay, go, tile=tile),
    lambda part, go: go,
    columns,
    row_sums,
    column_sums,
    tile=tile[1],
  )


def flow(
  block: Block,
  layout: Layout,
  rows: Side,
  columns: Side,
  row_weights: Weights,
  column_weights: Weights | None,
  into_rows: Flow,
  into_columns: Flow | None,
  *,
  tile: Tile,
) -> tuple[Flow, Floats | None]:
  """Sends back to the sides on all devices; see `tiled.flow`.

  Returns:
    What flows into the rows, and the gradients of the columns.
  """

  def body(stay: Flow, part: Side, go: PyTree) -> tuple[Flow, PyTree]:
    weights, into = go
    stay, into = block.flow(
      rows, part, row_weights, weights, stay, into, tile=tile
    )
    return stay, (weights, into)

  def finish(part: Side, go: PyTree) -> Floats | None:
    # At once, part by part: all of `into` would be wide and whole.
    return None if go[1] is None else gradients(part, go[1])

  return ring.around(
    layout,
    body,
    finish,
    columns,
    into_rows,
    (column_weights, into_columns),
    tile=tile[1],
  )
