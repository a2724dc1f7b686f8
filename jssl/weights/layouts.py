"""Layouts of published weights: names of tensors, and numerics of the model.

Each table maps the leaves of the variables of `jssl.models` to the tensors of a
file; `{i}` is the index of a block.
"""

import dataclasses
from collections.abc import Mapping

from jssl.models.vit_presets import IMAGENET
from jssl.weights.conversions import (
  CONVOLUTION,
  COUNT,
  MASKED_BIAS,
  MATRIX,
  PATCH,
  POSITIONS,
  ROW,
  TOKEN,
  TOKENS,
  VECTOR,
  Conversion,
)
from jssl.weights.layout import CLASS_POSITION, POSITION_TABLE, Layout, Part


def _part(leaf: str, *tensors: str, to: Conversion) -> Part:
  return Part((f"params/{leaf}",), tensors, to)


def _affine(leaf: str, tensor: str) -> tuple[Part, ...]:
  """A norm with scale and bias."""
  return (
    _part(f"{leaf}/scale", f"{tensor}.weight", to=VECTOR),
    _part(f"{leaf}/bias", f"{tensor}.bias", to=VECTOR),
  )


def _dense(leaf: str, *tensors: str) -> tuple[Part, ...]:
  """A linear map, of which a file may store the outputs in several parts."""
  weights, biases = ([f"{t}.{x}" for t in tensors] for x in ("weight", "bias"))
  return (
    _part(f"{leaf}/kernel", *weights, to=MATRIX),
    _part(f"{leaf}/bias", *biases, to=VECTOR),
  )


def _positions(tensor: str) -> tuple[Part, ...]:
  """Position embeddings; the first row may belong to the class token."""
  return (
    Part((POSITION_TABLE, CLASS_POSITION), (tensor,), POSITIONS),
    Part((POSITION_TABLE,), (tensor,), POSITIONS),
  )


def _embeddings(
  patch: str, cls: str, registers: str, positions: str
) -> tuple[Part, ...]:
  parts = [
    _part("embed/kernel", f"{patch}.weight", to=PATCH),
    _part("embed/bias", f"{patch}.bias", to=VECTOR),
    _part("cls", cls, to=TOKEN),
  ]
  if registers:
    parts.append(_part("registers", registers, to=TOKENS))
  return *parts, *(_positions(positions) if positions else ())


def _layer_scale(attention: str, mlp: str) -> tuple[Part, ...]:
  return (
    _part("block_{i}/attention_scale", attention, to=VECTOR),
    _part("block_{i}/mlp_scale", mlp, to=VECTOR),
  )


def _mlp(block: str, first: tuple[str, ...], last: str) -> tuple[Part, ...]:
  return (
    *_dense("block_{i}/mlp_in", *(f"{block}.{name}" for name in first)),
    *_dense("block_{i}/mlp_out", f"{block}.{last}"),
  )


_SPLIT_BIAS = ("params/block_{i}/q_bias", "params/block_{i}/v_bias")

# --- timm, and the official files with its names.

_TIMM_BLOCKS = (
  *_affine("block_{i}/attention_norm", "blocks.{i}.norm1"),
  *_affine("block_{i}/mlp_norm", "blocks.{i}.norm2"),
  *_dense("block_{i}/qkv", "blocks.{i}.attn.qkv"),
  *_dense("block_{i}/attention_out", "blocks.{i}.attn.proj"),
  *_affine("norm", "{norm}"),
)
_TIMM_SCALE = _layer_scale("blocks.{i}.ls1.gamma", "blocks.{i}.ls2.gamma")
_TIMM_MLP = _mlp("blocks.{i}.mlp", ("fc1",), "fc2")
_TIMM_EMBEDDINGS = _embeddings(
  "patch_embed.proj", "cls_token", "reg_token", "pos_embed"
)
_TIMM_VIT = (*_TIMM_EMBEDDINGS, *_TIMM_BLOCKS, *_TIMM_SCALE)
_CLASSIFIERS = ("head.*", "fc.*", "classifier.*", "last_layer.*")
_PUBLISHED = {"pooling": "cls", "gelu": "erf", **IMAGENET}
_HEADS = {
  **{192: 3, 384: 6, 768: 12, 1024: 16, 1280: 16, 1408: 16, 1536: 24},
}
_DINOV3_HEADS = {**_HEADS, 1280: 20, 4096: 32}
# With torch.compile, data-parallel training, Lightning or averaged weights.
_WRAPPERS = (
  *("", "module.", "_orig_mod.", "module._orig_mod.", "model.", "backbone."),
  *("state_dict.", "state_dict.module.", "state_dict.model."),
  *("state_dict.backbone.", "state_dict_ema.", "model_ema."),
)

