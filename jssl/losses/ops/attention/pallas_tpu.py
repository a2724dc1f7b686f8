"""Attention as TPU kernels: logits and weights never reach HBM.

A block holds the tokens of whole images and the heads of whole lanes: rows
[images * tokens] of queries, keys and values, all read from the output of the
layer that makes them, [b * n, 3 * d]. Nothing is transposed. A row of the
softmax is complete in VMEM, so that no online maximum is needed.

The backward pass recomputes the weights. Its grid has a third axis over the
parts of its result, [b * n, 3 * d]: the first step computes all three and
writes the gradient by the queries; the others write the gradients by keys and
values, which are kept in VMEM scratch.

Rows of bfloat16 come in tiles of 16. Images of 197 tokens start within a tile,
which costs nothing in HBM as long as a block ends with one: 16 images of 197
tokens. Where such a block does not fit into VMEM or the batch, each image is
padded to whole tiles in HBM.
"""

import functools
import math
from collections.abc import Callable, Iterator
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
from jax.experimental import pallas as pl
from jax.experimental.pallas import tpu as pltpu
from jaxtyping import Array, Bool, Float

from jssl.losses.ops import pallas
from jssl.losses.ops.pallas import LANES, Ref
from jssl.losses.ops.similarity.pallas_tpu import contract
from jssl.losses.ops.similarity.reference import MASKED

# Rows of a tile of bfloat16.
_SUBLANES = 16
# Rows of a block at which copies to VMEM are efficient.
_ROWS = 1024
# Unrolled products of a kernel, which bound the time to compile.
_MAX_UNROLLED = 64
# Bytes of VMEM for blocks and temporaries.
_VMEM = 14 * 2**20
# Bytes of them for arrays [queries, tokens]: logits, weights, and gradients by
# both.
_LOGITS = 6 * 2**20


