"""Self-attention: entry point, and the operation on a mesh."""

import dataclasses
from typing import Any, Literal

import jax
from jax.sharding import AxisType
from jaxtyping import Array, Bool, Float

from jssl.losses.ops.attention import cudnn, pallas_tpu, reference
from jssl.losses.ops.base import FusedOperation, choose_implementation
from jssl.losses.ops.layout import Layout, with_layout

Valid = Bool[Array, "b n"] | None


@dataclasses.dataclass(frozen=True)
class SelfAttention(FusedOperation):
  """Softmax attention among the tokens of each image.

  On a mesh the images are sharded, and nothing is communicated.

  Attributes:
    tokens: number of tokens of an image.
    num_heads: number of heads.
  """

  tokens: int
  num_heads: int

  name = "attention"

  @property
  def _sizes(self) -> dict[str, int]:
    return {"tokens": self.tokens, "num_heads": self.num_heads}

  def __call__(self, operands: Array, constants: Valid) -> Array:
    if self.implementation == "cudnn":
      # Differentiated by JAX: its rule saves what cuDNN needs.
      return cudnn.attention(operands, constants, **self._sizes)
    return super().__call__(operands, constants)

  def reference(self, operands: Array, constants: Valid) -> Array:
    return reference.attention(operands, constants, **self._sizes)

  def forward(self, operands: Array, constants: Valid) -> Array:
    def local(qkv: Array, valid: Valid) -> Array:
      return pallas_tpu.forward(qkv, valid, **self._sizes)

    return self.layout.shard_map(local, True, True)(operands, constants)

  def backward(
    self, operands: Array, constants: Valid, out: Array, g: Array
  ) -> Array:
    del out

    def local(qkv: Array, valid: Valid, g: Array) -> Array:
      return pallas_tpu.backward(qkv, valid, g, **self._sizes)

    return self.layout.shard_map(local, True, True)(operands, constants, g)


def _check_shapes(
  qkv: Array, valid: Valid, tokens: int, num_heads: int
) -> None:
  rows, columns = qkv.shape
  if isinstance(rows, int) and rows % tokens:
    raise ValueError(
      f"qkv of shape {qkv.shape}: expected a multiple of tokens={tokens} rows"
    )
  if columns % (3 * num_heads):
    raise ValueError(
      f"qkv of shape {qkv.shape}: expected a multiple of 3 x "
      f"num_heads={num_heads} columns"
    )
  if valid is not None and valid.shape != (rows // tokens, tokens):
    raise ValueError(
      f"valid of shape {valid.shape}: expected [images, tokens], "
      f"{(rows // tokens, tokens)}"
    )


def attention(
  qkv: Float[Array, "bn _w"],
  *,
  tokens: int,
  num_heads: int,
  valid: Bool[Array, "b n"] | None = None,
  implementation: Literal["reference", "pallas_tpu", "cudnn"] | None = None,
) -> Float[Array, "bn d"]:
  """Scaled dot-product attention among the tokens of each image.

      out_i = sum_j softmax_j(q_i . k_j / sqrt(e)) v_j

  for each head of e dimensions. Works on global arrays under `jit`, with images
  sharded over any mesh, and on a device's arrays inside `shard_map`.

  Args:
    qkv: queries, keys and values of all heads, side by side, of the tokens of
      all images.
    tokens: number n of tokens of an image.
    num_heads: number of heads.
    valid: True for tokens that are attended to; every image needs one.
    implementation: "pallas_tpu" keeps the weights in VMEM and takes bfloat16;
      "cudnn" runs cuDNN on NVIDIA GPUs and takes bfloat16 and float16;
      "reference" builds the weights [b, heads, n, n], takes any dtype, and has
      forward-mode derivatives. None chooses the kernel of the platform where it
      can run, else the reference. Second derivatives exist for None, except on
      GPUs with cuDNN, and for "reference".

  Returns:
    The outputs of all heads, side by side, in the dtype of `qkv`.

  Raises:
    ValueError: if shapes do not fit `tokens` and `num_heads`, or the
      implementation is unknown or cannot run here.

  Reference: Vaswani et al., NeurIPS 2017, equation 1; Dao et al.,
    FlashAttention, NeurIPS 2022, for the recomputation in the backward pass.
  """
  _check_shapes(qkv, valid, tokens, num_heads)
  mesh = jax.typeof(qkv).sharding.mesh
  manual = AxisType.Manual in mesh.axis_types

  def on_layout(layout: Layout, qkv: Array, valid: Valid) -> Array:
    width = qkv.shape[1] // 3
    rows: Any = qkv.shape[0]
    shards = layout.shards
    no_cudnn = cudnn.unsupported(
      qkv.dtype, width // num_heads, layout.device_kind
    )
    no_kernel: str | None
    if not isinstance(rows, int):
      no_kernel = no_cudnn = "the number of images is symbolic (jax.export)"
    elif rows // tokens % shards:
      no_kernel = (
        f"{rows // tokens} images are not a multiple of {shards} devices"
      )
    else:
      images = rows // tokens // shards
      no_kernel = pallas_tpu.unsupported(
        qkv.dtype, images, tokens, width, num_heads
      )
    chosen = choose_implementation(
      layout,
      SelfAttention.name,
      kernels={"pallas_tpu": no_kernel, "cudnn": no_cudnn},
      fallback="reference",
    )
    # A tile is an image.
    tile = tokens, tokens
    return SelfAttention(layout, chosen, tile, tokens, num_heads)(qkv, valid)

  return with_layout(
    on_layout,
    (qkv, valid),
    (),
    axis_name=() if manual else None,
    implementation=implementation,
    rows_out=True,
  )