TIMM = Layout(
  name="timm",
  parts=_TIMM_VIT,
  mlp=_TIMM_MLP,
  swiglu=_TIMM_MLP,
  requires=("blocks.0.attn.qkv.weight", "pos_embed"),
  prefixes=_WRAPPERS,
  ignored=(*_CLASSIFIERS, "mask_token"),
  fields={**_PUBLISHED, "interpolation": "antialias"},
  num_heads=_HEADS,
)
DINO = dataclasses.replace(
  TIMM,
  name="dino",
  parts=(*_TIMM_VIT, _part("mask_token", "masked_embed", to=ROW)),
  prefixes=("teacher.backbone.", "teacher.module.backbone."),
  fields={**_PUBLISHED, "interpolation": "dino"},
)
# A backbone extracted from a training file, with a mask token.
IBOT = dataclasses.replace(
  DINO,
  name="ibot",
  requires=(*DINO.requires, "masked_embed"),
  prefixes=("state_dict.", ""),
)
DINOV2 = dataclasses.replace(
  TIMM,
  name="dinov2",
  parts=(
    *_embeddings(
      "patch_embed.proj", "cls_token", "register_tokens", "pos_embed"
    ),
    _part("mask_token", "mask_token", to=ROW),
    *_TIMM_BLOCKS,
    *_TIMM_SCALE,
  ),
  swiglu=_mlp("blocks.{i}.mlp", ("w12",), "w3"),
  requires=("blocks.0.ls1.gamma", "mask_token", "pos_embed"),
  prefixes=("", "teacher.backbone.", "model.teacher.backbone."),
  # Training files count the blocks within chunks as well.
  renames=((r"^blocks\.\d+\.(\d+)\.", r"blocks.\1."),),
  fields={**_PUBLISHED, "interpolation": "dino"},
)
DINOV2_REGISTERS = dataclasses.replace(
  DINOV2,
  name="dinov2_registers",
  requires=(*DINOV2.requires, "register_tokens"),
  fields={**_PUBLISHED, "interpolation": "antialias"},
)
_DINOV3 = {**_PUBLISHED, "norm_epsilon": 1e-5}
DINOV3 = dataclasses.replace(
  DINOV2,
  name="dinov3",
  parts=(
    *_embeddings("patch_embed.proj", "cls_token", "storage_tokens", ""),
    _part("mask_token", "mask_token", to=ROW),
    Part(_SPLIT_BIAS, ("blocks.{i}.attn.qkv.bias",), MASKED_BIAS),
    *_TIMM_BLOCKS,
    *_TIMM_SCALE,
  ),
  swiglu=_mlp("blocks.{i}.mlp", ("w1", "w2"), "w3"),
  requires=("blocks.0.ls1.gamma", "rope_embed.periods"),
  ignored=(*_CLASSIFIERS, "*.bias_mask", "rope_embed.*", "local_cls_norm.*"),
  fields=_DINOV3,
  num_heads=_DINOV3_HEADS,
)
TIMM_DINOV3 = dataclasses.replace(
  DINOV3,
  name="timm_dinov3",
  parts=(
    *_embeddings("patch_embed.proj", "cls_token", "reg_token", ""),
    _part("block_{i}/q_bias", "blocks.{i}.attn.q_bias", to=VECTOR),
    _part("block_{i}/v_bias", "blocks.{i}.attn.v_bias", to=VECTOR),
    *_TIMM_BLOCKS,
    *_layer_scale("blocks.{i}.gamma_1", "blocks.{i}.gamma_2"),
  ),
  swiglu=_mlp("blocks.{i}.mlp", ("fc1_g", "fc1_x"), "fc2"),
  requires=("blocks.0.attn.qkv.weight", "blocks.0.gamma_1"),
  forbids=("pos_embed",),
  prefixes=TIMM.prefixes,
  ignored=_CLASSIFIERS,
  renames=(),
  # timm pools the mean by default; the official feature is the class token.
)
MOCO_V3 = dataclasses.replace(
  TIMM,
  name="moco_v3",
  prefixes=("state_dict.module.base_encoder.", "module.base_encoder."),
  num_heads={**_HEADS, 384: 12},
)
MAE = dataclasses.replace(
  TIMM,
  name="mae",
  requires=(*TIMM.requires, "decoder_pos_embed"),
  ignored=(*_CLASSIFIERS, "decoder_*", "mask_token"),
  fields={**_PUBLISHED, "interpolation": "size"},
)
IJEPA = dataclasses.replace(
  TIMM,
  name="ijepa",
  prefixes=("target_encoder.module.", "encoder.module.", "target_encoder."),
  fields={**_PUBLISHED, "interpolation": "size"},
)

