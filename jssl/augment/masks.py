"""Masks of patches, drawn on the device with one random key per image.

Each function masks one image; `jax.vmap` it over keys. Shapes are static, and a
mask depends on its key only, so masks do not change with batch size, number of
devices or mesh. A grid is (rows, columns); patches count in raster order.

    >>> keys = jax.random.split(jax.random.key(0), 8)
    >>> visible, _ = jax.vmap(lambda key: random_visible(key, 196, 49))(keys)
    >>> visible.shape
    (8, 49)
"""

import math
from typing import NamedTuple

import jax
import jax.numpy as jnp
from jaxtyping import Array, Bool, Float, Int

from jssl.typing import Key

# Consecutive rejected blocks after which `blocks` stops, as in iBOT.
_MAX_REJECTIONS = 10


def random_visible(
  key: Key, patches: int, visible: int
) -> tuple[Int[Array, "{visible}"], Int[Array, "hidden"]]:
  """Draws the patches that stay visible, uniformly without replacement.

  MAE (He et al., CVPR 2022) keeps int(patches * (1 - ratio)) of them.

  Args:
    key: key of the image.
    patches: number of patches of the image.
    visible: number of patches to keep, in [1, patches].

  Returns:
    The indices of visible and of hidden patches, each in random order.
  """
  if not 1 <= visible <= patches:
    raise ValueError(f"visible={visible} must be in [1, patches={patches}]")
  order = jnp.argsort(jax.random.uniform(key, (patches,), jnp.float32))
  return order[:visible], order[visible:]


