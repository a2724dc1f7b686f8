"""What most methods are: a projector, and a loss of two views of z."""

import abc
import dataclasses

from jaxtyping import Array, Float

from jssl.models.heads import Head
from jssl.objectives.base import Aux, Features, Objective
from jssl.typing import Key, Labels, Metrics, PyTree, Scalar, Step


@dataclasses.dataclass(frozen=True, kw_only=True)
class TwoViewObjective(Objective):
  """A method that compares the projections of two views.

  State: the projector's batch statistics, over the global batch and all views.

  Attributes:
    projector: from h to z.
  """

  projector: Head

  @abc.abstractmethod
  def compare(
    self,
    z1: Float[Array, "b z"],
    z2: Float[Array, "b z"],
    labels: Labels | None,
  ) -> tuple[Scalar, Metrics]:
    """Returns the loss, and scalars for the log."""

  def init(self, key: Key, feature_dim: int) -> tuple[dict, PyTree]:
    """Returns the projector's parameters, and its batch statistics."""
    params, state = self.projector.init(key, feature_dim)
    return {"projector": params}, {"projector": state}

  def loss(
    self,
    head_params: dict,
    state: dict,
    features: Features,
    *,
    key: Key,
    step: Step,
  ) -> tuple[Scalar, Aux]:
    """Compares the two views."""
    del key, step
    (h,) = features.student
    (z1, z2), moved = self.projector.apply(
      head_params["projector"], state["projector"], h
    )
    loss, metrics = self.compare(z1, z2, features.labels)
    return loss, Aux(metrics, {"projector": moved})
