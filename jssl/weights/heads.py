"""Heads of DINO, iBOT, DINOv2 and DINOv3, from their training files."""

import os
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from jssl.models.heads import Head, Prototypes
from jssl.objectives import Objective
from jssl.typing import PyTree
from jssl.weights.conversions import MATRIX
from jssl.weights.tensors import Tensors

# Names in a file by those of the objective, in order of preference.
_MLPS = {
  "projector": ("dino_head.mlp", "head.mlp"),
  "patch_projector": ("ibot_head.mlp", "head.mlp"),
}
_LAYERS = {
  "prototypes": ("dino_head.last_layer", "head.last_layer"),
  "patch_prototypes": (
    *("ibot_head.last_layer", "head.last_layer2", "head.last_layer"),
  ),
}
_NETWORKS = ("teacher.", "teacher.module.", "model.teacher.")
_UNIT_NORM_TOLERANCE = 1e-5


def load_heads(
  objective: Objective,
  params: dict[str, PyTree],
  state: dict[str, PyTree],
  path: str | os.PathLike,
) -> tuple[dict[str, PyTree], dict[str, PyTree]]:
  """Reads the heads of the averaged network of an official training file.

  Trained and averaged heads start as copies. Centres start at 0: they are
  averages over the last steps only. Prototypes with trained norms need
  `objective.prototypes.norm="none"`, whose rows have norms of their own.

  Args:
    objective: DINO, iBOT or DINOv2, with the heads of the file.
    params: head parameters of the objective.
    state: its state, with averages of the heads under "teacher".
    path: as for `load`.

  Returns:
    `(params, state)` with the heads of the file.

  Raises:
    ValueError: if the file lacks a head, or has another one; names the keys.
  """
  tensors = Tensors(path)
  heads = {}
  for name, value in params.items():
    prefix = _find(tensors, name)
    if name in _MLPS:
      heads[name] = _mlp(tensors, prefix, name, getattr(objective, name), value)
    else:
      layer = getattr(objective, name)
      heads[name] = _prototypes(tensors, prefix, name, layer, value)
  second = _prefix_of(tensors, "head.last_layer2")
  if second and "patch_prototypes" not in params:
    # The official code stores a shared layer under both names.
    own = [name for name in tensors if name.startswith(second)]
    pairs = ((name, name.replace("last_layer2", "last_layer")) for name in own)
    if all(np.array_equal(tensors[a], tensors[b]) for a, b in pairs):
      second = ""
  if second and "patch_prototypes" not in params:
    raise ValueError(
      f"{path} has separate prototypes of patches (head.last_layer2): set "
      "objective.shared_head=False"
    )
  averages = {**state["teacher"], **jax.tree.map(jnp.copy, heads)}
  return heads, {**state, "teacher": averages}


def _prefix_of(tensors: Tensors, name: str) -> str:
  """Returns the first full prefix of a layer in the file, or ""."""
  for network in _NETWORKS:
    prefix = f"{network}{name}."
    if any(tensor.startswith(prefix) for tensor in tensors):
      return prefix
  return ""


def _find(tensors: Tensors, name: str) -> str:
  candidates = {**_MLPS, **_LAYERS}.get(name, ())
  for candidate in candidates:
    if prefix := _prefix_of(tensors, candidate):
      return prefix
  raise ValueError(
    f"{tensors.path} has no tensors for the head {name!r} of the objective: "
    f"expected one of {', '.join(candidates) or 'those of DINO and DINOv2'} of "
    "a teacher; set init_from.heads=False"
  )


def _mlp(
  tensors: Tensors, prefix: str, name: str, head: Head, params: PyTree
) -> PyTree:
  """Reads an MLP with exact GELUs and without norms."""
  if head.activation != "gelu_erf" or head.norm:
    raise ValueError(
      f"objective.{name}.activation={head.activation!r}, norm={head.norm}: the "
      'file has a head with activation="gelu_erf" and norm=False'
    )
  # Activations stand between the linear layers.
  return {
    layer: {
      "kernel": _placed(
        MATRIX.read([tensors[f"{prefix}{2 * i}.weight"]])[0],
        params[layer]["kernel"],
        f"objective.{name}",
      ),
      "bias": _placed(
        tensors[f"{prefix}{2 * i}.bias"],
        params[layer]["bias"],
        f"objective.{name}",
      ),
    }
    for i, layer in enumerate(sorted(params))
  }


def _prototypes(
  tensors: Tensors, prefix: str, name: str, layer: Prototypes, params: Any
) -> jax.Array:
  """Reads prototypes, with the norms of weight normalisation if any."""
  if f"{prefix}weight" in tensors:  # DINOv3: a plain linear layer.
    rows = tensors[f"{prefix}weight"]
  else:
    directions = tensors[f"{prefix}weight_v"].astype(np.float64)
    directions /= np.linalg.norm(directions, axis=1, keepdims=True)
    rows = tensors[f"{prefix}weight_g"] * directions
  norms = np.linalg.norm(rows, axis=1)
  if layer.norm != "none" and abs(norms - 1).max() > _UNIT_NORM_TOLERANCE:
    raise ValueError(
      f"objective.{name}.norm={layer.norm!r}: the prototypes of the file have "
      f'norms from {norms.min():.3g} to {norms.max():.3g}; set it to "none"'
    )
  return _placed(rows, params, f"objective.{name}")


def _placed(array: np.ndarray, like: Any, key: str) -> jax.Array:
  """Returns an array with the dtype and sharding of another."""
  if array.shape != like.shape:
    raise ValueError(
      f"{key} has a layer of shape {list(like.shape)}, {list(array.shape)} in "
      "the file; change its widths"
    )
  return jax.device_put(array.astype(like.dtype), like.sharding)