# --- Hugging Face.


def _hf_blocks(
  block: str, attention: tuple[str, ...], out: str, norms: tuple[str, str]
) -> tuple[Part, ...]:
  return (
    *_affine("block_{i}/attention_norm", f"{block}.{norms[0]}"),
    *_affine("block_{i}/mlp_norm", f"{block}.{norms[1]}"),
    *_dense("block_{i}/qkv", *(f"{block}.{name}" for name in attention)),
    *_dense("block_{i}/attention_out", f"{block}.{out}"),
  )


_HF_ATTENTION = tuple(
  f"attention.attention.{name}" for name in ("query", "key", "value")
)
_HF_SCALE = ("layer_scale1.lambda1", "layer_scale2.lambda1")
_HF_LAYER = "encoder.layer.{i}"


def _hf_embeddings(patch: str, positions: str) -> tuple[Part, ...]:
  return _embeddings(
    f"embeddings.{patch}",
    "embeddings.cls_token",
    "embeddings.register_tokens",
    positions,
  )


_HF_EMBEDDINGS = _hf_embeddings(
  "patch_embeddings.projection", "embeddings.position_embeddings"
)
HF_DINOV2 = Layout(
  name="hf_dinov2",
  parts=(
    *_HF_EMBEDDINGS,
    _part("mask_token", "embeddings.mask_token", to=ROW),
    *_hf_blocks(
      _HF_LAYER, _HF_ATTENTION, "attention.output.dense", ("norm1", "norm2")
    ),
    *_layer_scale(*(f"{_HF_LAYER}.{name}" for name in _HF_SCALE)),
    *_affine("norm", "layernorm"),
  ),
  mlp=_mlp(f"{_HF_LAYER}.mlp", ("fc1",), "fc2"),
  swiglu=_mlp(f"{_HF_LAYER}.mlp", ("weights_in",), "weights_out"),
  requires=("encoder.layer.0.layer_scale1.lambda1",),
  forbids=("embeddings.register_tokens",),
  prefixes=("", "dinov2."),
  ignored=_CLASSIFIERS,
  fields={**_PUBLISHED, "interpolation": "size"},
  num_heads=_HEADS,
)
HF_DINOV2_REGISTERS = dataclasses.replace(
  HF_DINOV2,
  name="hf_dinov2_registers",
  requires=(*HF_DINOV2.requires, "embeddings.register_tokens"),
  forbids=(),
  prefixes=("", "dinov2_with_registers."),
  fields={**_PUBLISHED, "interpolation": "antialias"},
)
HF_DINOV3 = dataclasses.replace(
  HF_DINOV2,
  name="hf_dinov3",
  parts=(
    *_hf_embeddings("patch_embeddings", ""),
    _part("mask_token", "embeddings.mask_token", to=TOKEN),
    _part("block_{i}/q_bias", "layer.{i}.attention.q_proj.bias", to=VECTOR),
    _part("block_{i}/v_bias", "layer.{i}.attention.v_proj.bias", to=VECTOR),
    *_hf_blocks(
      "layer.{i}",
      tuple(f"attention.{name}_proj" for name in "qkv"),
      "attention.o_proj",
      ("norm1", "norm2"),
    ),
    *_layer_scale(*(f"layer.{{i}}.{name}" for name in _HF_SCALE)),
    *_affine("norm", "norm"),
  ),
  mlp=_mlp("layer.{i}.mlp", ("up_proj",), "down_proj"),
  swiglu=_mlp("layer.{i}.mlp", ("gate_proj", "up_proj"), "down_proj"),
  requires=("layer.0.attention.q_proj.weight",),
  forbids=(),
  prefixes=("", "dinov3_vit."),
  ignored=(*_CLASSIFIERS, "rope_embeddings.*"),
  fields=_DINOV3,
  num_heads=_DINOV3_HEADS,
)
HF_VIT = dataclasses.replace(
  HF_DINOV2,
  name="hf_vit",
  parts=(
    *_HF_EMBEDDINGS,
    _part("mask_token", "embeddings.mask_token", to=TOKEN),
    *_hf_blocks(
      _HF_LAYER,
      _HF_ATTENTION,
      "attention.output.dense",
      ("layernorm_before", "layernorm_after"),
    ),
    *_affine("norm", "layernorm"),
  ),
  mlp=_mlp(_HF_LAYER, ("intermediate.dense",), "output.dense"),
  swiglu=(),
  requires=(
    "encoder.layer.0.layernorm_before.weight",
    "embeddings.cls_token",
  ),
  forbids=(),
  prefixes=("", "vit."),
  ignored=(*_CLASSIFIERS, "pooler.dense.*", "decoder.*"),
  fields={**_PUBLISHED, "norm_epsilon": 1e-12, "interpolation": "size"},
)
HF_IJEPA = dataclasses.replace(
  HF_VIT,
  name="hf_ijepa",
  requires=HF_VIT.requires[:1],
  forbids=("embeddings.cls_token",),
  prefixes=("", "ijepa."),
  fields={**_PUBLISHED, "interpolation": "size"},
)

