"""The same over a mesh: the rows of others come by."""

from jaxtyping import Array, Float, Int

from jssl.losses.ops import ring
from jssl.losses.ops.layout import Layout
from jssl.losses.ops.nearest import tiled
from jssl.losses.ops.nearest.tiled import Best
from jssl.losses.ops.similarity.reference import Side


def add(
  layout: Layout,
  rows: Side,
  positions: Int[Array, "n"],
  best: Best,
  *,
  tile: int,
) -> Best:
  """Looks at the rows of all devices; see `tiled.add`."""
  return ring.around(
    layout,
    lambda best, part, go: (tiled.add(rows, *part, best, tile=tile), go),
    lambda part, go: go,
    (rows, positions),
    best,
    None,
    tile=tile,
  )[0]


def take(
  layout: Layout,
  x: Float[Array, "n d"],
  positions: Int[Array, "n"],
  index: Int[Array, "n"],
  taken: Float[Array, "n d"],
  *,
  tile: int,
) -> Float[Array, "n d"]:
  """Returns the rows from wherever they are; see `tiled.take`."""
  return ring.around(
    layout,
    lambda taken, part, go: (tiled.take(*part, index, taken), go),
    lambda part, go: go,
    (x, positions),
    taken,
    None,
    tile=tile,
  )[0]


def give(
  layout: Layout,
  into: Float[Array, "n d"],
  positions: Int[Array, "n"],
  index: Int[Array, "n"],
  g: Float[Array, "n d"],
  *,
  tile: int,
) -> Float[Array, "n d"]:
  """Sends to rows wherever they are; see `tiled.give`."""
  return ring.around(
    layout,
    lambda stay, part, go: (stay, tiled.give(go, part, index, g)),
    lambda part, go: go,
    positions,
    (),
    into,
    tile=tile,
  )[1]
