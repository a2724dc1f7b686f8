"""The protocol between a method and the train step.

The backbone maps images to features. The objective maps features to a scalar
loss and owns all other parts: projectors, predictors, prototypes, teacher
heads, queues, centres. The optimizer learns `head_params`; the objective
updates `state` itself. Checkpoints hold both, exported backbones neither.
"""

import abc
from collections.abc import Mapping
from typing import Any, ClassVar, NamedTuple, Self

import jax
from jaxtyping import Array, Bool, Float

from jssl.models.tokens import Encoded, Grid, Mask, Spec
from jssl.schedules import Schedule
from jssl.typing import (
  Key,
  Keys,
  Labels,
  Metrics,
  Positive,
  PyTree,
  Scalar,
  Step,
  Views,
  check_fields,
)


class LargeView(NamedTuple):
  """One large crop of each image, for losses of patches.

  Attributes:
    pooled: pooled features of the student.
    tokens: its patch tokens.
    teacher: patch tokens of the teacher; None without one.
    anchor: patch tokens of its frozen copy; None without one.
    mask: patches that the student does not see; None without a mask.
    pixels: standardised pixels; None unless asked for.
    grid: grid of the patches.
  """

  pooled: Float[Array, "b d"]
  tokens: Float[Array, "b n w"]
  teacher: Any
  anchor: Any
  mask: Any
  pixels: Any
  grid: Grid


class Features(NamedTuple):
  """Inputs of an objective: backbone features of a global batch.

  Only large crops have tokens, a mask and pixels.

  Attributes:
    student: features [v, b, ...] per view resolution, large crops first.
    teacher: features of the large crops, unmasked, by the averaged backbone,
      then by its frozen copy if there is one (see `Objective.anchored`); () if
      the method has no teacher.
    mask: patches of the large crops that the student does not see, [v, b, ...];
      None if `hide` hides none.
    pixels: large crops, standardised; None unless asked for.
    grid: patch tokens of a large crop; None if the backbone has none.
    labels: labels [b], -1 for images without a label; None if not available.
    partner_labels: labels [b] of the images mixed in; None without mixing.
    own_weight: weight of an image's own label, beside its partner's, by view;
      None without mixing.
  """

  student: tuple[Encoded, ...]
  teacher: tuple[Encoded, ...] = ()
  mask: Mask | None = None
  pixels: Views | None = None
  grid: Grid | None = None
  labels: Labels | None = None
  partner_labels: Labels | None = None
  own_weight: Float[Array, "v b"] | None = None

  def with_labels(self, labels: Labels | None) -> Self:
    """Returns a copy with the labels of the batch; partners are reversed."""
    partners = None
    if labels is not None and self.own_weight is not None:
      partners = labels[::-1]
    return self._replace(labels=labels, partner_labels=partners)

  def large_views(self) -> list[LargeView]:
    """Returns the large crops one by one, if they have tokens."""
    pooled, tokens, _ = self.student[0]
    if tokens is None or self.grid is None:
      raise ValueError("the features have no patch tokens")
    teacher, anchor, *_ = (*(h.tokens for h in self.teacher), None, None)
    views = LargeView(
      pooled, tokens, teacher, anchor, self.mask, self.pixels, self.grid
    )
    return [
      jax.tree.map(lambda x, i=i: x[i], views) for i in range(len(pooled))
    ]

  @property
  def pooled(self) -> tuple[Float[Array, "v b d"], ...]:
    """Pooled features of the student, one array per resolution."""
    return tuple(encoded.pooled for encoded in self.student)

  @property
  def teacher_pooled(self) -> tuple[Float[Array, "v b d"], ...]:
    """Pooled features of the teacher; () without one."""
    return tuple(encoded.pooled for encoded in self.teacher)


class Aux(NamedTuple):
  """Auxiliary outputs of a loss.

  Attributes:
    metrics: scalars to log.
    carry: input of `update`: batch statistics, queue, centre.
  """

  metrics: Metrics
  carry: PyTree


