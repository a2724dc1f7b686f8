"""Reads published weights into the variables of a model."""

import dataclasses
import fnmatch
import math
import os
from collections.abc import Callable, Iterator, Mapping
from typing import Any, NamedTuple

import jax
import numpy as np
from absl import logging
from flax.traverse_util import flatten_dict, unflatten_dict

from jssl.models import ResNet, ViT, init_variables
from jssl.typing import Variables
from jssl.weights import recognise
from jssl.weights.layout import Part, groups, select
from jssl.weights.recognise import Found, Model
from jssl.weights.tensors import Tensors

# Image size of models without a table of positions.
_IMAGE_PX = 224

Place = Callable[[str, np.ndarray], Any]


def on_default_device(name: str, array: np.ndarray) -> jax.Array:
  """Places a leaf on the default device."""
  del name
  return jax.device_put(array)


class Report(NamedTuple):
  """Used and ignored tensors of a file.

  Attributes:
    layout: name of the layout.
    prefix: prefix of the encoder's tensors in the file.
    used: tensors of the file, by the leaf that contains them.
    ignored: tensors of the file that are not part of the encoder.
  """

  layout: str
  prefix: str
  used: Mapping[str, tuple[str, ...]]
  ignored: tuple[str, ...]

  def __str__(self) -> str:
    """Returns one line per leaf, and the ignored tensors."""
    lines = [
      f"{leaf} <- {', '.join(names)}" for leaf, names in self.used.items()
    ]
    ignored = ", ".join(self.ignored) or "none"
    title = f"layout {self.layout}"
    if self.prefix:
      title += f", prefix {self.prefix}"
    return "\n".join([title, *lines, f"ignored: {ignored}"])


class Published:
  """A file of published weights, whose tensors are read one by one.

  Attributes:
    model: the `ViT` or `ResNet`.
    image_shape: (h, w, channels) of images with the grid of the stored
      positions; 224 px without positions.
    report: used and ignored tensors.
    usual_heads: heads of the published models of this width if the file does
      not declare their number, else None.
  """

  def __init__(
    self,
    path: str | os.PathLike,
    *,
    layout: str | None = None,
    num_heads: int | None = None,
    **fields: Any,
  ):
    """Recognises a file; see `load` for other arguments and errors.

    `num_heads` is used if the file does not declare the number of heads.
    """
    tensors = Tensors(path)
    found = recognise.recognise(tensors, layout)
    inferred = recognise.fields(found, tensors)
    self.usual_heads: int | None = None
    if not found.layout.is_resnet and "num_heads" not in inferred:
      self.usual_heads = found.layout.num_heads.get(inferred["width"])
      if heads := num_heads or self.usual_heads:
        inferred["num_heads"] = heads
    self.model = _model(inferred | fields, found, path)
    self.image_shape = _image_shape(found, tensors)
    self._shapes = abstract_leaves(self.model, self.image_shape)
    parts = groups(found.layout, self.model)
    self._groups, unmatched = select(parts, self._shapes)
    ignored = _check_names(found, tensors, self._groups, unmatched)
    used = {
      leaf: tuple(found.names[name] for name in part.tensors)
      for group in self._groups
      for part in group
      for leaf in part.leaves
    }
    self.report = Report(found.layout.name, found.prefix, used, ignored)
    self._tensors, self._names = tensors, found.names
    logging.info(
      "Recognised layout %s in %s; %d tensors are ignored: %s.",
      *(found.layout.name, path),
      *(len(ignored), ", ".join(ignored[:10]) or "none"),
    )

  def variables(self, place: Place) -> Variables:
    """Reads all leaves; `place` as for `load`."""
    stacked = isinstance(self.model, ViT) and self.model.scan_layers
    leaves = place_each(self.leaves(stacked=stacked), place)
    return unflatten_dict(leaves, sep="/")

  def leaves(self, *, stacked: bool) -> Iterator[tuple[str, np.ndarray]]:
    """Yields path and array of each leaf.

    `stacked` gives those of all blocks as one, as `ViT.scan_layers` has them.

    Raises:
      ValueError: if a tensor has an unexpected shape or dtype.
    """
    for group in self._groups:
      if stacked and "/block_0/" in group[0].leaves[0]:
        for j, leaf in enumerate(group[0].leaves):
          yield leaf.replace("/block_0/", "/blocks/"), self._stack(group, j)
      else:
        for part in group:
          yield from zip(part.leaves, self._read(part), strict=True)

  def _stack(self, group: list[Part], j: int) -> np.ndarray:
    """Reads leaf j of all blocks into one array, a block at a time."""
    first = self._read(group[0])[j]
    stacked = np.empty((len(group), *first.shape), first.dtype)
    stacked[0] = first
    del first
    for i, part in enumerate(group[1:], 1):
      stacked[i] = self._read(part)[j]
    return stacked

  def _read(self, part: Part) -> list[np.ndarray]:
    """Reads the leaves of one part."""
    names = [self._names[name] for name in part.tensors]
    arrays = part.conversion.read([self._tensors[name] for name in names])
    for leaf, array in zip(part.leaves, arrays, strict=True):
      expected = self._shapes[leaf].shape
      if array.shape != expected:
        shapes = [list(self._tensors.shape(name)) for name in names]
        raise ValueError(
          f"{self._tensors.path}: {', '.join(names)} of shape {shapes}: "
          f"expected shape {list(expected)} for {leaf}"
        )
    return arrays


