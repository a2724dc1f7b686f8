"""Descriptions of a model: in a config, and in folders of other libraries."""

import dataclasses
from collections.abc import Mapping
from typing import Any

from jssl.augment.crop import CENTER_SHARE
from jssl.models import MODELS, ResNet, ViT
from jssl.weights import layouts
from jssl.weights.layouts import Layout

Files = dict[str, Mapping[str, Any]]

_BILINEAR = 2  # In Pillow.
_TIMM_EPSILON = 1e-6
_DINOV3_EPSILON = 1e-5


def model_section(model: ViT | ResNet) -> dict[str, Any]:
  """Returns the `model` section of a config, without default values."""
  (name,) = (name for name, cls in MODELS.items() if isinstance(model, cls))
  changed = {
    field.name: value
    for field in dataclasses.fields(model)
    if (value := getattr(model, field.name)) != field.default
  }
  return {"name": name, **changed}


def _colours(model: ViT | ResNet, channels: int) -> dict[str, list[float]]:
  """Returns mean and standard deviation of each channel."""
  return {
    name: list(values) * (channels // len(values))
    for name, values in (("mean", model.mean), ("std", model.std))
  }


def _refuse(model: ViT, layout: str, **expected: tuple[Any, ...]) -> None:
  """Raises ValueError if a field has none of the values of a library."""
  for name, values in expected.items():
    if getattr(model, name) not in values:
      raise ValueError(
        f"model.{name}={getattr(model, name)!r}: layout={layout!r} has only "
        f"{' or '.join(map(repr, values))}"
      )


def timm_files(model: ViT | ResNet, image_size_px: int, channels: int) -> Files:
  """Returns the `config.json` of a `local-dir` of timm.

  Raises:
    ValueError: if timm has no model with these fields.
  """
  if isinstance(model, ResNet):
    if model.small_images or model.width != 64:
      raise ValueError(
        f"model.small_images={model.small_images}, model.width={model.width}: "
        'layout="timm" has only 7x7 stems of width 64; layout="torchvision" '
        "writes the tensors alone"
      )
    architecture, pooling = f"resnet{model.depth}", "avg"
    arguments: dict[str, Any] = {"in_chans": channels}
    first, classifier = "conv1", "fc"
  else:
    architecture, arguments = _timm_vit(model, image_size_px, channels)
    pooling = "avg" if model.pooling == "mean" else "token"
    arguments["global_pool"] = pooling
    first, classifier = "patch_embed.proj", "head"
  return {
    "config.json": {
      "architecture": architecture,
      "num_classes": 0,
      "num_features": model.backbone().feature_dim,
      "global_pool": pooling,
      "model_args": arguments,
      "pretrained_cfg": {
        "input_size": [channels, image_size_px, image_size_px],
        "interpolation": "bilinear",
        "crop_pct": CENTER_SHARE,
        **_colours(model, channels),
        "num_classes": 0,
        "first_conv": first,
        "classifier": classifier,
      },
    }
  }


def _timm_vit(
  model: ViT, image_size_px: int, channels: int
) -> tuple[str, dict[str, Any]]:
  """Returns architecture and arguments of a ViT in timm."""
  gated = model.mlp == "swiglu"
  hidden = model.mlp_hidden_dim
  arguments: dict[str, Any] = {
    "img_size": image_size_px,
    "patch_size": model.patch_size_px,
    "in_chans": channels,
    "embed_dim": model.width,
    "depth": model.depth,
    "num_heads": model.num_heads,
    "qkv_bias": model.qkv_bias != "none",
    "init_values": model.layer_scale or None,
    # timm rounds the product with the width down.
    "mlp_ratio": (hidden + 0.5) / model.width,
  }
  if model.positions == "rope":
    _refuse(
      model,
      "timm",
      norm_epsilon=(_DINOV3_EPSILON,),
      gelu=("erf",) if not gated else ("erf", "tanh"),
      qkv_bias=("qv", "none"),
      norm_pooled=(False,),
    )
    size = "small_plus" if gated else "base"
    arguments |= {
      "class_token": model.has_class_token,
      "num_reg_tokens": model.num_registers,
    }
    return f"vit_{size}_patch16_dinov3", arguments
  _refuse(
    model,
    "timm",
    norm_epsilon=(_TIMM_EPSILON,),
    qkv_bias=("qkv", "none"),
  )
  if gated:
    # The first matrix contains gates and values.
    arguments["mlp_ratio"] = (2 * hidden + 0.5) / model.width
  elif model.gelu == "tanh":
    arguments["act_layer"] = "gelu_tanh"
  arguments |= {
    "class_token": model.has_class_token,
    "reg_tokens": model.num_registers,
    "no_embed_class": not model.class_position,
    "fc_norm": model.norm_pooled,
  }
  name = "vit_giant_patch14_dinov2" if gated else "vit_base_patch16_224"
  return name, arguments


def hf_files(
  model: ViT, layout: Layout, image_size_px: int, channels: int
) -> Files:
  """Returns `config.json` and `preprocessor_config.json` of Hugging Face.

  Raises:
    ValueError: if transformers has no model with these fields.
  """
  _refuse(model, "hf", norm_pooled=(False,))
  gated = model.mlp == "swiglu"
  hidden = model.mlp_hidden_dim
  config: dict[str, Any] = {
    "dtype": "float32",
    "torch_dtype": "float32",
    "hidden_size": model.width,
    "num_hidden_layers": model.depth,
    "num_attention_heads": model.num_heads,
    "image_size": image_size_px,
    "patch_size": model.patch_size_px,
    "num_channels": channels,
    "layer_norm_eps": model.norm_epsilon,
    "hidden_act": "gelu" if model.gelu == "erf" else "gelu_pytorch_tanh",
    "initializer_range": 0.02,
  }
  if layout is layouts.HF_DINOV3:
    kind, cls = "dinov3_vit", "DINOv3ViTModel"
    if not (model.has_class_token and model.layer_scale):
      raise ValueError(
        f"model.class_token={model.class_token}, "
        f'model.layer_scale={model.layer_scale}: layout="hf" has RoPE only '
        'with a class token and LayerScale; layout="timm" has both'
      )
    config |= {
      "intermediate_size": hidden,
      "use_gated_mlp": gated,
      "hidden_act": "silu" if gated else config["hidden_act"],
      "rope_theta": 100.0,
      "num_register_tokens": model.num_registers,
      "layerscale_value": model.layer_scale,
      **{f"{name}_bias": True for name in ("proj", "mlp")},
      **{
        f"{name}_bias": model.qkv_bias != "none" for name in ("query", "value")
      },
      "key_bias": model.qkv_bias == "qkv",
      # Only training uses them.
      "pos_embed_shift": model.rope_shift or None,
      "pos_embed_jitter": model.rope_jitter if model.rope_jitter > 1 else None,
      "pos_embed_rescale": model.rope_rescale
      if model.rope_rescale > 1
      else None,
    }
  else:
    _refuse(model, "hf", qkv_bias=("qkv", "none"))
    config["qkv_bias"] = model.qkv_bias != "none"
    if layout in (layouts.HF_VIT, layouts.HF_IJEPA):
      _refuse(model, "hf", mlp=("gelu",), num_registers=(0,))
      is_vit = layout is layouts.HF_VIT
      kind, cls = ("vit", "ViTModel") if is_vit else ("ijepa", "IJepaModel")
      config["intermediate_size"] = hidden
    else:
      registers = layout is layouts.HF_DINOV2_REGISTERS
      kind = "dinov2_with_registers" if registers else "dinov2"
      cls = "Dinov2WithRegistersModel" if registers else "Dinov2Model"
      same = dataclasses.replace(model, mlp_dim=0)
      if same.mlp_hidden_dim != hidden:
        raise ValueError(
          f'model.mlp_dim={hidden}: layout="hf" has only hidden widths of '
          f"model.mlp_ratio times model.width={model.width}"
        )
      config |= {
        "mlp_ratio": model.mlp_ratio,
        "use_swiglu_ffn": gated,
        "layerscale_value": model.layer_scale,
      }
      if registers:
        config["num_register_tokens"] = model.num_registers
      else:
        config["use_mask_token"] = model.mask_token
  short = round(image_size_px / CENTER_SHARE)
  colours = _colours(model, channels)
  return {
    "config.json": {"model_type": kind, "architectures": [cls], **config},
    "preprocessor_config.json": {
      "image_processor_type": "BitImageProcessor",
      "do_resize": True,
      "size": {"shortest_edge": short},
      "resample": _BILINEAR,
      "do_center_crop": True,
      "crop_size": {"height": image_size_px, "width": image_size_px},
      "do_rescale": True,
      "rescale_factor": 1 / 255,
      "do_normalize": True,
      "image_mean": colours["mean"],
      "image_std": colours["std"],
    },
  }
