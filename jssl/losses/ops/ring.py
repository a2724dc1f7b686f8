"""Around a mesh: something travels, and everybody adds to it."""

from collections.abc import Callable
from typing import TypeVar

import jax

from jssl.losses.ops.layout import Layout
from jssl.typing import PyTree

Stay = TypeVar("Stay")
Part = TypeVar("Part")
Go = TypeVar("Go")
Home = TypeVar("Home")

# Of a part that travels. Two are in flight: one comes while one goes.
_PART_BYTES = 16 * 2**20


def around(
  layout: Layout,
  body: Callable[[Stay, Part, Go], tuple[Stay, Go]],
  finish: Callable[[Part, Go], Home],
  travelling: Part,
  stay: Stay,
  go: Go,
  *,
  tile: int,
) -> tuple[Stay, Home]:
  """Folds `body` over the rows of all devices, this one's first.

  Rows travel in parts of whole tiles, one part after the other, each with what
  is added up for it: a device holds its own rows, and two parts of others'.

  Args:
    layout: says which devices; inside of `shard_map`.
    body: `(stay, part, go) -> (stay, go)`.
    finish: `(part, go) -> home`, when a part is back.
    travelling: rows that go once around, whole tiles of them.
    stay: what `body` keeps on this device.
    go: what it adds to the travelling rows, and goes with them.
    tile: rows of a tile.

  Returns:
    What stayed, and what has come home with the rows of this device.
  """
  size = layout.size
  to_next = [(i, (i + 1) % size) for i in range(size)]

  def move(tree: PyTree) -> PyTree:
    return jax.tree.map(
      lambda a: jax.lax.ppermute(a, layout.axes, to_next), tree
    )

  def step(_: int, carry: PyTree) -> PyTree:
    stay, part, go = carry
    stay, go = body(stay, part, go)
    return stay, move(part), move(go)

  def once(stay: Stay, part: tuple[Part, Go]) -> tuple[Stay, Home]:
    stay, *home = jax.lax.fori_loop(0, size, step, (stay, *part))
    return stay, finish(*home)

  parts = _parts((travelling, go), tile)
  if parts == 1:
    return once(stay, (travelling, go))

  def cut(a: jax.Array) -> jax.Array:
    return a.reshape(parts, -1, *a.shape[1:])

  stay, home = jax.lax.scan(once, stay, jax.tree.map(cut, (travelling, go)))
  return stay, jax.tree.map(lambda a: a.reshape(-1, *a.shape[2:]), home)


def _parts(tree: PyTree, tile: int) -> int:
  leaves = jax.tree.leaves(tree)
  tiles = len(leaves[0]) // tile
  bytes_ = sum(a.size * a.dtype.itemsize for a in leaves)
  wanted = min(tiles, -(-bytes_ // _PART_BYTES))
  return next(k for k in range(wanted, tiles + 1) if tiles % k == 0)
