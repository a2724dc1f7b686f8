"""Fields of `ViT` by name: common sizes and published models."""

from collections.abc import Mapping
from typing import Any

Fields = Mapping[str, Any]


def _size(width: int, depth: int, num_heads: int, **fields: Any) -> Fields:
  return {"width": width, "depth": depth, "num_heads": num_heads, **fields}


_SIZES = {
  "s": _size(384, 12, 6),
  "b": _size(768, 12, 12),
  "l": _size(1024, 24, 16),
  "h": _size(1280, 32, 16),
  "g": _size(1536, 40, 24, mlp="swiglu"),
}
_DINOV3_SIZES = {
  "s16": _SIZES["s"],
  "s16plus": {**_SIZES["s"], "mlp": "swiglu", "mlp_ratio": 6},
  "b16": _SIZES["b"],
  "l16": _SIZES["l"],
  "h16plus": _size(1280, 32, 20, mlp="swiglu", mlp_ratio=6),
  "7b16": _size(4096, 40, 32, mlp="swiglu", mlp_ratio=3, qkv_bias="none"),
}
_DINOV2_KINDS: Mapping[str, Fields] = {
  "": {"interpolation": "dino"},
  "_reg": {"interpolation": "antialias", "num_registers": 4},
}
IMAGENET = {"mean": (0.485, 0.456, 0.406), "std": (0.229, 0.224, 0.225)}
_PUBLISHED = {"pooling": "cls", "gelu": "erf", "layer_scale": 1e-5, **IMAGENET}
_DINOV2 = {
  **_PUBLISHED,
  "patch_size_px": 14,
  "positions": "learned",
  "class_position": True,
}
_DINOV3 = {
  **_PUBLISHED,
  "patch_size_px": 16,
  "positions": "rope",
  "num_registers": 4,
  "norm_epsilon": 1e-5,
  "qkv_bias": "qv",
}

PRESETS: Mapping[str, Fields] = {
  **{
    f"vit_{size}{patch}{suffix}": {"patch_size_px": patch, **fields, **more}
    for size, fields in _SIZES.items()
    for patch in (14, 16)
    for suffix, more in {"": {}, "_reg4": {"num_registers": 4}}.items()
  },
  **{
    f"dinov2_vit{size}14{suffix}": {**_DINOV2, **_SIZES[size], **more}
    for size in "sblg"
    for suffix, more in _DINOV2_KINDS.items()
  },
  **{
    f"dinov3_vit{size}": {**_DINOV3, **fields}
    for size, fields in _DINOV3_SIZES.items()
  },
}
"""Names of `model.preset`. `vit_*` have sizes only, other fields keep their
defaults; `dinov2_*` and `dinov3_*` are the models published under that name."""
