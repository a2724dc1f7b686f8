"""The protocol between a method and the train step.

The backbone makes features; the objective turns them into a scalar and owns
everything on the way: projectors, predictors, prototypes, teacher heads,
queues, centres. What it learns is `head_params`, what it only remembers is
`state`. Both are saved for whoever continues the training, and neither is part
of what is probed and exported.
"""

import abc
from collections.abc import Mapping
from typing import Any, NamedTuple, Self

import jax
from jaxtyping import Array, Float

from jssl.schedules import Schedule
from jssl.typing import Key, Labels, Metrics, PyTree, Scalar, Step


class Features(NamedTuple):
  """What the step gives to an objective.

  Attributes:
    student: one [v, b, d] for each resolution of the views, large crops first.
    teacher: the same of the averaged backbone, large crops only; () without.
    labels: for objectives that use them; -1 where an image has none.
  """

  student: tuple[Float[Array, "v b d"], ...]
  teacher: tuple[Float[Array, "v b d"], ...] = ()
  labels: Labels | None = None


class Aux(NamedTuple):
  """What a loss gives besides its value.

  Attributes:
    metrics: scalars for the log.
    carry: what `update` needs: batch statistics, keys for a queue, a centre.
  """

  metrics: Metrics
  carry: PyTree


class Objective(abc.ABC):
  """A method: a frozen dataclass of hyper-parameters, static under jit.

  A subclass is the `objective` section of a config. It has to say how it
  begins (`init`) and what it minimises (`loss`); the rest has a default.

  Attributes:
    num_views: large views that are made of each image.
    multi_crop: whether small crops are welcome besides.
    uses_labels: whether every image needs a label.
    heads: names of the fields, parameters and states of the heads that read h.
  """

  num_views: int = 2
  multi_crop: bool = False
  uses_labels: bool = False
  heads: tuple[str, ...] = ("projector",)

  @abc.abstractmethod
  def init(
    self, key: Key, feature_dim: int
  ) -> tuple[Mapping[str, PyTree], PyTree]:
    """Returns `(head_params, state)` for features of width `feature_dim`."""

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
    """Returns the loss of a global batch, and what comes with it."""

  def update(
    self, head_params: Any, state: Any, carry: Any, *, step: Step
  ) -> tuple[PyTree, PyTree]:
    """Returns head parameters and state after the optimizer's step.

    By default what was carried is the new state.
    """
    del state, step
    return head_params, carry

  def with_total_steps(self, total_steps: int) -> Self:
    """Returns the objective of a run of `total_steps` steps.

    Methods whose schedules end with the run override it.
    """
    del total_steps
    return self

  def teacher_momentum(self, step: Step) -> Scalar | float | None:
    """Returns the momentum of the averaged backbone; None: there is none."""
    del step
    return None

  def groups(self, head_params: Mapping[str, PyTree]) -> PyTree:
    """Returns the optimizer group of each head parameter, a tree of str.

    By default each part is a group by its name: "projector", "prototypes".
    """
    return {
      name: jax.tree.map(lambda _, name=name: name, part)
      for name, part in head_params.items()
    }

  def schedules(self) -> Mapping[str, Schedule]:
    """Returns the learning-rate multiplier by step of groups that have one.

    A multiplier of 0 freezes: no update, no decay, no moments.
    """
    return {}

  def outputs(
    self, head_params: Any, state: Any, h: Float[Array, "n d"]
  ) -> dict[str, Float[Array, "n z"]]:
    """Returns what each head makes of features, for who looks at them.

    Rows do not depend on each other: statistics are the running ones. They are
    as the head leaves them, before a loss normalises or compares anything.
    """
    return {
      name: getattr(self, name).evaluate(head_params[name], state[name], h)
      for name in self.heads
    }

  def constant_rates(self) -> frozenset[str]:
    """Returns the groups whose learning rate stays at its peak."""
    return frozenset()


def check_range(
  key: str, value: float, low: float, high: float = float("inf")
) -> None:
  """Raises ValueError unless `low <= value <= high`; names the config key."""
  if not low <= value <= high:
    raise ValueError(f"objective.{key}={value} must be in [{low}, {high}]")


def check_positive(**values: float) -> None:
  """Raises ValueError for what isn't positive; names the config key."""
  for key, value in values.items():
    if not value > 0:
      raise ValueError(f"objective.{key}={value} must be positive")


def check_same_width(**widths: int) -> None:
  """Raises ValueError unless two heads are as wide; names the config keys."""
  (one, width), (other, other_width) = widths.items()
  if width != other_width:
    raise ValueError(
      f"objective.{one} is {width} wide and objective.{other} {other_width}: "
      "their out_dim must be the same"
    )
