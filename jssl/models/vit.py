"""Vision transformers (Dosovitskiy et al., ICLR 2021), without classifier.

Pre-norm blocks over patch tokens. The default positions and pooling are those
of MoCo v3 and MAE.
"""

import dataclasses
from collections.abc import Mapping
from typing import Annotated, Any, ClassVar, Literal

from jssl.models.backbone import Backbone, Width, from_linen
from jssl.models.tokens import Grid
from jssl.models.vit_layers import Attention, Gelu, Mlp, QkvBias
from jssl.models.vit_positions import Interpolation
from jssl.models.vit_presets import PRESETS
from jssl.typing import (
  Decay,
  Dtype,
  Interval,
  NonNegative,
  Positive,
  check_fields,
)

Pooling = Literal["mean", "cls", "cls_mean"]
Positions = Literal["sincos", "sincos_column", "learned", "rope"]
AtLeastOne = Annotated[float, Interval(1)]
Remat = Literal["none", "block", "dots"]


@dataclasses.dataclass(frozen=True)
class ViT:
  """Hyper-parameters of a vision transformer; the `model` section of a config.

  Common sizes have names: `ViT(**ViT.presets["vit_s16"])`. In a config,
  `model.preset` fills the keys that the file leaves unset. MoCo v3's ViT-S has
  12 heads.

  Example:
    >>> model = ViT(patch_size_px=4, width=64, depth=2, num_heads=2)
    >>> model.backbone().feature_dim
    64

  Attributes:
    patch_size_px: side of a patch.
    width: width of a token, and feature dimension unless expanded.
    depth: number of blocks.
    num_heads: number of attention heads; must divide `width`.
    mlp: "gelu", or "swiglu": silu(gate) * value, the halves of `mlp_in`
      (Shazeer, 2020; DINOv2 and DINOv3).
    mlp_ratio: hidden width of the MLPs over `width`; with "swiglu" two thirds
      of that, rounded up to a multiple of 8, as in DINOv2.
    mlp_dim: hidden width of the MLPs; 0: that of `mlp_ratio`.
    pooling: the feature is the mean of the normalised patch tokens ("mean"),
      the normalised class token ("cls"), or the class token and the mean one
      after the other ("cls_mean": twice the width).
    norm_pooled: True to normalise the mean over patches, not each token (MAE's
      fine-tuning, `fc_norm` in timm); needs "mean" pooling. Patch tokens are
      then returned without normalisation.
    class_token: True for a class token even if the feature does not contain it.
    class_position: True for a position embedding of the class token, as most
      published models have one; needs "learned" positions.
    num_registers: number of learned tokens between the class token and the
      patches, without positions (Darcet et al., ICLR 2024). No output contains
      them.
    positions: fixed embeddings, row first ("sincos") or column first
      ("sincos_column": MAE, I-JEPA); embeddings "learned" for the grid of the
      images of `init` and interpolated for other grids; or rotations of the
      patches' queries and keys by coordinates in [-1, 1] ("rope": DINOv3).
    interpolation: rule for learned positions, see `resized_positions`.
    rope_shift: largest shift of the coordinates of an axis in training.
    rope_jitter: largest factor of an axis in training, at least 1 (off).
    rope_rescale: largest factor of both axes in training, at least 1 (off;
      DINOv3: 2).
    gelu: the GELU of the MLPs, by its "tanh" approximation (JAX's default) or
      exact, by "erf" (PyTorch's default, and so in most published weights).
    norm_epsilon: epsilon of the layer norms (DINOv3: 1e-5).
    qkv_bias: linear maps of the attention that have a bias: "qkv", "qv"
      (SimMIM, DINOv3) or "none".
    zero_init_residual: True to initialise the last layer of each branch with
      zeros, so that a block starts as the identity (Goyal et al. 2017).
    layer_scale: initial value of LayerScale (Touvron et al., ICCV 2021: 0.1
      down to 1e-6 with growing depth); 0: none.
    drop_path: probability of dropping the branches of the last block in
      training, growing linearly from 0 in the first (stochastic depth, Huang
      et al., ECCV 2016); in [0, 1).
    drop_path_uniform: True for the same probability in all blocks (DINOv2).
    mask_token: True for a learned token in place of hidden patches, which
      objectives with masks of `Replace` need (BEiT, SimMIM, iBOT).
    expand_dim: feature dimension after a bottleneck expansion, a multiple of
      `width`; 0: none.
    scan_layers: True to compile one block and scan over it. Parameters are
      stacked under `blocks` [depth, ...] instead of `block_i`.
    attention: "auto" for the kernel of the platform where it can run, see
      `losses.ops.attention`; "reference" for the whole matrix of weights.
    remat: parts of a block to recompute in the backward pass: "none", "block"
      (everything), or "dots" (norms, activations and biases; also the products
      of attention where no kernel runs).
    dtype: dtype of activations; parameters keep the default dtype.
    mean: mean of the pixels, one value or one per channel.
    std: standard deviation of the pixels, one value or one per channel.

  Raises:
    ValueError: if a field is out of range; the message names its config key.
  """

  patch_size_px: Positive[int]
  width: Width
  depth: Positive[int]
  num_heads: Positive[int]
  mlp: Mlp = "gelu"
  mlp_ratio: Positive[int] = 4
  mlp_dim: NonNegative[int] = 0
  pooling: Pooling = "mean"
  norm_pooled: bool = False
  class_token: bool = False
  class_position: bool = False
  num_registers: NonNegative[int] = 0
  positions: Positions = "sincos"
  interpolation: Interpolation = "bicubic"
  rope_shift: NonNegative[float] = 0.0
  rope_jitter: AtLeastOne = 1.0
  rope_rescale: AtLeastOne = 1.0
  gelu: Gelu = "tanh"
  norm_epsilon: Positive[float] = 1e-6
  qkv_bias: QkvBias = "qkv"
  zero_init_residual: bool = False
  layer_scale: NonNegative[float] = 0.0
  drop_path: Decay = 0.0
  drop_path_uniform: bool = False
  mask_token: bool = False
  expand_dim: NonNegative[int] = 0
  scan_layers: bool = False
  attention: Attention = "auto"
  remat: Remat = "none"
  dtype: Dtype = "float32"
  mean: tuple[float, ...] = (0.5,)
  std: tuple[Positive[float], ...] = (0.5,)
  presets: ClassVar[Mapping[str, Mapping[str, Any]]] = PRESETS

  def __post_init__(self) -> None:
    check_fields(self, "model")
    if self.width % self.num_heads:
      raise ValueError(
        f"model.width={self.width} must be a multiple of "
        f"model.num_heads={self.num_heads}"
      )
    if self.expand_dim % self.width:
      raise ValueError(
        f"model.expand_dim={self.expand_dim} must be 0 or a multiple of "
        f"model.width={self.width}"
      )
    rope = self.positions == "rope"
    if rope and self.width // self.num_heads % 4:
      raise ValueError(
        f'model.positions="rope" needs heads of a multiple of 4 dimensions: '
        f"change model.width={self.width} or model.num_heads={self.num_heads}"
      )
    if self.augments_rope and not rope:
      raise ValueError(
        "model.rope_shift, model.rope_jitter and model.rope_rescale need "
        f'model.positions="rope", not {self.positions!r}'
      )
    if self.norm_pooled and self.pooling != "mean":
      raise ValueError(
        f'model.norm_pooled=True: expected model.pooling "mean", not '
        f"{self.pooling!r}"
      )
    if self.class_position and not (
      self.positions == "learned" and self.has_class_token
    ):
      raise ValueError(
        'model.class_position=True: expected model.positions "learned" and a '
        'class token, by model.class_token=True or model.pooling "cls"; '
        f"received model.positions={self.positions!r}"
      )
    if self.expand_dim and self.pooling == "cls_mean":
      raise ValueError(
        f"model.expand_dim={self.expand_dim} expands one token: expected "
        'model.pooling "mean" or "cls", not "cls_mean"'
      )

  @property
  def has_class_token(self) -> bool:
    """True if there is a class token."""
    return self.class_token or self.pooling != "mean"

  @property
  def has_rope(self) -> bool:
    """True if positions are rotations of queries and keys."""
    return self.positions == "rope"

  @property
  def has_layer_scale(self) -> bool:
    """True if the blocks have a LayerScale."""
    return self.layer_scale > 0

  @property
  def prefix_tokens(self) -> int:
    """Number of tokens before the patches."""
    return self.has_class_token + self.num_registers

  @property
  def mlp_hidden_dim(self) -> int:
    """Hidden width of the MLPs."""
    dim = self.mlp_ratio * self.width
    if self.mlp == "swiglu":
      dim = -(-(dim * 2 // 3) // 8) * 8
    return self.mlp_dim or dim

  @property
  def augments_rope(self) -> bool:
    """True if the coordinates of RoPE vary in training."""
    values = self.rope_shift, self.rope_jitter, self.rope_rescale
    return values != (0.0, 1.0, 1.0)

  def backbone(self) -> Backbone:
    """Returns the encoder as pure functions."""
    # The encoder's module imports this class.
    from jssl.models.vit_encoder import Encoder

    parts = 2 if self.pooling == "cls_mean" else 1
    feature_dim = self.expand_dim or parts * self.width
    return from_linen(
      Encoder(self), feature_dim, mean=self.mean, std=self.std, grid=self.grid
    )

  def grid(self, image_shape: tuple[int, ...]) -> Grid:
    """Returns the patch tokens of an image (h, w, c).

    Raises:
      ValueError: if the patches do not divide the image.
    """
    (h, w), size = image_shape[:2], self.patch_size_px
    if h % size or w % size:
      raise ValueError(
        f"images of {h} x {w} px do not divide into patches of "
        f"model.patch_size_px={size}; change it or augment.crop_size_px "
        "(augment.small_crop_size_px, of small crops)"
      )
    return Grid(h // size, w // size, self.width, size)