class Blocks(NamedTuple):
  """Block sizes.

  Attributes:
    images: images of a block.
    rows: rows of an image, with padding.
    tokens: tokens of an image.
    lanes: columns of a block.
    heads: heads of a block.
  """

  images: int
  rows: int
  tokens: int
  lanes: int
  heads: int

  @property
  def queries(self) -> list[slice]:
    """Rows of an image, in parts whose logits fit into VMEM."""
    parts = -(-self.rows * self._row_bytes // _LOGITS)
    size = -(-self.rows // parts // _SUBLANES) * _SUBLANES
    starts = range(0, self.rows, size)
    return [slice(i, min(i + size, self.rows)) for i in starts]

  @property
  def _row_bytes(self) -> int:
    """Bytes of the temporaries of a query."""
    return 4 * 4 * -(-self.rows // LANES) * LANES

  def heads_of_images(
    self,
  ) -> Iterator[tuple[int, slice, slice, list[slice]]]:
    """Yields image, its rows, lanes of a head, and rows of queries in parts."""
    head_dim = self.lanes // self.heads
    for image in range(self.images):
      first = image * self.rows
      queries = [
        slice(first + part.start, first + part.stop) for part in self.queries
      ]
      for head in range(self.heads):
        lanes = slice(head * head_dim, (head + 1) * head_dim)
        yield image, slice(first, first + self.rows), lanes, queries

  @property
  def unrolled(self) -> int:
    """Number of attention products that the kernel unrolls."""
    return self.images * self.heads * len(self.queries)

  @property
  def fits(self) -> bool:
    """True if the backward kernel fits into VMEM, and compiles in time."""
    # Double-buffered q, k, v, g and result, and two parts of the result.
    blocks = 12 * self.images * self.rows * self.lanes * 2
    head = -(-self.lanes // self.heads // LANES) * LANES
    # Gradients by keys and values, in float32.
    temporary = 4 * self.rows * head * 4
    temporary += self.queries[0].stop * self._row_bytes
    return blocks + temporary <= _VMEM and self.unrolled <= _MAX_UNROLLED


def _grouped(blocks: Blocks, images: int, least: int) -> Blocks | None:
  """Returns as many images per block as are efficient, None if none fit."""
  found = None
  for size in range(least, images + 1, least):
    wider = blocks._replace(images=size)
    if not wider.fits:
      break
    if images % size == 0:
      found = wider
    if size * blocks.rows >= _ROWS and found:
      break
  return found


def block_sizes(
  images: int, tokens: int, width: int, heads: int
) -> Blocks | str:
  """Returns block sizes, or the reason why no kernel can run.

  Args:
    images: images of a device.
    tokens: tokens of an image.
    width: width of the queries of all heads.
    heads: number of heads.
  """
  head_dim = width // heads
  lanes = math.lcm(head_dim, LANES)
  if width % lanes:
    return (
      f"{heads} heads of {head_dim} dimensions do not fill whole groups of "
      f"{LANES} lanes"
    )
  blocks = Blocks(1, tokens, tokens, lanes, lanes // head_dim)
  least = _SUBLANES // math.gcd(tokens, _SUBLANES)
  padded = blocks._replace(rows=-(-tokens // _SUBLANES) * _SUBLANES)
  found = _grouped(blocks, images, least) or _grouped(padded, images, 1)
  if found is None:
    return (
      f"{tokens} tokens with heads of {head_dim} dimensions need more than "
      f"{_VMEM} bytes of VMEM or {_MAX_UNROLLED} unrolled products"
    )
  return found


def unsupported(
  dtype: Any, images: int, tokens: int, width: int, heads: int
) -> str | None:
  """Returns the reason why no kernel can run, None if it can."""
  if dtype != jnp.bfloat16:
    name = jnp.dtype(dtype).name
    return f"the kernel takes bfloat16, but the tokens are {name}"
  found = block_sizes(images, tokens, width, heads)
  return found if isinstance(found, str) else None


def _weights(
  q: Float[Array, "m e"],
  k: Float[Array, "n e"],
  valid: Float[Array, "1 n"] | None,
  tokens: int,
) -> tuple[Float[Array, "m n"], Float[Array, "m 1"]]:
  """Returns unnormalised softmax weights and their row sums."""
  logits = contract(q, k, 1) / q.shape[1] ** 0.5
  if tokens < len(k):
    column = jax.lax.broadcasted_iota(jnp.int32, logits.shape, 1)
    logits = jnp.where(column < tokens, logits, MASKED)
  if valid is not None:
    logits = jnp.where(valid > 0, logits, MASKED)
  weights = jnp.exp(logits - logits.max(1, keepdims=True))
  return weights, weights.sum(1, keepdims=True)


def _forward_kernel(q: Ref, k: Ref, v: Ref, *refs: Ref, blocks: Blocks) -> None:
  # Blocks of queries, keys and values [images * rows, lanes], of the mask of
  # keys [images, 1, rows] if there is one, and of the result, as the queries.
  *valid, out = refs
  for image, rows, lanes, queries in blocks.heads_of_images():
    keys, values = k[rows, lanes], v[rows, lanes]
    valid_keys = valid[0][image] if valid else None
    for own in queries:
      weights, total = _weights(q[own, lanes], keys, valid_keys, blocks.tokens)
      mean = contract(weights.astype(values.dtype), values, 0) / total
      out[own, lanes] = mean.astype(out.dtype)


def _backward_kernel(
  q: Ref, k: Ref, v: Ref, g: Ref, *refs: Ref, blocks: Blocks
) -> None:
  # Blocks as in the forward pass; `g` is the cotangent of its result. Scratch
  # holds the gradients by keys and values until their part is written.
  *valid, out, k_scratch, v_scratch = refs
  part_of_result = pl.program_id(2)

  @pl.when(part_of_result == 0)
  def _() -> None:
    for image, rows, lanes, queries in blocks.heads_of_images():
      keys, values = k[rows, lanes], v[rows, lanes]
      valid_keys = valid[0][image] if valid else None
      grad_k = jnp.zeros(keys.shape, jnp.float32)
      grad_v = jnp.zeros(values.shape, jnp.float32)
      for own in queries:
        cotangent = g[own, lanes]
        weights, total = _weights(
          q[own, lanes], keys, valid_keys, blocks.tokens
        )
        weights = weights / total
        grad_v += _contract_rows(weights.astype(keys.dtype), cotangent)
        grad_weights = contract(cotangent, values, 1)
        mean = (weights * grad_weights).sum(1, keepdims=True)
        grad_logits = weights * (grad_weights - mean) / keys.shape[1] ** 0.5
        grad_logits = grad_logits.astype(keys.dtype)
        out[own, lanes] = contract(grad_logits, keys, 0).astype(out.dtype)
        grad_k += _contract_rows(grad_logits, q[own, lanes])
      k_scratch[rows, lanes] = grad_k.astype(k_scratch.dtype)
      v_scratch[rows, lanes] = grad_v.astype(v_scratch.dtype)

  for part, scratch in ((1, k_scratch), (2, v_scratch)):

    @pl.when(part_of_result == part)
    def _(scratch: Ref = scratch) -> None:
      out[...] = scratch[...]


def _contract_rows(
  a: Float[Array, "m n"], b: Float[Array, "m e"]
) -> Float[Array, "n e"]:
  """Returns a.T @ b in float32."""
  dimensions = (((0,), (0,)), ((), ()))
  return jax.lax.dot_general(
    a, b, dimensions, preferred_element_type=jnp.float32
  )


def _call(
  kernel: Callable[..., None],
  qkv: Float[Array, "bn _w"],
  valid: Bool[Array, "b n"] | None,
  g: Float[Array, "bn d"] | None,
  blocks: Blocks,
) -> Array:
  """Runs the forward kernel, or with a cotangent the backward kernel."""
  width = qkv.shape[1] // 3
  images, columns = len(qkv) // blocks.rows, width // blocks.lanes
  shape = (blocks.images * blocks.rows, blocks.lanes)

  def part(number: int) -> pl.BlockSpec:
    return pl.BlockSpec(shape, lambda i, j, *_: (i, number * columns + j))

  args = [(qkv, part(number)) for number in range(3)]
  if g is not None:
    args.append((g, part(0)))
  if valid is not None:
    mask = valid.astype(jnp.float32)[:, None]
    spec = pl.BlockSpec(
      (blocks.images, 1, blocks.rows), lambda i, j, *_: (i, 0, 0)
    )
    args.append((mask, spec))
  grid: tuple[int, ...] = (images // blocks.images, columns)
  out, scratch = part(0), []
  if g is not None:
    grid = (*grid, 3)
    out = pl.BlockSpec(shape, lambda i, j, p: (i, p * columns + j))
    scratch = [pltpu.VMEM(shape, qkv.dtype)] * 2
  products = 2 if g is None else 5
  pairs = images * blocks.rows**2
  cost = pl.CostEstimate(
    flops=2 * products * pairs * width,
    transcendentals=pairs * columns * blocks.heads,
    bytes_accessed=(4 if g is None else 7) * width * len(qkv) * 2,
  )
  (result,) = pallas.run_kernel(
    functools.partial(kernel, blocks=blocks),
    *args,
    name="attention_forward" if g is None else "attention_backward",
    grid=grid,
    out=[((len(qkv), width if g is None else 3 * width), qkv.dtype, out)],
    scratch=scratch,
    cost=cost,
    # Parts of the result in order.
    semantics=["parallel", "parallel", *["arbitrary"] * (len(grid) - 2)],
  )
  return result


def _padded(x: Array, blocks: Blocks) -> Array:
  """Pads each image from its tokens to the rows of a block."""
  if blocks.rows == blocks.tokens:
    return x
  x = x.reshape(-1, blocks.tokens, x.shape[-1])
  x = jnp.pad(x, ((0, 0), (0, blocks.rows - blocks.tokens), (0, 0)))
  return x.reshape(-1, x.shape[-1])


def _unpadded(x: Array, blocks: Blocks) -> Array:
  if blocks.rows == blocks.tokens:
    return x
  x = x.reshape(-1, blocks.rows, x.shape[-1])[:, : blocks.tokens]
  return x.reshape(-1, x.shape[-1])


def _blocks(
  qkv: Float[Array, "bn _w"],
  valid: Bool[Array, "b n"] | None,
  tokens: int,
  num_heads: int,
) -> tuple[Array, Array | None, Blocks]:
  """Returns padded operands and block sizes."""
  images, width = len(qkv) // tokens, qkv.shape[1] // 3
  blocks = block_sizes(images, tokens, width, num_heads)
  if isinstance(blocks, str):
    raise ValueError(blocks)
  if valid is not None:
    valid = jnp.pad(valid, ((0, 0), (0, blocks.rows - tokens)))
  return _padded(qkv, blocks), valid, blocks


def forward(
  qkv: Float[Array, "bn _w"],
  valid: Bool[Array, "b n"] | None,
  *,
  tokens: int,
  num_heads: int,
) -> Float[Array, "bn d"]:
  """Computes `reference.attention` of one device."""
  qkv, valid, blocks = _blocks(qkv, valid, tokens, num_heads)
  return _unpadded(_call(_forward_kernel, qkv, valid, None, blocks), blocks)


def backward(
  qkv: Float[Array, "bn _w"],
  valid: Bool[Array, "b n"] | None,
  g: Float[Array, "bn d"],
  *,
  tokens: int,
  num_heads: int,
) -> Float[Array, "bn _w"]:
  """Computes the gradient by `qkv` from the cotangent of `forward`."""
  qkv, valid, blocks = _blocks(qkv, valid, tokens, num_heads)
  out = _call(_backward_kernel, qkv, valid, _padded(g, blocks), blocks)
  return _unpadded(out, blocks)