# --- ResNets. `{stage}` counts from 0 and `{layer}` from 1.


def _norm(leaf: str, tensor: str) -> tuple[Part, ...]:
  """A batch norm, with its running statistics."""
  return (
    *_affine(leaf, tensor),
    Part((f"batch_stats/{leaf}/mean",), (f"{tensor}.running_mean",), VECTOR),
    Part((f"batch_stats/{leaf}/var",), (f"{tensor}.running_var",), VECTOR),
    Part((), (f"{tensor}.num_batches_tracked",), COUNT),
  )


def _convolution(leaf: str, tensor: str) -> Part:
  return _part(f"{leaf}/kernel", f"{tensor}.weight", to=CONVOLUTION)


_BLOCK, _LAYER = "stage_{stage}_block_{i}", "layer{layer}.{i}"
TORCHVISION = Layout(
  name="torchvision",
  parts=(
    _convolution("stem", "conv1"),
    *_norm("stem_norm", "bn1"),
    *(
      part
      for j in range(3)
      for part in (
        _convolution(f"{_BLOCK}/Conv_{j}", f"{_LAYER}.conv{j + 1}"),
        *_norm(f"{_BLOCK}/BatchNorm_{j}", f"{_LAYER}.bn{j + 1}"),
      )
    ),
    _convolution(f"{_BLOCK}/shortcut", f"{_LAYER}.downsample.0"),
    *_norm(f"{_BLOCK}/shortcut_norm", f"{_LAYER}.downsample.1"),
  ),
  requires=("conv1.weight", "layer1.0.conv1.weight", "bn1.running_mean"),
  prefixes=(
    *_WRAPPERS,
    # MoCo v1 and v2, SimSiam, MoCo v3, DINO, Barlow Twins and VICReg.
    *("state_dict.module.encoder_q.", "module.encoder_q."),
    *("state_dict.module.encoder.", "module.encoder."),
    *("state_dict.module.base_encoder.", "module.base_encoder."),
    *("teacher.backbone.", "teacher.module.backbone."),
    *("module.backbone.", "model.module.backbone."),
  ),
  ignored=(*_CLASSIFIERS, "projection_head.*", "prototypes.*", "*_tracked"),
  fields={"norm_momentum": 0.9, **IMAGENET},
)

LAYOUTS: Mapping[str, Layout] = {
  layout.name: layout
  for layout in (
    *(DINOV3, TIMM_DINOV3, DINOV2_REGISTERS, DINOV2, IBOT, DINO, MOCO_V3),
    *(IJEPA, MAE, TIMM, HF_DINOV3, HF_DINOV2_REGISTERS, HF_DINOV2, HF_VIT),
    *(HF_IJEPA, TORCHVISION),
  )
}
"""Layouts by name, in the order in which files are compared with them."""
