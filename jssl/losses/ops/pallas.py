"""How a TPU kernel goes over pairs of rows: one side stays, the other sweeps.

What is summed over a sweep never leaves the chip's vector memory. Blocks may
hang over the end of an array; what lies there may be anything, NaN too.

Numbers of a row (a scale, a sum) lie beside those of the next one. As [n, 1]
each of them would fill 128 lanes.
"""

import dataclasses
import math
from collections.abc import Callable, Sequence
from typing import Any

import jax
import jax.numpy as jnp
from jax.experimental import pallas as pl
from jax.experimental.pallas import tpu as pltpu
from jaxtyping import Array, Float

from jssl.losses.ops import tiles

Ref = Any
"""What a kernel reads a block from, and writes one to."""

LANES = 128

# Rows of the largest blocks. With 512 that stay, each byte of the sweep is
# worth 512 operations and more, twice what a v5e needs to be kept busy.
_STAY, _SWEEP = 1024, 512

# A kernel has 16 MiB of vector memory. What is said here of the needs of one
# agrees within a quarter with what the compiler takes for a v5e.
_VMEM = 13 * 2**20
# Of each pair: products, S and its exponential.
_PAIR_BYTES = 3 * 4
# Of each row that stays: its numbers, and two sums.
_ROW_BYTES = 3 * 4 * LANES

# How kernels run where there is no TPU.
_interpret: Any = True


@dataclasses.dataclass(frozen=True)
class Blocks:
  """How both sides are cut.

  Attributes:
    stay: rows of a block that stays.
    sweep: rows of a block that sweeps.
    grid: blocks of each.
  """

  stay: int
  sweep: int
  grid: tuple[int, int]

  def stays(self, width: int) -> "Block":
    """Returns that of features that stay."""
    return Block((self.stay, width), lambda i, j: (i, 0))

  def sweeps(self, width: int) -> "Block":
    """Returns that of features that sweep."""
    return Block((self.sweep, width), lambda i, j: (j, 0))

  def numbers_stay(self, count: int) -> "Block":
    """Returns that of numbers of rows that stay, [count, n]."""
    return Block((count, self.stay), lambda i, j: (0, i))

  def numbers_sweep(self, count: int) -> "Block":
    """Returns that of numbers of rows that sweep, [count, m]."""
    return Block((count, self.sweep), lambda i, j: (0, j))

  def whole(self, shape: tuple[int, int]) -> "Block":
    """Returns that of an array which is in vector memory all the time."""
    return Block(shape, lambda i, j: (0, 0))

  def upright(self, count: int, dtype: Any = jnp.float32) -> Any:
    """Returns room in vector memory for numbers of rows that stay."""
    return pltpu.VMEM((self.stay, count), dtype)


@dataclasses.dataclass(frozen=True)
class Block:
  """Which part of an array a kernel sees: a shape, and where that lies."""

  shape: tuple[int, int]
  index: Callable[[Any, Any], tuple[Any, Any]]

  def bytes_moved(self, grid: tuple[int, int], itemsize: int) -> int:
    """Returns the bytes of all blocks that differ from the one before."""
    corner = self.index(0, 0)
    if self.index(0, 1) != corner:
      times = math.prod(grid)
    else:
      times = grid[0] if self.index(1, 0) != corner else 1
    return times * math.prod(self.shape) * itemsize


def operand_bytes(width: int, dtype: Any) -> int:
  """Returns the bytes in vector memory of a row that is multiplied.

  That is two of it, one that comes while the other is in use; float32 is also
  taken apart there, since it is multiplied as several bfloat16.
  """
  copies = 2 if jnp.dtype(dtype).itemsize < 4 else 5
  return copies * _row_bytes(width, dtype)


def sum_bytes(width: int, *, carried: bool) -> int:
  """Returns the bytes in vector memory of a row that is summed into.

  Args:
    width: of the row.
    carried: whether there is a sum to start with.
  """
  # One of each comes or goes while another is in use.
  return (4 if carried else 2) * _row_bytes(width, jnp.float32)


