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
from jssl.weights import layouts, recognise
from jssl.weights.layouts import Part
from jssl.weights.recognise import Found, Model
from jssl.weights.tensors import Tensors

# Of models whose positions have no size of their own (RoPE, ResNets).
_IMAGE_PX = 224

Place = Callable[[str, np.ndarray], Any]


class Report(NamedTuple):
  """What became of the tensors of a file.

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


def load(
  path: str | os.PathLike,
  *,
  layout: str | None = None,
  place: Place = lambda _, array: jax.device_put(array),
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
    **fields: fields of the model to use instead of those found, such as
      `num_heads=12` or `scan_layers=True`.

  Returns:
    model: the `ViT` or `ResNet`.
    variables: parameters and batch statistics, in float32, for images of the
      size of the stored positions.

  Raises:
    FileNotFoundError: if there is no such file.
    ValueError: if the file is damaged, has no known layout, lacks tensors, or
      has tensors without a place in the model; names them.
  """
  model, variables, report = load_with_report(
    path, layout=layout, place=place, **fields
  )
  ignored = ", ".join(report.ignored[:10]) or "none"
  logging.info(
    "Read %d leaves of layout %s from %s; %d tensors ignored: %s.",
    *(len(report.used), report.layout, path, len(report.ignored), ignored),
  )
  return model, variables


def load_with_report(
  path: str | os.PathLike,
  *,
  layout: str | None = None,
  place: Place = lambda _, array: jax.device_put(array),
  **fields: Any,
) -> tuple[Model, Variables, Report]:
  """As `load`, with a report of the tensors that were used or ignored."""
  tensors = Tensors(path)
  found = recognise.recognise(tensors, layout)
  model = _model(recognise.fields(found, tensors) | fields, found, path)
  shapes = abstract_leaves(model, _image_shape(found, tensors))
  groups, homeless = layouts.select(layouts.groups(found.layout, model), shapes)
  ignored = _check_names(found, tensors, groups, homeless)
  stacked = isinstance(model, ViT) and model.scan_layers
  leaves = {}
  for group in groups:
    for leaf, array in _read(group, found, tensors, shapes, stacked=stacked):
      leaves[leaf] = place(leaf, array)
  used = {
    leaf: tuple(found.names[name] for name in part.tensors)
    for group in groups
    for part in group
    for leaf in part.leaves
  }
  report = Report(found.layout.name, found.prefix, used, ignored)
  return model, unflatten_dict(leaves, sep="/"), report


def abstract_leaves(
  model: Model, image_shape: tuple[int, int, int]
) -> dict[str, jax.ShapeDtypeStruct]:
  """Returns the leaves of a model by path, blocks one by one."""
  if isinstance(model, ViT):
    model = dataclasses.replace(model, scan_layers=False)
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
    size = patch * (math.isqrt(table[1]) if table else 1)
  return size, size, channels


def _check_names(
  found: Found, tensors: Tensors, groups: list[list[Part]], homeless: list[str]
) -> tuple[str, ...]:
  """Returns the ignored tensors.

  Raises:
    ValueError: if tensors are missing or have no place in the model.
  """
  names = [name for group in groups for part in group for name in part.tensors]
  missing = [name for name in names if name not in found.names]
  if missing or homeless:
    raise ValueError(
      f"{tensors.path}: layout {found.layout.name} expects "
      f"{recognise.nearest([*missing, *homeless], found.names)}, which the "
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
      f"{tensors.path}: a model of layout {found.layout.name} has no place for "
      f"{recognise.nearest(unknown, names)}"
    )
  used = {found.names[name] for name in names}
  return tuple(name for name in tensors if name not in used)


def _read(
  group: list[Part],
  found: Found,
  tensors: Tensors,
  shapes: Mapping[str, jax.ShapeDtypeStruct],
  *,
  stacked: bool,
) -> Iterator[tuple[str, np.ndarray]]:
  """Yields the leaves of a group; those of stacked blocks as one."""

  def read(part: Part) -> list[np.ndarray]:
    names = [found.names[name] for name in part.tensors]
    arrays = part.conversion.read([tensors[name] for name in names])
    for leaf, array in zip(part.leaves, arrays, strict=True):
      if array.shape != shapes[leaf].shape:
        raise ValueError(
          f"{tensors.path}: {', '.join(names)} of shape "
          f"{[list(tensors.shape(name)) for name in names]}: expected numbers "
          f"for {leaf} of shape {list(shapes[leaf].shape)}"
        )
    return arrays

  if stacked and "/block_0/" in group[0].leaves[0]:
    for j, leaf in enumerate(group[0].leaves):
      blocks = [read(part)[j] for part in group]
      yield leaf.replace("/block_0/", "/blocks/"), np.stack(blocks)
  else:
    for part in group:
      yield from zip(part.leaves, read(part), strict=True)
