"""LeJEPA (Balestriero & LeCun, 2025): views agree, features are Gaussian.

State: the projector's batch statistics. Nothing is stop-gradient. In the paper:
weight 0.05 of SIGReg, 1024 slices (drawn anew each step), 2 large and 6 small
crops, a projector of hidden layers of 2048, AdamW at 5e-4, decay 0.05.
"""

import dataclasses

import jax.numpy as jnp

from jssl import losses
from jssl.models.heads import Head
from jssl.objectives.base import (
  Aux,
  Features,
  Objective,
  check_positive,
  check_range,
)
from jssl.rng import stream
from jssl.typing import Key, Scalar, Step


@dataclasses.dataclass(frozen=True, kw_only=True)
class LeJEPA(Objective):
  """The `objective` section of a config, for `objective.name="lejepa"`.

  Attributes:
    sigreg_weight: of SIGReg; the agreement of views has the rest of 1.
    num_slices: random directions of SIGReg.
    projector: from h to z.
    num_views: large crops; their mean is what all views should agree with.
  """

  sigreg_weight: float = 0.05
  num_slices: int = 1024
  projector: Head = Head((2048, 2048), 64)
  num_views: int = 2
  multi_crop = True

  def __post_init__(self) -> None:
    check_range("sigreg_weight", self.sigreg_weight, 0, 1)
    check_positive(num_slices=self.num_slices, num_views=self.num_views)

  def init(self, key: Key, feature_dim: int) -> tuple[dict, dict]:
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
    """The mean over views of SIGReg and of the distance to their mean."""
    del step
    h = jnp.concatenate(features.student)
    z, moved = self.projector.apply(
      head_params["projector"], state["projector"], h
    )
    mean = jnp.mean(z[: self.num_views], axis=0, keepdims=True)
    invariance = jnp.mean((z - mean) ** 2)
    slices = stream(key, "slices")
    of_views = [
      losses.sigreg(view, key=slices, num_slices=self.num_slices) for view in z
    ]
    gaussian = jnp.mean(jnp.stack(of_views))
    weight = self.sigreg_weight
    loss = weight * gaussian + (1 - weight) * invariance
    metrics = {"invariance": invariance, "sigreg": gaussian}
    return loss, Aux(metrics, {"projector": moved})
