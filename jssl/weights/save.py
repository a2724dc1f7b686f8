"""Writes a backbone in the layout of another library."""

import dataclasses
import json
import os
from typing import Any

import jax
import numpy as np
from flax.traverse_util import flatten_dict
from safetensors.numpy import save_file

from jssl.models import ResNet, ViT
from jssl.models.vit_positions import sincos_positions
from jssl.runtime import files
from jssl.runtime.paths import as_path
from jssl.typing import Variables
from jssl.weights import layouts
from jssl.weights.folder import Files, hf_files, timm_files
from jssl.weights.layout import (
  CLASS_POSITION,
  MASK_EMBEDDING,
  POSITION_TABLE,
  Layout,
  groups,
  select,
)
from jssl.weights.recognise import LAYOUT, METADATA, Model

Leaves = dict[str, np.ndarray]


def save(
  model: Model,
  variables: Variables,
  path: str | os.PathLike,
  *,
  layout: str,
  image_size_px: int = 224,
  readme: str = "",
) -> None:
  """Writes weights that timm, torchvision or transformers load.

  The folder contains `model.safetensors`, and for timm and Hugging Face
  `config.json`; for Hugging Face also `preprocessor_config.json`. Fixed
  positions are written as a table. The feature of a folder is that of its
  library: the class token if there is one, for `model.pooling="cls_mean"` too.

      timm.create_model("local-dir:DIR", pretrained=True)
      transformers.AutoModel.from_pretrained("DIR")
      torchvision.models.resnet50().load_state_dict(tensors, strict=False)

  Args:
    model: a `ViT` or `ResNet`.
    variables: its parameters and batch statistics.
    path: folder to write, which must not exist or be empty.
    layout: "timm", "hf" (Hugging Face) or "torchvision" (ResNets).
    image_size_px: side of the images that the feature is meant for; the size of
      learned positions takes precedence.
    readme: text of `README.md`; "" for none.

  Raises:
    FileExistsError: if the folder has files.
    ValueError: if the library has no model with these fields; names them.
  """
  leaves = _leaves(model, variables)
  table = find_layout(model, layout)
  if isinstance(model, ViT):
    model, leaves, image_size_px = _with_positions(
      model, leaves, table, image_size_px
    )
  tensors = _tensors(model, leaves, table)
  descriptions: Files = {}
  channels = _channels(model, leaves)
  if layout == "timm":
    descriptions = timm_files(model, image_size_px, channels)
  elif layout == "hf" and isinstance(model, ViT):
    descriptions = hf_files(model, table, image_size_px, channels)
  # The file's dtype is float32, whatever the activations had in training.
  fields = dataclasses.asdict(dataclasses.replace(model, dtype="float32"))
  metadata = {
    "format": "pt",
    METADATA: json.dumps(fields),
    LAYOUT: table.name,
  }
  with files.new_folder(as_path(path)) as folder:
    save_file(tensors, folder / "model.safetensors", metadata)
    for name, values in descriptions.items():
      (folder / name).write_text(json.dumps(values, indent=2) + "\n")
    if readme:
      (folder / "README.md").write_text(readme)


def to_tensors(model: Model, variables: Variables, layout: str) -> Leaves:
  """Returns the tensors of a model by their names in one of `LAYOUTS`.

  Raises:
    ValueError: if the layout is unknown or has no place for a leaf.
  """
  if layout not in layouts.LAYOUTS:
    raise ValueError(
      f"layout={layout!r}: expected one of {', '.join(layouts.LAYOUTS)}"
    )
  return _tensors(model, _leaves(model, variables), layouts.LAYOUTS[layout])


def _leaves(model: Model, variables: Variables) -> Leaves:
  """Returns leaves by path; each block of a scanned ViT has its own."""
  leaves = {
    name: np.asarray(leaf, np.float32)
    for name, leaf in flatten_dict(jax.device_get(variables), sep="/").items()
  }
  if not (isinstance(model, ViT) and model.scan_layers):
    return leaves
  result = {}
  for name, leaf in leaves.items():
    if "/blocks/" in name:
      for i in range(model.depth):
        result[name.replace("/blocks/", f"/block_{i}/")] = leaf[i]
    else:
      result[name] = leaf
  return result


