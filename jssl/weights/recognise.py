"""Recognises the layout of a file and infers the model's fields."""

import difflib
import json
import re
from collections.abc import Iterable, Mapping
from typing import Any, NamedTuple

from jssl.models import ResNet, ViT
from jssl.models.resnet import STAGES
from jssl.weights.conversions import square_side
from jssl.weights.layout import Layout
from jssl.weights.layouts import LAYOUTS
from jssl.weights.tensors import Tensors

# Metadata that `save` writes: the fields of the model as JSON, and the layout.
METADATA = "jssl.model"
LAYOUT = "jssl.layout"

_SHOWN_NAMES = 10
_ACTIVATIONS = {
  "silu": "",  # Of gated MLPs.
  "gelu": "erf",
  "gelu_new": "tanh",
  "gelu_pytorch_tanh": "tanh",
  "gelu_tanh": "tanh",
}

Model = ViT | ResNet


class Found(NamedTuple):
  """A layout recognised in a file.

  Attributes:
    layout: the layout.
    prefix: prefix of the encoder's tensors in the file.
    names: full name of each tensor, by its name in the layout.
  """

  layout: Layout
  prefix: str
  names: Mapping[str, str]


def nearest(unknown: Iterable[str], known: Iterable[str]) -> str:
  """Lists the first unknown names, each with the nearest known one."""
  unknown, known = list(unknown), list(known)
  lines = []
  for name in unknown[:_SHOWN_NAMES]:
    close = difflib.get_close_matches(name, known, n=1, cutoff=0.5)
    lines.append(f"{name} (nearest: {close[0]})" if close else name)
  more = len(unknown) - _SHOWN_NAMES
  return ", ".join(lines) + (f" and {more} more" if more > 0 else "")


def _names(
  layout: Layout, prefix: str, tensors: Iterable[str]
) -> dict[str, str]:
  """Returns the names in a file by those in the layout."""
  names = {}
  for full in tensors:
    if full.startswith(prefix):
      name = full[len(prefix) :]
      for pattern, replacement in layout.renames:
        name = re.sub(pattern, replacement, name)
      names[name] = full
  return names


def recognise(tensors: Tensors, layout: str | None = None) -> Found:
  """Finds the layout of a file by the names of its tensors.

  Raises:
    ValueError: if `layout` is unknown or no layout fits.
  """
  # `save` writes models that no names of tensors would tell apart.
  layout = layout or tensors.metadata.get(LAYOUT)
  if layout is not None and layout not in LAYOUTS:
    raise ValueError(
      f"{tensors.path}: layout={layout!r}: expected one of {', '.join(LAYOUTS)}"
    )
  candidates = LAYOUTS.values() if layout is None else [LAYOUTS[layout]]
  for candidate in candidates:
    required = candidate.requires
    prefixes = candidate.prefixes
    if layout is not None:
      # A backbone extracted from a training file has no prefix and no heads.
      required, prefixes = required[:1], (*prefixes, "")
    for prefix in prefixes:
      names = _names(candidate, prefix, tensors)
      if all(name in names for name in required) and not any(
        name in names for name in candidate.forbids
      ):
        return Found(candidate, prefix, names)
  known = {name for table in LAYOUTS.values() for name in table.requires}
  raise ValueError(
    f"{tensors.path}: expected tensors of "
    f"{layout or 'one of the layouts ' + ', '.join(LAYOUTS)}; received "
    f"{nearest(tensors, known)}"
  )


def shape(found: Found, tensors: Tensors, leaf: str) -> tuple[int, ...]:
  """Returns the shape of the first tensor of a ViT's leaf; () without it.

  For leaves of blocks, such as "block_{i}/qkv/bias", the shape in block 0.
  """
  layout = found.layout
  for part in (*layout.parts, *layout.mlp, *layout.swiglu):
    names = part.format(i=0, norm="norm").tensors
    if f"params/{leaf}" in part.leaves and all(n in found.names for n in names):
      return tensors.shape(found.names[names[0]])
  return ()


def _count(names: Mapping[str, str], pattern: str) -> int:
  """Returns the number of consecutive names `pattern.format(i=0, 1, ...)`."""
  i = 0
  while pattern.format(i=i) in names:
    i += 1
  return i


