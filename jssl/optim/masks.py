"""Which parameters are decayed and, under LARS and LAMB, adapted."""

import jax

from jssl import tree
from jssl.typing import PyTree

STACKED = "blocks"
"""Path component under which leaves have one layer a row of their first axis
(`model.scan_layers`). Blocks that are not stacked are called `block_0` etc."""
_VECTORS = frozenset({"bias", "scale", "positions", "cls"})


def is_stacked(name: str) -> bool:
  """Returns whether the leaf of this path name holds all layers at once."""
  return STACKED in name.split("/")


def is_matrix(name: str, leaf: jax.Array) -> bool:
  """Returns whether a leaf is a matrix or a convolution, or a stack of them.

  Biases, norm scales, learned positions and class tokens are none, whatever
  their shape. SimCLR's LARS and BERT's LAMB leave out biases and norms; of the
  recipes for ViTs timm and MAE's fine-tuning leave out positions and tokens
  too, and DINO decays them. They are left out here: they are offsets that are
  added to tokens, as biases are, and a stored [1, n, d] should not change that.

  Args:
    name: path of the leaf, `backbone/blocks/qkv/kernel`.
    leaf: an array, or anything that has an `ndim`.
  """
  if name.split("/")[-1] in _VECTORS:
    return False
  return leaf.ndim - is_stacked(name) > 1


def matrices(params: PyTree) -> PyTree:
  """Returns a mask: True where a leaf is a matrix (see `is_matrix`)."""
  return tree.mask(params, is_matrix)
