"""A layout of published weights: a table from leaves to tensors of a file."""

import dataclasses
from collections.abc import Iterable, Mapping
from typing import Any

from jssl.models import ResNet, ViT
from jssl.models.resnet import STAGES
from jssl.weights.conversions import Conversion

# Leaves that not every file and model has.
CLASS_EMBEDDING = "params/cls"
CLASS_POSITION = "params/cls_position"
MASK_EMBEDDING = "params/mask_token"
POSITION_TABLE = "params/positions"


@dataclasses.dataclass(frozen=True)
class Part:
  """Leaves of the variables, and the tensors of a file with the same numbers.

  Attributes:
    leaves: paths of leaves, such as "params/block_{i}/qkv/kernel".
    tensors: names of tensors.
    conversion: the functions between both.
  """

  leaves: tuple[str, ...]
  tensors: tuple[str, ...]
  conversion: Conversion

  def format(self, **values: object) -> "Part":
    """Returns the part with values in place of `{i}` and its like."""
    return dataclasses.replace(
      self,
      leaves=tuple(leaf.format(**values) for leaf in self.leaves),
      tensors=tuple(tensor.format(**values) for tensor in self.tensors),
    )


@dataclasses.dataclass(frozen=True)
class Layout:
  """Names and numerics of one family of published weights.

  Attributes:
    name: name of the layout.
    parts: tensors. Of parts with the same leaf, the first one applies whose
      leaves the model has.
    requires: tensors that identify the layout.
    forbids: tensors that exclude it.
    prefixes: prefixes of the names in a file, in order of preference.
    ignored: patterns of tensors that are not part of the encoder.
    renames: regular expressions and replacements for names in a file.
    fields: fields of the model that the tensors do not show.
    num_heads: attention heads of the published models, by their width.
    swiglu: parts of MLPs with `model.mlp="swiglu"`, in place of `mlp`.
    mlp: parts of MLPs with `model.mlp="gelu"`.
  """

  name: str
  parts: tuple[Part, ...]
  requires: tuple[str, ...]
  forbids: tuple[str, ...] = ()
  prefixes: tuple[str, ...] = ("",)
  ignored: tuple[str, ...] = ()
  renames: tuple[tuple[str, str], ...] = ()
  fields: Mapping[str, Any] = dataclasses.field(default_factory=dict)
  num_heads: Mapping[int, int] = dataclasses.field(default_factory=dict)
  mlp: tuple[Part, ...] = ()
  swiglu: tuple[Part, ...] = ()

  @property
  def is_resnet(self) -> bool:
    """True if the layout is one of ResNets."""
    return not self.mlp


def groups(layout: Layout, model: ViT | ResNet) -> list[list[Part]]:
  """Returns the parts of a layout for a model, those of all blocks together."""
  if isinstance(model, ResNet):
    return [
      [
        part.format(stage=stage, layer=stage + 1, i=i)
        for stage, blocks in enumerate(STAGES[model.depth])
        for i in range(blocks)
      ]
      if "{i}" in part.tensors[0]
      else [part]
      for part in layout.parts
    ]
  norm = "fc_norm" if model.norm_pooled else "norm"
  mlp = layout.swiglu if model.mlp == "swiglu" else layout.mlp
  return [
    [
      part.format(i=i, norm=norm)
      for i in range(model.depth if "{i}" in part.tensors[0] else 1)
    ]
    for part in (*layout.parts, *mlp)
  ]


def select(
  parts: Iterable[Iterable[Part]], leaves: Iterable[str]
) -> tuple[list[list[Part]], list[str]]:
  """Returns the first parts with these leaves, and the leaves without one.

  `parts` are those of `groups`. Parts without leaves are not returned.
  """
  missing = dict.fromkeys(leaves)

  def applies(part: Part) -> bool:
    if not part.leaves or any(leaf not in missing for leaf in part.leaves):
      return False
    for leaf in part.leaves:
      del missing[leaf]
    return True

  selected = [[part for part in group if applies(part)] for group in parts]
  return [group for group in selected if group], list(missing)
