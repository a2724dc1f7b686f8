"""The same over a mesh: the columns go round, the rows stay."""

from jaxtyping import Array, Float

from jssl.losses.ops import ring
from jssl.losses.ops.layout import Layout
from jssl.losses.ops.sigmoid import tiled
from jssl.losses.ops.sigmoid.reference import Floats, Ids
from jssl.losses.ops.sigmoid.tiled import Sums
from jssl.typing import PyTree


def add(
  layout: Layout,
  floats: Floats,
  ids: Ids,
  sums: Sums,
  into_y: Float[Array, "m d"] | None,
  *,
  tile: tuple[int, int],
) -> tuple[Sums, Float[Array, "m d"] | None]:
  """Adds the pairs with the columns of all devices; see `tiled.add`.

  Returns:
    Sums, and the gradient by the columns in their own dtype.
  """

  def body(sums: Sums, part: PyTree, into: PyTree) -> PyTree:
    y, column_ids = part
    return tiled.add(
      floats._replace(y=y), Ids(ids.x, column_ids), sums, into, tile=tile
    )

  def finish(part: PyTree, into: PyTree) -> PyTree:
    return None if into is None else into.astype(part[0].dtype)

  return ring.around(
    layout, body, finish, (floats.y, ids.y), sums, into_y, tile=tile[1]
  )
