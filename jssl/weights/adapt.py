"""Published weights for a model of another resolution, patch or channels.

Patches and channels are adapted as in timm, positions by the model's rule. All
other fields must be equal.
"""

import os
from collections.abc import Iterator

import jax
import jax.numpy as jnp
import numpy as np
from absl import logging
from flax.traverse_util import unflatten_dict
from jaxtyping import Float

from jssl.models import ResNet, ViT
from jssl.models.vit_positions import resized_positions, sincos_positions
from jssl.typing import Variables
from jssl.weights.layout import (
  CLASS_EMBEDDING,
  CLASS_POSITION,
  MASK_EMBEDDING,
  POSITION_TABLE,
)
from jssl.weights.load import (
  Place,
  Published,
  abstract_leaves,
  on_default_device,
  place_each,
)
from jssl.weights.recognise import Model

# Largest rounding error of a sin-cos table in float32.
_POSITION_TOLERANCE = 1e-4

# Fields that decide the function of the same parameters, or their shapes.
_VIT_FIELDS = (
  *("width", "depth", "num_heads", "mlp", "mlp_hidden_dim", "num_registers"),
  *("gelu", "norm_epsilon", "qkv_bias", "has_class_token", "norm_pooled"),
  *("has_layer_scale", "expand_dim", "has_rope"),
)
_RESNET_FIELDS = ("depth", "width", "small_images", "expand_dim")

Leaf = tuple[str, np.ndarray]


def load_for(
  model: Model,
  image_shape: tuple[int, int, int],
  path: str | os.PathLike,
  *,
  place: Place = on_default_device,
) -> Variables:
  """Reads published weights into the variables of a model.

  Learned positions are interpolated to the grid of the images by
  `model.interpolation`, or dropped if they equal the model's fixed ones.
  Patches of another size are resized by the pseudo-inverse of bicubic
  interpolation (FlexiViT, Beyer et al., CVPR 2023). Kernels for another number
  of channels are summed for one channel, else repeated and scaled so that equal
  channels give the same output. A mask token that the file lacks is 0.

  Args:
    model: the model.
    image_shape: (h, w, c) of its images.
    path: as for `load`.
    place: as for `load`.

  Raises:
    FileNotFoundError: if there is no such file.
    ValueError: as for `load`, or if fields of the model differ from those of
      the file; names the keys.
  """
  heads = getattr(model, "num_heads", None)
  published = Published(path, num_heads=heads)
  check_fields(model, published.model, path)
  if published.usual_heads not in (None, heads):
    message = (
      f"{path}: model.num_heads={heads}, {published.usual_heads} in the "
      f"published models of width {model.width}"
    )
    # Files of several families have the names of timm.
    if published.report.layout != "timm":
      raise ValueError(message)
    logging.warning("%s.", message)
  stacked = isinstance(model, ViT) and model.scan_layers
  shapes = abstract_leaves(model, image_shape, stacked=stacked)
  leaves = published.leaves(stacked=stacked)
  adapted = _adapted(leaves, published.model, model, image_shape)
  placed = place_each(adapted, place)
  if MASK_EMBEDDING in shapes and MASK_EMBEDDING not in placed:
    placed[MASK_EMBEDDING] = place(
      MASK_EMBEDDING, np.zeros(shapes[MASK_EMBEDDING].shape, np.float32)
    )
  wanted = {name: leaf.shape for name, leaf in shapes.items()}
  got = {name: leaf.shape for name, leaf in placed.items()}
  if wanted != got:
    differing = sorted(k for k, _ in wanted.items() ^ got.items())
    raise ValueError(
      f"{path}: leaves of the file and of the model differ: "
      f"{', '.join(dict.fromkeys(differing))}"
    )
  return unflatten_dict(placed, sep="/")


def check_fields(
  model: Model, published: Model, path: str | os.PathLike
) -> None:
  """Raises ValueError if weights of one model do not fit another."""
  if type(model) is not type(published):
    kinds = [type(m).__name__ for m in (published, model)]
    raise ValueError(
      f"{path}: a {kinds[0]} in the file and a {kinds[1]} in the config; "
      "change model.name"
    )
  names = _VIT_FIELDS if isinstance(model, ViT) else _RESNET_FIELDS
  differing = [
    f"model.{name}={getattr(model, name)!r}, {getattr(published, name)!r} in "
    "the file"
    for name in names
    if getattr(model, name) != getattr(published, name)
  ]
  for name in ("mean", "std"):
    values = getattr(model, name), getattr(published, name)
    longest = max(map(len, values))
    one, other = (v * longest if len(v) == 1 else v for v in values)
    if one != other:
      logging.warning(
        "%s: model.%s=%s standardises images, %s in the file.",
        *(path, name, *values),
      )
  if differing:
    raise ValueError(
      f"{path}: the file's model differs from the config: "
      f"{'; '.join(differing)}"
    )


