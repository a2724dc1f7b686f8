"""Bases of methods with a projector, and with a predictor after it."""

import dataclasses

import jax
from jaxtyping import Array, Float

from jssl.models.heads import Head
from jssl.objectives.base import Features, Objective, check_same_width
from jssl.typing import Key


@dataclasses.dataclass(frozen=True, kw_only=True)
class ProjectorObjective(Objective):
  """Base of methods with a projector.

  State: batch statistics of the projector, over the global batch and all views.

  Attributes:
    projector: head that maps features to embeddings.
  """

  projector: Head

  def init(self, key: Key, feature_dim: int) -> tuple[dict, dict]:
    """Returns parameters and batch statistics of the projector."""
    params, state = self.projector.init(key, feature_dim)
    return {"projector": params}, {"projector": state}

  def project(
    self, head_params: dict, state: dict, h: Float[Array, "v b d"]
  ) -> tuple[Float[Array, "v b z"], dict]:
    """Returns the embeddings of features and the new state."""
    z, new = self.projector.apply(
      head_params["projector"], state["projector"], h
    )
    return z, {**state, "projector": new}


@dataclasses.dataclass(frozen=True, kw_only=True)
class PredictorObjective(ProjectorObjective):
  """Base of methods with a predictor of embeddings.

  Attributes:
    predictor: head of the projector's output width; identity without layers.
  """

  predictor: Head

  def init(self, key: Key, feature_dim: int) -> tuple[dict, dict]:
    """Returns parameters and batch statistics of both heads."""
    first, second = jax.random.split(key)
    params, state = super().init(first, feature_dim)
    width = self.projector.width(feature_dim)
    check_same_width(projector=width, predictor=self.predictor.width(width))
    params["predictor"], state["predictor"] = self.predictor.init(second, width)
    return params, state

  def predict(
    self, head_params: dict, state: dict, features: Features
  ) -> tuple[Float[Array, "v b z"], Float[Array, "v b z"], dict]:
    """Returns predictions, embeddings and the new state."""
    (h,) = features.student
    z, state = self.project(head_params, state, h)
    p, new = self.predictor.apply(
      head_params["predictor"], state["predictor"], z
    )
    return p, z, {**state, "predictor": new}
