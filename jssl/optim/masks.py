"""The parameters that weight decay and trust ratios apply to."""

import jax

from jssl import tree
from jssl.typing import PyTree

STACKED = "blocks"
"""Path component of leaves whose first axis is the layer (`model.scan_layers`).
Other blocks are called `block_0` etc."""
_VECTORS = frozenset({"bias", "scale", "positions", "cls"})


def is_stacked(name: str) -> bool:
  """True if a leaf of this path name holds all layers."""
  return STACKED in name.split("/")


def is_matrix(name: str, leaf: jax.Array | jax.ShapeDtypeStruct) -> bool:
  """True if a leaf is a matrix or a convolution, or a stack of them.

  Biases, norm scales, learned positions and class tokens are not, whatever
  their shape. SimCLR's LARS and BERT's LAMB exclude biases and norms. For ViTs,
  timm and MAE's fine-tuning exclude positions and tokens too, while DINO decays
  them; here they are excluded, because they are offsets, as biases are.
  """
  if name.split("/")[-1] in _VECTORS:
    return False
  return leaf.ndim - is_stacked(name) > 1


def matrices(params: PyTree) -> PyTree:
  """Returns a mask: True where a leaf is a matrix (see `is_matrix`)."""
  return tree.mask(params, is_matrix)