def _adapted(
  leaves: Iterator[Leaf],
  published: Model,
  model: Model,
  image_shape: tuple[int, int, int],
) -> Iterator[Leaf]:
  """Yields the leaves of `model` from those of `published`."""
  if isinstance(model, ResNet) or isinstance(published, ResNet):
    for name, leaf in leaves:
      if name == "params/stem/kernel":
        leaf = _with_channels(leaf, image_shape[-1], axis=2)
      yield name, leaf
      del leaf  # Before the next one is read.
    return
  folded = published.class_position and not model.class_position
  parts: dict[str, np.ndarray] = {}
  for name, leaf in leaves:
    if name == "params/embed/kernel":
      patch = published.patch_size_px
      kernel = leaf.reshape(patch, patch, -1, leaf.shape[-1])
      kernel = _with_channels(kernel, image_shape[-1], axis=2)
      kernel = _resized_patches(kernel, model.patch_size_px)
      yield name, kernel.reshape(-1, leaf.shape[-1])
    elif name == POSITION_TABLE:
      yield from _positions(name, leaf, model, image_shape)
    elif folded and name in (CLASS_EMBEDDING, CLASS_POSITION):
      parts[name] = leaf
    elif name != MASK_EMBEDDING or model.mask_token:
      yield name, leaf
    del leaf  # Before the next one is read.
  if folded:
    yield CLASS_EMBEDDING, parts[CLASS_EMBEDDING] + parts[CLASS_POSITION]
  if model.class_position and not published.class_position:
    yield CLASS_POSITION, np.zeros(model.width, np.float32)


def _positions(
  name: str,
  table: Float[np.ndarray, "h w d"],
  model: ViT,
  image_shape: tuple[int, int, int],
) -> Iterator[Leaf]:
  """Yields the position embeddings of a model, unless they are fixed."""
  rows, columns, width = table.shape
  grid = model.grid(image_shape)
  if model.positions == "learned":
    resized = resized_positions(
      jnp.asarray(table), grid.rows, grid.columns, model.interpolation
    )
    yield name, np.asarray(resized).reshape(grid.rows, grid.columns, width)
    return
  orders = {"sincos": False, "sincos_column": True}
  equal = [
    positions
    for positions, column_first in orders.items()
    if np.allclose(
      sincos_positions(rows, columns, width, column_first=column_first),
      table.reshape(-1, width),
      atol=_POSITION_TOLERANCE,
    )
  ]
  if model.positions not in equal:
    raise ValueError(
      f"model.positions={model.positions!r}: the file has "
      f"{equal[0] if equal else 'learned'!r}; change it"
    )


def _with_channels(
  kernel: Float[np.ndarray, "h w i o"], channels: int, *, axis: int
) -> Float[np.ndarray, "h w c o"]:
  """Sums a kernel over its channels, or repeats and scales them."""
  old = kernel.shape[axis]
  if channels == old:
    return kernel
  if channels == 1:
    return kernel.sum(axis, keepdims=True)
  repeated = np.take(kernel, np.arange(channels) % old, axis)
  return (repeated * (old / channels)).astype(kernel.dtype)


def _resized_patches(
  kernel: Float[np.ndarray, "h w c d"], patch_size_px: int
) -> Float[np.ndarray, "p p c d"]:
  """Returns a kernel with similar products with resized patches."""
  old = kernel.shape[0]
  if old == patch_size_px:
    return kernel
  # The side of a patch is resized by `matrix` [new, old]; so is each axis.
  identity = jnp.eye(old)
  matrix = np.asarray(
    jax.image.resize(identity, (patch_size_px, old), "cubic", antialias=True)
  )
  inverse = np.linalg.pinv(matrix.T.astype(np.float64))
  resized = np.einsum("ai,bj,ijcd->abcd", inverse, inverse, kernel)
  return resized.astype(kernel.dtype)