def _vit_fields(found: Found, tensors: Tensors) -> dict[str, Any]:
  """Infers the fields of a ViT from names and shapes."""
  layout, names = found.layout, found.names

  def size(leaf: str) -> tuple[int, ...]:
    return shape(found, tensors, leaf)

  def has(leaf: str) -> bool:
    return bool(size(leaf))

  if len(size("embed/kernel")) != 4 or not has("block_{i}/mlp_out/kernel"):
    raise ValueError(
      f"{tensors.path}: layout {layout.name} expects patches of "
      "[width, channels, side, side] and MLPs of two linear maps; found none"
    )
  width, _, patch, _ = size("embed/kernel")
  (pattern,) = (
    part.tensors[0]
    for part in layout.parts
    if part.leaves == ("params/block_{i}/attention_norm/scale",)
  )
  fields: dict[str, Any] = {
    **layout.fields,
    "patch_size_px": patch,
    "width": width,
    "depth": _count(names, pattern),
    "positions": "learned" if has("positions") else "rope",
    "layer_scale": 1e-5 if has("block_{i}/attention_scale") else 0.0,
    "mask_token": has("mask_token"),
    "num_registers": size("registers")[1] if has("registers") else 0,
    "qkv_bias": "none",
    **_mlp_fields(found, tensors, width),
  }
  masked = "blocks.0.attn.qkv.bias_mask" in names
  if has("block_{i}/qkv/bias") and not masked:
    fields["qkv_bias"] = "qkv"
  elif has("block_{i}/q_bias"):
    fields["qkv_bias"] = "qv"
  cls = has("cls")
  if has("positions"):
    table = size("positions")[1]
    fields["class_position"] = cls and bool(square_side(table - 1))
    if not square_side(table - fields["class_position"]):
      raise ValueError(
        f"{tensors.path}: expected positions of a square grid, received "
        f"{table} rows; models with another prefix or grid cannot be read"
      )
  fields |= _declared_fields(tensors)
  if not cls or "fc_norm.weight" in names:
    fields |= {"pooling": "mean", "norm_pooled": "fc_norm.weight" in names}
  fields["class_token"] = cls and fields["pooling"] == "mean"
  return fields


def _mlp_fields(found: Found, tensors: Tensors, width: int) -> dict[str, Any]:
  layout = found.layout
  hidden = shape(found, tensors, "block_{i}/mlp_out/kernel")[1]
  first = [part.format(i=0).tensors[0] for part in layout.swiglu[:1]]
  gated = bool(first) and first[0] in found.names
  if layout.mlp == layout.swiglu:
    # Only gated MLPs have twice the outputs.
    gated = shape(found, tensors, "block_{i}/mlp_in/kernel")[0] != hidden
  fields: dict[str, Any] = {"mlp": "swiglu" if gated else "gelu"}
  if not gated and hidden % width == 0:
    return {**fields, "mlp_ratio": hidden // width}
  return {**fields, "mlp_dim": hidden}


def _declared_fields(tensors: Tensors) -> dict[str, Any]:
  """Returns the fields that `config.json` of timm or Hugging Face declares."""
  config = tensors.config
  config = {**config, **config.get("model_args", {})}
  fields: dict[str, Any] = {}
  for key in ("num_attention_heads", "num_heads"):
    if key in config:
      fields["num_heads"] = config[key]
  if "layer_norm_eps" in config:
    fields["norm_epsilon"] = config["layer_norm_eps"]
  if config.get("global_pool") == "avg":
    fields["pooling"] = "mean"
  activation = config.get("hidden_act", config.get("act_layer", "gelu"))
  if activation not in _ACTIVATIONS:
    raise ValueError(
      f"{tensors.path}: activation {activation!r} in config.json: expected one "
      f"of {', '.join(_ACTIVATIONS)}"
    )
  if activation != "silu":
    fields["gelu"] = _ACTIVATIONS[activation]
  return fields


def _resnet_fields(found: Found, tensors: Tensors) -> dict[str, Any]:
  """Infers the fields of a ResNet from names and shapes."""
  names = found.names
  stages = tuple(
    _count(names, f"layer{layer}.{{i}}.conv1.weight") for layer in range(1, 5)
  )
  bottleneck = "layer1.0.conv3.weight" in names
  depths = {
    depth
    for depth, blocks in STAGES.items()
    if blocks == stages and (depth >= 50) == bottleneck
  }
  if not depths:
    raise ValueError(
      f"{tensors.path}: expected a ResNet-18, 34 or 50, received stages of "
      f"{stages} {'bottlenecks' if bottleneck else 'blocks'}"
    )
  stem = tensors.shape(names["conv1.weight"])
  return {
    **found.layout.fields,
    "depth": depths.pop(),
    "width": stem[0],
    "small_images": stem[-1] == 3,
  }


def _colours(config: Mapping[str, Any]) -> dict[str, Any]:
  """Returns the mean and standard deviation that a folder declares."""
  declared = config.get("pretrained_cfg", config)
  pairs = {"mean": ("mean", "image_mean"), "std": ("std", "image_std")}
  return {
    field: tuple(declared[key])
    for field, keys in pairs.items()
    for key in keys
    if key in declared
  }


def fields(found: Found, tensors: Tensors) -> dict[str, Any]:
  """Infers the fields of the model from names, shapes and `config.json`.

  Raises:
    ValueError: if no model of this library has such tensors.
  """
  if METADATA in tensors.metadata:
    try:
      own = json.loads(tensors.metadata[METADATA])
    except ValueError as error:
      raise ValueError(
        f"{tensors.path}: metadata {METADATA}: {error}"
      ) from None
    return {k: tuple(v) if isinstance(v, list) else v for k, v in own.items()}
  infer = _resnet_fields if found.layout.is_resnet else _vit_fields
  return {**infer(found, tensors), **_colours(tensors.config)}