def _channels(model: Model, leaves: Leaves) -> int:
  if isinstance(model, ResNet):
    return leaves["params/stem/kernel"].shape[2]
  return len(leaves["params/embed/kernel"]) // model.patch_size_px**2


def find_layout(model: Model, layout: str) -> Layout:
  """Returns the layout of a model in a library.

  Raises:
    ValueError: if the library has no such model.
  """
  if isinstance(model, ResNet):
    if layout == "hf":
      raise ValueError(
        'layout="hf": expected a ViT, received a ResNet; use layout="timm", '
        "which transformers opens as a timm model"
      )
    return layouts.TORCHVISION
  if layout == "torchvision":
    raise ValueError(
      'layout="torchvision": expected a ResNet, received a ViT; use "timm" or '
      '"hf"'
    )
  rope = model.positions == "rope"
  if layout == "timm":
    return layouts.TIMM_DINOV3 if rope else layouts.TIMM
  if layout != "hf":
    raise ValueError(
      f'layout={layout!r}: expected "timm", "torchvision" or "hf"'
    )
  if rope:
    return layouts.HF_DINOV3
  if not model.has_class_token:
    return layouts.HF_IJEPA
  if not model.layer_scale:
    return layouts.HF_VIT
  registers = model.num_registers > 0
  return layouts.HF_DINOV2_REGISTERS if registers else layouts.HF_DINOV2


def _with_positions(
  model: ViT, leaves: Leaves, table: Layout, image_size_px: int
) -> tuple[ViT, Leaves, int]:
  """Adds the leaves that a layout always has, and returns the image size."""
  hf, zeros = table.name.startswith("hf_"), np.zeros(model.width, np.float32)
  leaves = dict(leaves)
  changes: dict[str, Any] = {"scan_layers": False}
  if model.positions == "rope":
    grid: tuple[int, ...] = ()
  elif model.positions == "learned":
    grid = leaves[POSITION_TABLE].shape[:2]
  else:
    patches = model.grid((image_size_px, image_size_px, 3))
    grid = patches.rows, patches.columns
    by_column = model.positions == "sincos_column"
    fixed = sincos_positions(
      patches.rows, patches.columns, model.width, column_first=by_column
    )
    leaves[POSITION_TABLE] = fixed.reshape(*grid, -1).astype(np.float32)
    changes["positions"] = "learned"
  if grid:
    if grid[0] != grid[1]:
      raise ValueError(
        f"positions of a grid of {grid}: expected a square, as libraries store "
        "one number; pretrain on square crops"
      )
    image_size_px = grid[0] * model.patch_size_px
    if hf and model.has_class_token and not model.class_position:
      leaves[CLASS_POSITION] = zeros
      changes["class_position"] = True
  if table in (layouts.HF_DINOV2_REGISTERS, layouts.HF_DINOV3):
    leaves.setdefault(MASK_EMBEDDING, zeros)
  elif table is not layouts.HF_DINOV2:
    leaves.pop(MASK_EMBEDDING, None)
  changes["mask_token"] = MASK_EMBEDDING in leaves
  return dataclasses.replace(model, **changes), leaves, image_size_px


def _tensors(model: Model, leaves: Leaves, table: Layout) -> Leaves:
  """Converts leaves to tensors.

  Raises:
    ValueError: if the layout has no place for a leaf.
  """
  parts = groups(table, model)
  selected, unmatched = select(parts, leaves)
  if unmatched:
    raise ValueError(
      f"layout {table.name} has no tensors for {', '.join(unmatched[:10])}; "
      "another layout may have one"
    )
  patch = model.patch_size_px if isinstance(model, ViT) else 0
  tensors: Leaves = {}
  for part in (part for group in selected for part in group):
    written = part.conversion.write(
      [leaves[leaf] for leaf in part.leaves], len(part.tensors), patch
    )
    tensors |= dict(zip(part.tensors, written, strict=True))
  # Counters of batch norms belong to no leaf.
  for part in (part for group in parts for part in group if not part.leaves):
    norm = part.tensors[0].rpartition(".")[0]
    if f"{norm}.weight" in tensors:
      tensors[part.tensors[0]] = np.zeros((), np.int64)
  return {
    name: np.ascontiguousarray(array).reshape(array.shape)
    for name, array in tensors.items()
  }
