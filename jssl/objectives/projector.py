"""Bases of methods by their heads, and of losses between two views."""

import abc
import dataclasses
from collections.abc import Mapping
from typing import Any

import jax
from jaxtyping import Array, Float

from jssl.models.heads import Head, Prototypes, init_heads
from jssl.models.tokens import Spec
from jssl.objectives.base import Aux, Features, Objective, check_same_width
from jssl.schedules import Schedule
from jssl.typing import Key, Labels, Metrics, PyTree, Scalar, Step

Embeddings = Float[Array, "b z"]


@dataclasses.dataclass(frozen=True, kw_only=True)
class ProjectorObjective(Objective):
  """Base of methods with a projector.

  State: batch statistics of the projector, over the global batch and all views.

  Attributes:
    projector: head that maps features to embeddings.
  """

  projector: Head

  def init(self, key: Key, spec: Spec) -> tuple[dict, dict]:
    """Returns parameters and batch statistics of the projector."""
    params, state = self.projector.init(key, spec.feature_dim)
    return {"projector": params}, {"projector": state}


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
    (h,) = features.pooled
    (z1, z2), state = self.apply_head("projector", head_params, state, h)
    loss, metrics = self.compare(z1, z2, features.labels)
    return loss, Aux(metrics, state)


@dataclasses.dataclass(frozen=True, kw_only=True)
class PredictorObjective(ProjectorObjective):
  """Base of methods with a predictor of embeddings.

  Attributes:
    predictor: head of the projector's output width; identity without layers.
  """

  predictor: Head

  def init(self, key: Key, spec: Spec) -> tuple[dict, dict]:
    """Returns parameters and batch statistics of both heads."""
    first, second = jax.random.split(key)
    params, state = super().init(first, spec)
    width = self.projector.width(spec.feature_dim)
    check_same_width(projector=width, predictor=self.predictor.width(width))
    params["predictor"], state["predictor"] = self.predictor.init(second, width)
    return params, state

  def predict(
    self, head_params: dict, state: dict, features: Features
  ) -> tuple[Float[Array, "v b z"], Float[Array, "v b z"], dict]:
    """Returns predictions, embeddings and the new state."""
    (h,) = features.pooled
    z, state = self.apply_head("projector", head_params, state, h)
    p, state = self.apply_head("predictor", head_params, state, z)
    return p, z, state


@dataclasses.dataclass(frozen=True, kw_only=True)
class PrototypeObjective(ProjectorObjective):
  """Base of methods that compare embeddings with prototypes.

  Attributes:
    prototypes: prototypes of the projector's output width.
  """

  prototypes: Prototypes

  def init(self, key: Key, spec: Spec) -> tuple[dict, dict]:
    """Returns projector and prototypes; batch statistics of the projector."""
    first, second = jax.random.split(key)
    params, state = super().init(first, spec)
    width = self.projector.width(spec.feature_dim)
    params["prototypes"] = self.prototypes.init(second, width)
    return params, state

  def layers(self) -> dict[str, Prototypes]:
    """Returns the layers of prototypes by name."""
    return {"prototypes": self.prototypes}

  def schedules(self) -> Mapping[str, Schedule]:
    """Freezes prototypes for their `freeze_steps`."""
    return {
      group: schedule
      for name, layer in self.layers().items()
      for group, schedule in layer.schedules(name).items()
    }

  def update(
    self, head_params: dict, state: dict, carry: dict, *, step: Step
  ) -> tuple[PyTree, PyTree]:
    """Normalises prototypes if their `norm` is "step"."""
    after = {
      name: layer.after_step(head_params[name])
      for name, layer in self.layers().items()
    }
    head_params = {**head_params, **after}
    return super().update(head_params, state, carry, step=step)


@dataclasses.dataclass(frozen=True, kw_only=True)
class DistillationObjective(Objective):
  """Base of methods with a student and a teacher head, both learned.

  Attributes:
    student: head of the same family as the probe, linear for linear probes.
    teacher: head of the same features, with the output width of `student`.
  """

  student: Head
  teacher: Head
  heads = ("student", "teacher")

  def init(self, key: Key, spec: Spec) -> tuple[dict, dict]:
    """Returns parameters and batch statistics of both heads."""
    heads = {"student": self.student, "teacher": self.teacher}
    return init_heads(
      key, {name: (head, spec.feature_dim) for name, head in heads.items()}
    )
