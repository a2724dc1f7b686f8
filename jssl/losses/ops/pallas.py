"""TPU kernels over pairs of rows: one operand resident, the other streamed.

The grid is (resident blocks, streamed blocks), the streamed axis innermost. For
each resident block the kernel visits all streamed blocks, and accumulates in
VMEM: accumulators reach HBM once per resident block. The last block of an array
may be partial; its padding holds arbitrary values, NaN included.

Scalars of rows (scale, bias, log-sum-exp, ...) are stored as [count, n], with
rows along the lanes: as [n, 1] each scalar would fill 128 lanes.
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
"""Reference to a block in VMEM."""

LANES = 128

# Rows of the largest blocks. With 512 resident rows, each streamed byte is used
# for 512 operations or more, twice what keeps a v5e busy.
_MAX_RESIDENT, _MAX_STREAMED = 1024, 512

# A kernel has 16 MiB of VMEM. The estimates below agree within a quarter with
# what the compiler allocates on a v5e.
_VMEM = 13 * 2**20
# Bytes per pair: products, S and its exponential.
_PAIR_BYTES = 3 * 4
# Bytes per resident row: its scalars, and two sums.
_ROW_BYTES = 3 * 4 * LANES

# The `interpret` argument of kernels on all platforms but TPU.
_interpret: Any = True


@dataclasses.dataclass(frozen=True)
class Blocks:
  """Block sizes of both operands, and the block specs that follow from them.

  Attributes:
    resident: rows of a resident block.
    streamed: rows of a streamed block.
    grid: number of resident and of streamed blocks.
  """

  resident: int
  streamed: int
  grid: tuple[int, int]

  def resident_rows(self, width: int) -> pl.BlockSpec:
    """Returns the spec of resident features, [n, width]."""
    return pl.BlockSpec((self.resident, width), lambda i, j: (i, 0))

  def streamed_rows(self, width: int) -> pl.BlockSpec:
    """Returns the spec of streamed features, [m, width]."""
    return pl.BlockSpec((self.streamed, width), lambda i, j: (j, 0))

  def resident_scalars(self, count: int) -> pl.BlockSpec:
    """Returns the spec of scalars of resident rows, [count, n]."""
    return pl.BlockSpec((count, self.resident), lambda i, j: (0, i))

  def streamed_scalars(self, count: int) -> pl.BlockSpec:
    """Returns the spec of scalars of streamed rows, [count, m]."""
    return pl.BlockSpec((count, self.streamed), lambda i, j: (0, j))

  def whole(self, shape: tuple[int, int]) -> pl.BlockSpec:
    """Returns the spec of an array that is in VMEM throughout."""
    return pl.BlockSpec(shape, lambda i, j: (0, 0))

  def scratch(self, count: int, dtype: Any = jnp.float32) -> Any:
    """Allocates VMEM for scalars of resident rows, transposed: [n, count]."""
    return pltpu.VMEM((self.resident, count), dtype)


def _bytes_moved(spec: Any, grid: tuple[int, int], itemsize: int) -> int:
  """Returns the bytes of all blocks that differ from the previous block."""
  corner = spec.index_map(0, 0)
  if spec.index_map(0, 1) != corner:
    times = math.prod(grid)
  else:
    times = grid[0] if spec.index_map(1, 0) != corner else 1
  return times * math.prod(spec.block_shape) * itemsize


def operand_bytes(width: int, dtype: Any) -> int:
  """Returns the VMEM bytes of a row that enters a matmul.

  Rows are double-buffered. float32 also needs the bfloat16 parts into which the
  matrix unit splits it.
  """
  copies = 2 if jnp.dtype(dtype).itemsize < 4 else 5
  return copies * _row_bytes(width, dtype)


def sum_bytes(width: int, *, carried: bool) -> int:
  """Returns the VMEM bytes of an accumulator row, double-buffered.

  Twice as many for a carried accumulator, which starts from an input.
  """
  return (4 if carried else 2) * _row_bytes(width, jnp.float32)


def _row_bytes(width: int, dtype: Any) -> int:
  return -(-width // LANES) * LANES * jnp.dtype(dtype).itemsize


def _fits(resident: int, streamed: int, row_bytes: tuple[int, int]) -> bool:
  rows = resident * (row_bytes[0] + _ROW_BYTES) + streamed * row_bytes[1]
  return rows + resident * streamed * _PAIR_BYTES <= _VMEM


def unsupported(dtype: Any, row_bytes: tuple[int, int]) -> str | None:
  """Returns the reason why a kernel cannot run, None if it can.

  `row_bytes` are the VMEM bytes of each resident and of each streamed row.
  """
  if dtype not in (jnp.bfloat16, jnp.float32):
    name = jnp.dtype(dtype).name
    return f"a TPU multiplies bfloat16 and float32, but the features are {name}"
  if not _fits(LANES, LANES, row_bytes):
    return (
      f"the features are too wide: {LANES} rows of {sum(row_bytes)} bytes do "
      f"not fit into {_VMEM} bytes of VMEM"
    )
  return None


def block_sizes(
  rows: tuple[int, int], row_bytes: tuple[int, int], *, tile: tuple[int, int]
) -> Blocks:
  """Chooses the largest blocks that fit into VMEM.

  Args:
    rows: number of resident and of streamed rows.
    row_bytes: VMEM bytes of each of them.
    tile: approximate upper bound of the rows of a block (at least 128).
  """
  resident, streamed = (
    max(LANES, min(most, 1 << (size.bit_length() - 1)))
    for most, size in zip((_MAX_RESIDENT, _MAX_STREAMED), tile, strict=True)
  )
  # More resident rows mean fewer bytes streamed: shrinks streamed blocks first.
  while not _fits(resident, streamed, row_bytes) and resident > LANES:
    if streamed > max(LANES, resident // 4):
      streamed //= 2
    else:
      resident //= 2
  resident = tiles.tile_size(rows[0], resident, align=LANES)
  streamed = tiles.tile_size(rows[1], streamed, align=LANES)
  grid = -(-rows[0] // resident), -(-rows[1] // streamed)
  return Blocks(resident, streamed, grid)


def zero_padding(ref: Ref, size: int) -> Array:
  """Reads a streamed block, with zeros beyond the end of its array.

  Sums over streamed rows need this, since 0 times NaN is NaN. `size` is the
  number of rows of the array.
  """
  block = ref[...]
  if size % len(block) == 0:
    return block
  left = size - pl.program_id(1) * len(block)
  valid = jax.lax.broadcasted_iota(jnp.int32, block.shape, 0) < left
  return jnp.where(valid, block, jnp.zeros_like(block))


def call_kernel(
  kernel: Callable[..., None],
  *args: tuple[Array, pl.BlockSpec],
  name: str,
  blocks: Blocks,
  out: Sequence[tuple[tuple[int, int], pl.BlockSpec]],
  scratch: Sequence[Any],
  contracted: int,
  exponentials: int,
  aliases: dict[int, int] | None = None,
  sequential: bool = False,
) -> Sequence[Float[Array, "_ _"]]:
  """Runs a kernel on all pairs of blocks.

  Args:
    kernel: function of references to the blocks of `args`, `out`, `scratch`.
    *args: arrays and their block specs.
    name: name of the kernel in profiles.
    blocks: block sizes.
    out: shapes of the float32 results, and their block specs.
    scratch: VMEM that persists between grid steps.
    contracted: total length of the dot products of a pair, for the cost.
    exponentials: number of exponentials of a pair, for the cost.
    aliases: arguments that share memory with a result.
    sequential: True if resident blocks depend on earlier ones.
  """
  pairs = math.prod(blocks.grid) * blocks.resident * blocks.streamed
  moved = [(spec, a.dtype.itemsize) for a, spec in args]
  moved += [(spec, 4) for _, spec in out]
  cost = pl.CostEstimate(
    flops=2 * pairs * contracted,
    transcendentals=pairs * exponentials,
    bytes_accessed=sum(_bytes_moved(s, blocks.grid, size) for s, size in moved),
  )
  return run_kernel(
    kernel,
    *args,
    name=name,
    grid=blocks.grid,
    out=[(shape, jnp.float32, spec) for shape, spec in out],
    scratch=scratch,
    cost=cost,
    semantics=("arbitrary" if sequential else "parallel", "arbitrary"),
    aliases=aliases,
  )


def run_kernel(
  kernel: Callable[..., None],
  *args: tuple[Array, pl.BlockSpec],
  name: str,
  grid: tuple[int, ...],
  out: Sequence[tuple[tuple[int, ...], Any, pl.BlockSpec]],
  scratch: Sequence[Any],
  cost: pl.CostEstimate,
  semantics: Sequence[Any],
  aliases: dict[int, int] | None = None,
) -> Sequence[Array]:
  """Runs a kernel on a grid of blocks; interprets it on other platforms.

  Args:
    kernel: function of references to the blocks of `args`, `out`, `scratch`.
    *args: arrays and their block specs.
    name: name of the kernel in profiles.
    grid: number of steps of each axis, the innermost last.
    out: shapes and dtypes of the results, and their block specs.
    scratch: VMEM that persists between grid steps.
    cost: operations and bytes of the kernel.
    semantics: "parallel" or "arbitrary" (in order) for each axis of the grid.
    aliases: arguments that share memory with a result.
  """
  varying = frozenset[str]().union(
    *(jax.typeof(a).manual_axis_type.varying for a, _ in args)
  )
  vma = jax.sharding.ManualAxisType(varying=varying)

  def compiled(interpret: Any) -> Callable[..., Sequence[Array]]:
    return pl.pallas_call(
      kernel,
      out_shape=[
        jax.ShapeDtypeStruct(shape, dtype, manual_axis_type=vma)
        for shape, dtype, _ in out
      ],
      grid=grid,
      in_specs=[spec for _, spec in args],
      out_specs=[spec for _, _, spec in out],
      scratch_shapes=scratch,
      input_output_aliases=aliases or {},
      interpret=interpret,
      name=name,
      cost_estimate=cost,
      compiler_params=pltpu.CompilerParams(dimension_semantics=semantics),
    )

  # The target of ahead-of-time compilation may differ from the local platform.
  return jax.lax.platform_dependent(
    *(a for a, _ in args), tpu=compiled(False), default=compiled(_interpret)
  )