def load(
  path: str | os.PathLike,
  *,
  layout: str | None = None,
  place: Place = on_default_device,
  num_heads: int | None = None,
  **fields: Any,
) -> tuple[Model, Variables]:
  """Reads published weights, in the layout of any supported library.

  The layout is recognised by the names of the tensors, and the fields of the
  model by their shapes and by `config.json` in a folder. Each layout has the
  numerics of its library: epsilons, GELU, interpolation of positions. Numbers
  of heads that neither shows are those of the published sizes.

  Example:
    >>> model, variables = jssl.weights.load("dinov2_vits14.safetensors")
    >>> backbone = model.backbone()

  Args:
    path: a safetensors file, an index of several, or a folder with one of
      them, such as those of Hugging Face or a `local-dir` of timm.
    layout: one of `jssl.weights.LAYOUTS`; None to recognise it.
    place: function of the path of a leaf, such as "params/norm/scale", and its
      array; its result is the leaf. One leaf at a time is in host memory.
    num_heads: number of attention heads, if the file does not declare it and it
      is not that of the published models of this width. MoCo v3's ViT-S has 12;
      an extracted one has the names of timm.
    **fields: fields of the model to use instead of those found, such as
      `scan_layers=True` or `mean=(0.5,)`.

  Returns:
    model: the `ViT` or `ResNet`.
    variables: parameters and batch statistics, in float32 or wider, for images
      of the size of the stored positions.

  Raises:
    FileNotFoundError: if there is no such file.
    ValueError: if the file is damaged, has no known layout, lacks tensors, or
      has tensors without a place in the model; names them.
  """
  published = Published(path, layout=layout, num_heads=num_heads, **fields)
  return published.model, published.variables(place)


def place_each(
  leaves: Iterator[tuple[str, np.ndarray]], place: Place
) -> dict[str, Any]:
  """Places leaves by path, and frees each before the next one is read."""
  placed = {}
  for name, leaf in leaves:
    placed[name] = jax.block_until_ready(place(name, leaf))
    del leaf
  return placed


def place_like(variables: Variables) -> Place:
  """Returns a `place` for leaves of these dtypes and shardings.

  Each device receives its shard only.

  Args:
    variables: abstract variables, `jax.ShapeDtypeStruct` with shardings, such
      as those of `jssl.mesh.state_sharding`.
  """
  expected = flatten_dict(variables, sep="/")

  def place(name: str, array: np.ndarray) -> jax.Array:
    leaf = expected[name]
    return jax.make_array_from_callback(
      leaf.shape,
      leaf.sharding,
      lambda index: array[index].astype(leaf.dtype, copy=False),
    )

  return place


def abstract_leaves(
  model: Model, image_shape: tuple[int, int, int], *, stacked: bool = False
) -> dict[str, jax.ShapeDtypeStruct]:
  """Returns the leaves of a model by path, see `Published.leaves`."""
  if isinstance(model, ViT):
    model = dataclasses.replace(model, scan_layers=stacked)
  backbone = model.backbone()
  variables = jax.eval_shape(lambda: init_variables(0, backbone, image_shape))
  return flatten_dict(variables, sep="/")


def _model(fields: Mapping[str, Any], found: Found, path: Any) -> Model:
  """Makes the model of inferred fields."""
  cls = ResNet if found.layout.is_resnet else ViT
  if unknown := set(fields) - {field.name for field in dataclasses.fields(cls)}:
    raise ValueError(
      f"{', '.join(sorted(unknown))}: expected fields of {cls.__name__}"
    )
  if cls is ViT and "num_heads" not in fields:
    raise ValueError(
      f"{path}: a width of {fields['width']} with an unknown number of heads; "
      "pass num_heads, which the file does not store"
    )
  return cls(**fields)


def _image_shape(found: Found, tensors: Tensors) -> tuple[int, int, int]:
  """Returns an image shape for which a model has the shapes of a file."""
  if found.layout.is_resnet:
    channels, size = tensors.shape(found.names["conv1.weight"])[1], _IMAGE_PX
  else:
    _, channels, patch, _ = recognise.shape(found, tensors, "embed/kernel")
    table = recognise.shape(found, tensors, "positions")
    size = patch * (math.isqrt(table[1]) if table else _IMAGE_PX // patch)
  return size, size, channels


def _check_names(
  found: Found, tensors: Tensors, groups: list[list[Part]], unmatched: list[str]
) -> tuple[str, ...]:
  """Returns the ignored tensors.

  Raises:
    ValueError: if tensors are missing or have no place in the model.
  """
  names = [name for group in groups for part in group for name in part.tensors]
  missing = [name for name in names if name not in found.names]
  if missing or unmatched:
    raise ValueError(
      f"{tensors.path}: layout {found.layout.name} expects "
      f"{recognise.nearest([*missing, *unmatched], found.names)}, which the "
      "file lacks"
    )
  unused = set(found.names) - set(names)
  unknown = sorted(
    name
    for name in unused
    if not any(fnmatch.fnmatch(name, p) for p in found.layout.ignored)
  )
  if unknown:
    raise ValueError(
      f"{tensors.path}: unexpected tensors for layout {found.layout.name}: "
      f"{recognise.nearest(unknown, names)}"
    )
  used = {found.names[name] for name in names}
  return tuple(name for name in tensors if name not in used)