class Objective(abc.ABC):
  """A pretraining method: a frozen dataclass of hyper-parameters.

  A subclass defines the `objective` section of a config. It must implement
  `init` and `loss`; every other method has a default. Bounds of its fields are
  part of their annotations, such as `jssl.typing.Positive`.

  Attributes:
    num_views: number of large views per image.
    multi_crop: True if the method also accepts small crops.
    uses_labels: True if the loss needs the labels of the images.
    mixes_labels: True if the loss accepts images mixed by mixup or cutmix.
    uses_tokens: True if the loss needs patch tokens of the large views.
    uses_pixels: True if the loss needs the pixels of the large views.
    uses_mask_token: True if `hide` returns `Replace`.
    heads: names of the heads applied to backbone features, the keys of
      `outputs`; by default each name is a field, a key of `head_params` and a
      key of `state`.
  """

  num_views: Positive[int] = 2
  multi_crop: bool = False
  uses_labels: bool = False
  mixes_labels: ClassVar[bool] = False
  uses_tokens: ClassVar[bool] = False
  uses_pixels: ClassVar[bool] = False
  uses_mask_token: ClassVar[bool] = False
  heads: tuple[str, ...] = ("projector",)

  def __post_init__(self) -> None:
    check_fields(self, "objective")

  @abc.abstractmethod
  def init(self, key: Key, spec: Spec) -> tuple[Mapping[str, PyTree], PyTree]:
    """Returns `(head_params, state)` for features of these shapes."""

  @abc.abstractmethod
  def loss(
    self,
    head_params: Any,
    state: Any,
    features: Features,
    *,
    key: Key,
    step: Step,
  ) -> tuple[Scalar, Aux]:
    """Returns `(loss, aux)` of a global batch."""

  def hide(self, keys: Keys, grid: Grid) -> Mask | None:
    """Draws the patches that the student does not see.

    Args:
      keys: one key per image, [n]; the draw for an image may depend only on its
        key, so that it does not change with chunks or meshes.
      grid: grid of a large view.
    """
    return None

  def apply_head(
    self,
    name: str,
    head_params: Mapping[str, PyTree],
    state: Mapping[str, PyTree],
    h: Float[Array, "*n d"],
  ) -> tuple[Float[Array, "*n z"], dict[str, PyTree]]:
    """Returns the output of a head in training mode, and the new state."""
    z, new = getattr(self, name).apply(head_params[name], state[name], h)
    return z, {**state, name: new}

  def update(
    self, head_params: Any, state: Any, carry: Any, *, step: Step
  ) -> tuple[PyTree, PyTree]:
    """Returns `(head_params, state)` after the optimizer's update.

    By default `carry` becomes the new state.
    """
    return head_params, carry

  def with_total_steps(self, total_steps: int) -> Self:
    """Returns the objective with schedules for `total_steps` steps."""
    return self

  def teacher_momentum(self, step: Step) -> Scalar | float | None:
    """Returns the momentum of the averaged backbone; None without a teacher."""
    return None

  def anchored(self, step: Step) -> Bool[Array, ""] | bool | None:
    """True if the teacher after this step becomes the frozen one.

    None if the method has no frozen copy of its teacher.
    """
    return None

  def groups(self, head_params: Mapping[str, PyTree]) -> PyTree:
    """Returns the optimizer group of each head parameter: its top-level key."""
    return {
      name: jax.tree.map(lambda _, name=name: name, part)
      for name, part in head_params.items()
    }

  def schedules(self) -> Mapping[str, Schedule]:
    """Returns learning-rate multipliers by group; a factor of 0 freezes it."""
    return {}

  def outputs(
    self, head_params: Any, state: Any, h: Float[Array, "*n d"]
  ) -> dict[str, Float[Array, "*n z"]]:
    """Returns the output of each head by running statistics, not normalised."""
    return {
      name: getattr(self, name).evaluate(head_params[name], state[name], h)
      for name in self.heads
    }

  def constant_rates(self) -> frozenset[str]:
    """Returns groups whose learning rate stays at its peak after warm-up."""
    return frozenset()


def grid_of(spec: Spec, objective: Objective) -> Grid:
  """Returns the grid; raises ValueError if the backbone has no tokens."""
  if spec.grid is None:
    raise ValueError(
      f"{type(objective).__name__} (objective.name) needs patch tokens, and "
      'the backbone (model.name) has none; use model.name="vit"'
    )
  return spec.grid


def check_same_width(**widths: int) -> None:
  """Raises ValueError unless two heads have equal output widths."""
  (one, width), (other, other_width) = widths.items()
  if width != other_width:
    raise ValueError(
      f"objective.{one}.out_dim gives width {width} and objective.{other}."
      f"out_dim width {other_width}: expected the same for both"
    )
