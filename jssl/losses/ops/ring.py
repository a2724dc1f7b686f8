"""Ring exchange: shards rotate over the devices of a mesh."""

from collections.abc import Callable

import jax

from jssl.typing import PyTree, Step

# Bytes of a rotating block. Two blocks exist at a time on each device: one is
# received while the other is sent.
_BLOCK_BYTES = 16 * 2**20


def ring_fold(
  axes: tuple[str, ...],
  body: Callable[[PyTree, PyTree, PyTree], tuple[PyTree, PyTree]],
  resident: PyTree,
  rotating: PyTree,
  partial: PyTree,
  *,
  tile: int,
  finish: Callable[[PyTree, PyTree], PyTree] = lambda block, partial: partial,
) -> tuple[PyTree, PyTree]:
  """Applies `body` to each device's shard in ring order, local shard first.

  As in ring attention, a shard rotates together with its accumulators, by one
  `ppermute` to the next device per step. It is back after as many steps as
  there are devices. Large shards are cut into blocks of whole tiles that rotate
  one after the other: a device holds its own shard and two foreign blocks.

  Args:
    axes: mesh axes of the ring; () applies `body` to the local shard only.
    body: `(resident, block, partial) -> (resident, partial)`.
    resident: state that stays on this device.
    rotating: this device's shard: arrays of whole tiles.
    partial: accumulators of the shard's rows.
    tile: rows of a tile.
    finish: `(block, partial) -> result`, when a block is back.

  Returns:
    The resident state, and the result for this device's shard.
  """
  size = jax.lax.axis_size(axes) if axes else 1
  to_next = [(i, (i + 1) % size) for i in range(size)]

  def rotate(tree: PyTree) -> PyTree:
    return jax.tree.map(lambda a: jax.lax.ppermute(a, axes, to_next), tree)

  def step(_: Step, state: PyTree) -> PyTree:
    resident, block, partial = state
    resident, partial = body(resident, block, partial)
    return resident, rotate(block), rotate(partial)

  def full_rotation(
    resident: PyTree, shard: tuple[PyTree, PyTree]
  ) -> tuple[PyTree, PyTree]:
    if not axes:
      resident, partial = body(resident, *shard)
      return resident, finish(shard[0], partial)
    resident, *back = jax.lax.fori_loop(0, size, step, (resident, *shard))
    return resident, finish(*back)

  shard = rotating, partial
  blocks = _number_of_blocks(shard, tile) if axes else 1
  if blocks == 1:
    return full_rotation(resident, shard)
  cut = jax.tree.map(lambda a: a.reshape(blocks, -1, *a.shape[1:]), shard)
  resident, result = jax.lax.scan(full_rotation, resident, cut)
  return resident, jax.tree.map(lambda a: a.reshape(-1, *a.shape[2:]), result)


def _number_of_blocks(tree: PyTree, tile: int) -> int:
  leaves = jax.tree.leaves(tree)
  tiles = len(leaves[0]) // tile
  total = sum(a.size * a.dtype.itemsize for a in leaves)
  wanted = min(tiles, -(-total // _BLOCK_BYTES))
  return next(k for k in range(wanted, tiles + 1) if tiles % k == 0)