def _row_bytes(width: int, dtype: Any) -> int:
  return -(-width // LANES) * LANES * jnp.dtype(dtype).itemsize


def _fit(stay: int, sweep: int, needed: tuple[int, int]) -> bool:
  rows = stay * (needed[0] + _ROW_BYTES) + sweep * needed[1]
  return rows + stay * sweep * _PAIR_BYTES <= _VMEM


def unfit(dtype: Any, needed: tuple[int, int]) -> str | None:
  """Returns why a kernel can't run, None if it can.

  Args:
    dtype: of the features.
    needed: bytes of vector memory for each row that stays, that sweeps.
  """
  if dtype not in (jnp.bfloat16, jnp.float32):
    name = jnp.dtype(dtype).name
    return f"a TPU multiplies bfloat16 and float32, features are {name}"
  if not _fit(LANES, LANES, needed):
    return (
      f"features are too wide: {LANES} rows of {sum(needed)} bytes don't fit "
      f"into {_VMEM} bytes of vector memory"
    )
  return None


def blocks(
  rows: tuple[int, int], needed: tuple[int, int], *, tile: tuple[int, int]
) -> Blocks:
  """Returns how both sides are cut.

  Args:
    rows: that stay, that sweep.
    needed: bytes of vector memory for each of them.
    tile: rows of a block are at most about as many, but 128 at least.
  """
  stay, sweep = (
    max(LANES, min(most, 1 << (size.bit_length() - 1)))
    for most, size in zip((_STAY, _SWEEP), tile, strict=True)
  )
  # The more rows stay, the fewer bytes move: those that sweep go first.
  while not _fit(stay, sweep, needed) and stay > LANES:
    if sweep > max(LANES, stay // 4):
      sweep //= 2
    else:
      stay //= 2
  stay = tiles.fitting(rows[0], stay, align=LANES)
  sweep = tiles.fitting(rows[1], sweep, align=LANES)
  return Blocks(stay, sweep, (-(-rows[0] // stay), -(-rows[1] // sweep)))


def inside(ref: Ref, size: int) -> Array:
  """Returns a block that sweeps, 0 where it hangs over the end of an array.

  A sum over the sweep needs it, since 0 times NaN is NaN.

  Args:
    ref: to the block.
    size: rows of the array.
  """
  block = ref[...]
  if size % len(block) == 0:
    return block
  left = size - pl.program_id(1) * len(block)
  here = jax.lax.broadcasted_iota(jnp.int32, block.shape, 0) < left
  return jnp.where(here, block, jnp.zeros_like(block))


def sweep(
  kernel: Callable[..., None],
  *args: tuple[Array, Block],
  name: str,
  cut: Blocks,
  out: Sequence[tuple[tuple[int, int], Block]],
  scratch: Sequence[Any],
  products: int,
  exponentials: int,
  aliases: dict[int, int] | None = None,
  in_order: bool = False,
) -> list[Float[Array, "_ _"]]:
  """Runs a kernel on all pairs of blocks, the whole sweep for each that stays.

  Args:
    kernel: of references to the blocks of `args`, `out` and `scratch`.
    *args: arrays, and how they are cut.
    name: for profiles.
    cut: how both sides are.
    out: shapes of the results, float32, and how they are cut.
    scratch: vector memory that is kept from step to step.
    products: how wide in all is what is multiplied, for each pair.
    exponentials: of each pair.
    aliases: arguments whose memory is that of a result.
    in_order: whether blocks that stay depend on those before.
  """
  varying = frozenset[str]().union(
    *(jax.typeof(a).manual_axis_type.varying for a, _ in args)
  )
  shapes = [
    jax.ShapeDtypeStruct(
      shape,
      jnp.float32,
      manual_axis_type=jax.sharding.ManualAxisType(varying=varying),
    )
    for shape, _ in out
  ]
  pairs = math.prod(cut.grid) * cut.stay * cut.sweep
  moved = [(block, a.dtype.itemsize) for a, block in args]
  moved += [(block, 4) for _, block in out]
  cost = pl.CostEstimate(
    flops=2 * pairs * products,
    transcendentals=pairs * exponentials,
    bytes_accessed=sum(b.bytes_moved(cut.grid, size) for b, size in moved),
  )

  def run(interpret: Any) -> Callable[..., list[Array]]:
    return pl.pallas_call(
      kernel,
      out_shape=shapes,
      grid=cut.grid,
      in_specs=[pl.BlockSpec(b.shape, b.index) for _, b in args],
      out_specs=[pl.BlockSpec(b.shape, b.index) for _, b in out],
      scratch_shapes=scratch,
      input_output_aliases=aliases or {},
      interpret=interpret,
      name=name,
      cost_estimate=cost,
      compiler_params=pltpu.CompilerParams(
        dimension_semantics=(
          "arbitrary" if in_order else "parallel",
          "arbitrary",
        )
      ),
    )

  # What is compiled for need not be what this process runs on.
  return jax.lax.platform_dependent(
    *(a for a, _ in args), tpu=run(False), default=run(_interpret)
  )
