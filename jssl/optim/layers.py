"""Learning rates that decay from the last block of a ViT to the first."""

import re

import jax
import jax.numpy as jnp
import optax
from jaxtyping import Array, Float

from jssl import tree
from jssl.typing import PyTree

STACKED = "blocks"
"""Path component of leaves whose first axis is the layer (`model.scan_layers`).
Other blocks are called `block_0` etc."""
# Parameters after the last block.
_LAST = ("norm", "expansion")


def scale_by_layer(
  decay: float, patch_embed: float
) -> optax.GradientTransformation:
  """Scales the updates of `{"backbone": ..., "head": ...}` by layer.

  Block i of L is scaled by decay^(L - i), positions, tokens and the patch
  embedding as a block before the first; the last norm and the head are not.

  Args:
    decay: factor from one block to the one before.
    patch_embed: further factor of the patch embedding.

  Raises:
    ValueError: from `init`, if the backbone has no blocks.
  """

  def scale(updates: PyTree, params: PyTree) -> PyTree:
    del params
    factors = layer_factors(updates["backbone"], decay, patch_embed)
    scaled = jax.tree.map(
      lambda x, factor: x * factor.astype(x.dtype), updates["backbone"], factors
    )
    return {**updates, "backbone": scaled}

  def init(params: PyTree) -> optax.EmptyState:
    layer_factors(params["backbone"], decay, patch_embed)
    return optax.EmptyState()

  return optax.stateless(scale)._replace(init=init)


def layer_factors(params: PyTree, decay: float, patch_embed: float) -> PyTree:
  """Returns the factor of each parameter of a ViT, for broadcasting."""
  leaves = dict(zip(tree.names(params), jax.tree.leaves(params), strict=True))
  depth = _depth(leaves)

  def factor(path: tuple, leaf: Array) -> Float[Array, "..."]:
    first, *_ = tree.path_name(path).split("/")
    block = re.fullmatch(r"block_(\d+)", first)
    if first == STACKED:
      below = depth - jnp.arange(depth)
      return decay ** below.reshape(-1, *[1] * (leaf.ndim - 1))
    if block:
      exponent = depth - int(block[1])
    else:
      exponent = 0 if first in _LAST else depth + 1
    own = patch_embed if first == "embed" else 1.0
    return jnp.full((1,) * leaf.ndim, own * decay**exponent)

  return jax.tree_util.tree_map_with_path(factor, params)


def _depth(leaves: dict[str, Array]) -> int:
  """Returns the number of blocks."""
  for name, leaf in leaves.items():
    if name.split("/")[0] == STACKED:
      return len(leaf)
  blocks = {
    name.split("/")[0] for name in leaves if re.match(r"block_\d+/", name)
  }
  if not blocks:
    raise ValueError(
      "optim.layer_decay and optim.patch_embed_rate need the blocks of a ViT "
      '(model.name="vit"); set both to 1'
    )
  return len(blocks)
