"""The protocol between a method and the train step.

The backbone makes features; the objective turns them into a scalar and owns
everything on the way: projectors, predictors, prototypes, teacher heads,
queues, centres. What it learns is `head_params`, what it only remembers is
`state`. Both are saved for whoever continues the training, and neither is part
of what is probed and exported.
"""

from collections.abc import Mapping
from typing import NamedTuple, Protocol

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


class Objective(Protocol):
  """A method: a frozen dataclass of hyper-parameters, static under jit."""

  @property
  def num_views(self) -> int:
    """Views that are made of each image."""

  def init(self, key: Key, feature_dim: int) -> tuple[PyTree, PyTree]:
    """Returns `(head_params, state)` for features of width `feature_dim`."""

  def teacher_momentum(self, step: Step) -> Scalar | float | None:
    """Returns the momentum of the averaged backbone; None: there is none."""

  def groups(self, head_params: PyTree) -> PyTree:
    """Returns the optimizer group of each head parameter, a tree of str."""

  def schedules(self) -> Mapping[str, Schedule]:
    """Returns the learning-rate multiplier by step of groups that have one.

    A multiplier of 0 freezes: no update, no decay, no moments.
    """

  def loss(
    self,
    head_params: PyTree,
    state: PyTree,
    features: Features,
    *,
    key: Key,
    step: Step,
  ) -> tuple[Scalar, Aux]:
    """Returns the loss of a global batch, and what comes with it."""

  def update(
    self, head_params: PyTree, state: PyTree, carry: PyTree, *, step: Step
  ) -> tuple[PyTree, PyTree]:
    """Returns head parameters and state after the optimizer's step."""
