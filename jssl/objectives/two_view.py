"""Base of methods with a projector and a loss between two views."""

import abc
import dataclasses
from typing import Any

from jaxtyping import Array, Float

from jssl.objectives.base import Aux, Features
from jssl.objectives.projector import ProjectorObjective
from jssl.typing import Labels, Metrics, Scalar

Embeddings = Float[Array, "b z"]


@dataclasses.dataclass(frozen=True, kw_only=True)
class TwoViewObjective(ProjectorObjective):
  """Base of methods that compare the embeddings of two views."""

  @abc.abstractmethod
  def compare(
    self, z1: Embeddings, z2: Embeddings, labels: Labels | None
  ) -> tuple[Scalar, Metrics]:
    """Returns `(loss, metrics)`; metrics are scalars to log."""

  def loss(
    self, head_params: dict, state: dict, features: Features, **unused: Any
  ) -> tuple[Scalar, Aux]:
    """Applies the projector and compares two views."""
    (h,) = features.student
    (z1, z2), state = self.project(head_params, state, h)
    loss, metrics = self.compare(z1, z2, features.labels)
    return loss, Aux(metrics, state)