def random_units(
  key: Key, grid: tuple[int, int], ratio: float, unit: int = 1
) -> Bool[Array, "rows columns"]:
  """Hides a random share of square units of patches.

  SimMIM (Xie et al., CVPR 2022) hides ceil(ratio * units) units of 32 px.

  Args:
    key: key of the image.
    grid: rows and columns of patches, both multiples of `unit`.
    ratio: share of units to hide, in (0, 1).
    unit: side of a unit in patches.

  Returns:
    True where a patch is hidden.
  """
  rows, columns = grid
  if rows % unit or columns % unit:
    raise ValueError(f"unit={unit} must divide the grid of {grid} patches")
  if not 0 < ratio < 1:
    raise ValueError(f"ratio={ratio} must be in (0, 1)")
  units = rows // unit * (columns // unit)
  order = jnp.argsort(jax.random.uniform(key, (units,), jnp.float32))
  hidden = (
    jnp.zeros(units, bool).at[order[: math.ceil(ratio * units)]].set(True)
  )
  hidden = hidden.reshape(rows // unit, columns // unit)
  return jnp.repeat(jnp.repeat(hidden, unit, 0), unit, 1)


def blocks(
  key: Key,
  grid: tuple[int, int],
  budget: Float[Array, ""] | float,
  *,
  min_area: float = 4.0,
  max_area: float = math.inf,
  min_aspect: float = 0.3,
  exact: bool = False,
  max_blocks: int = 128,
) -> Bool[Array, "rows columns"]:
  """Hides random rectangles until a budget of patches is used up.

  A block has an area uniform between `min_area` and what is left of the budget,
  and a log-uniform aspect ratio. It is rejected unless it is smaller than the
  grid in both directions and hides between 1 patch and what is left. The mask
  is complete when the budget is used up or 10 blocks in a row were rejected, so
  it may hide fewer patches (iBOT, Zhou et al., ICLR 2022, whose min_area is
  (min(grid) // 3)²; DINOv2, Oquab et al. 2023: min_area 4, max_area half of the
  grid).

  Args:
    key: key of the image.
    grid: rows and columns of patches.
    budget: largest number of patches to hide; may be traced. 0 hides none.
    min_area: smallest area of a block in patches.
    max_area: largest area of a block in patches.
    min_aspect: smallest ratio of height to width; the largest is its inverse.
    exact: True to fill up to int(budget) with random patches (DINOv3).
    max_blocks: number of blocks drawn, accepted or not.

  Returns:
    True where a patch is hidden.
  """
  rows, columns = grid
  if not 0 < min_aspect <= 1:
    raise ValueError(f"min_aspect={min_aspect} must be in (0, 1]")
  block_key, fill_key = jax.random.split(key)
  draws = jax.random.uniform(block_key, (max_blocks, 4), jnp.float32)
  row = jnp.arange(rows)[:, None]
  column = jnp.arange(columns)[None, :]

  def add_block(
    state: tuple[Array, Array], draw: Float[Array, "4"]
  ) -> tuple[tuple[Array, Array], None]:
    hidden, rejections = state
    left = jnp.minimum(budget - hidden.sum(), max_area)
    area = min_area + (left - min_area) * draw[0]
    aspect = min_aspect ** (1 - 2 * draw[1])
    height = jnp.round(jnp.sqrt(jnp.maximum(area, 0) * aspect))
    width = jnp.round(jnp.sqrt(jnp.maximum(area, 0) / aspect))
    # Uniform over all positions where the block fits.
    top = jnp.floor(draw[2] * (rows - height + 1))
    start = jnp.floor(draw[3] * (columns - width + 1))
    block = (row >= top) & (row < top + height)
    block &= (column >= start) & (column < start + width)
    new = (block & ~hidden).sum()
    accepted = (height < rows) & (width < columns)
    accepted &= (new > 0) & (new <= left) & (rejections < _MAX_REJECTIONS)
    hidden = hidden | (block & accepted)
    return (hidden, jnp.where(accepted, 0, rejections + 1)), None

  # A scan of fixed length: the condition of a while loop over a sharded batch
  # would need a collective for every block.
  state = (jnp.zeros(grid, bool), jnp.zeros((), jnp.int32))
  (hidden, _), _ = jax.lax.scan(add_block, state, draws)
  if not exact:
    return hidden
  # Rank hidden patches first, the others at random, and hide the first ones.
  noise = jax.random.uniform(fill_key, (rows * columns,), jnp.float32)
  order = jnp.argsort(jnp.where(hidden.reshape(-1), -1.0, noise))
  count = jnp.floor(jnp.asarray(budget)).astype(int)
  filled = (
    jnp.zeros(rows * columns, bool)
    .at[order]
    .set(jnp.arange(rows * columns) < count)
  )
  return filled.reshape(grid)


class MultiBlock(NamedTuple):
  """Context and targets of an image, as padded lists of patches.

  Attributes:
    context: indices of the context patches, ascending.
    context_valid: False where `context` is padding.
    targets: indices of the patches of each target block, ascending.
    targets_valid: False where `targets` is padding.
  """

  context: Int[Array, "k"]
  context_valid: Bool[Array, "k"]
  targets: Int[Array, "blocks t"]
  targets_valid: Bool[Array, "blocks t"]


def multi_block(
  key: Key,
  grid: tuple[int, int],
  context_patches: int,
  *,
  num_targets: int = 4,
  target_area: tuple[float, float] = (0.15, 0.2),
  target_aspect: tuple[float, float] = (0.75, 1.5),
  context_area: tuple[float, float] = (0.85, 1.0),
  min_context: int = 10,
) -> MultiBlock:
  """Draws the context and the target blocks of I-JEPA.

  The rule of Assran et al. (CVPR 2023): all targets of an image have one size,
  whose area and aspect ratio follow from one uniform number; the context is a
  square block without the patches of any target. Bottom and right edges are
  excluded from positions, so the last row and column are never used. If the
  targets leave fewer than `min_context` + 1 patches, only the first of them
  are removed, as many as leave enough. The official code draws one size per
  step, because blocks of a batch must have one shape there.

  Args:
    key: key of the image.
    grid: rows and columns of patches.
    context_patches: length of the context. The first patches in raster order
      are kept, and a shorter context is padded.
    num_targets: number of target blocks.
    target_area: range of the area of a target as share of the grid.
    target_aspect: range of its height over its width.
    context_area: range of the area of the context block.
    min_context: number of patches that a context must exceed.

  Returns:
    Indices and validity of context [context_patches] and targets
    [num_targets, t], where t is the largest area that a target can have.
  """
  rows, columns = grid
  smallest = int(rows * columns * context_area[0])
  if smallest <= min_context:
    raise ValueError(
      f"a grid of {grid} patches has a context of {smallest} patches; it must "
      f"exceed min_context={min_context}"
    )
  context_size_key, target_size_key, context_key, target_key = jax.random.split(
    key, 4
  )
  height, width = _block_size(target_size_key, grid, target_area, target_aspect)
  targets = jax.vmap(
    lambda key: _random_block(key, grid, height, width).reshape(-1)
  )(jax.random.split(target_key, num_targets))
  height, width = _block_size(context_size_key, grid, context_area, (1.0, 1.0))
  block = _random_block(context_key, grid, height, width).reshape(-1)

  # contexts[i] is the block without the first i targets.
  removed = jnp.cumsum(targets, axis=0) > 0
  none = jnp.zeros((1, rows * columns), bool)
  contexts = block[None] & ~jnp.concatenate([none, removed])
  enough = contexts.sum(axis=1) > min_context
  most = num_targets - jnp.argmax(enough[::-1])
  length = max_target_patches(grid, target_area, target_aspect)
  context, context_valid = _indices(contexts[most], context_patches)
  return MultiBlock(
    context,
    context_valid,
    *jax.vmap(lambda mask: _indices(mask, length))(targets),
  )


def max_target_patches(
  grid: tuple[int, int],
  area: tuple[float, float] = (0.15, 0.2),
  aspect: tuple[float, float] = (0.75, 1.5),
) -> int:
  """Returns the largest number of patches of a target block of I-JEPA."""
  with jax.ensure_compile_time_eval():
    u = jnp.linspace(0, 1, 10_001)
    height, width = _size_of(u, grid, area, aspect)
    return int((height * width).max())


def _size_of(
  u: Float[Array, "*u"],
  grid: tuple[int, int],
  area: tuple[float, float],
  aspect: tuple[float, float],
) -> tuple[Int[Array, "*u"], Int[Array, "*u"]]:
  """Returns height and width of the block that a uniform number stands for."""
  rows, columns = grid
  patches = jnp.floor(rows * columns * (area[0] + u * (area[1] - area[0])))
  ratio = aspect[0] + u * (aspect[1] - aspect[0])
  height = jnp.round(jnp.sqrt(patches * ratio)).astype(int)
  width = jnp.round(jnp.sqrt(patches / ratio)).astype(int)
  return jnp.minimum(height, rows - 1), jnp.minimum(width, columns - 1)


def _block_size(
  key: Key,
  grid: tuple[int, int],
  area: tuple[float, float],
  aspect: tuple[float, float],
) -> tuple[Int[Array, ""], Int[Array, ""]]:
  return _size_of(
    jax.random.uniform(key, dtype=jnp.float32), grid, area, aspect
  )


def _random_block(
  key: Key,
  grid: tuple[int, int],
  height: Int[Array, ""],
  width: Int[Array, ""],
) -> Bool[Array, "rows columns"]:
  """Places a block uniformly, never at the bottom or right edge."""
  rows, columns = grid
  draw = jax.random.uniform(key, (2,), jnp.float32)
  top = jnp.floor(draw[0] * (rows - height)).astype(int)
  left = jnp.floor(draw[1] * (columns - width)).astype(int)
  row, column = jnp.arange(rows)[:, None], jnp.arange(columns)[None, :]
  inside = (row >= top) & (row < top + height)
  return inside & (column >= left) & (column < left + width)


def _indices(
  mask: Bool[Array, "n"], length: int
) -> tuple[Int[Array, "{length}"], Bool[Array, "{length}"]]:
  """Returns the first `length` indices of a mask, padded with 0."""
  (indices,) = jnp.nonzero(mask, size=length, fill_value=0)
  return indices, jnp.arange(length) < mask.sum()
