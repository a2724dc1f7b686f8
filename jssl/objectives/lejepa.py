"""LeJEPA (Balestriero & LeCun, 2025): views agree, features are Gaussian.

State: batch statistics of the projector. Nothing is stop-gradient. In the
paper: SIGReg weight 0.05, 1024 slices (redrawn every step), 2 large and 6 small
crops, a projector with hidden layers of 2048, AdamW at 5e-4, decay 0.05.

Paper: arXiv:2511.08544
"""

import dataclasses

import jax.numpy as jnp

from jssl import losses
from jssl.models.heads import Head
from jssl.objectives.base import Aux, Features
from jssl.objectives.projector import ProjectorObjective
from jssl.rng import stream
from jssl.typing import Fraction, Key, Positive, Scalar, Step


@dataclasses.dataclass(frozen=True, kw_only=True)
class LeJEPA(ProjectorObjective):
  """LeJEPA; `objective.name="lejepa"` in a config.

  Attributes:
    sigreg_weight: weight of SIGReg; the invariance has 1 - `sigreg_weight`.
    num_slices: number of random directions of SIGReg.
    num_views: number of large crops; their mean is the target of all views.
  """

  sigreg_weight: Fraction = 0.05
  num_slices: Positive[int] = 1024
  projector: Head = Head((2048, 2048), 64)
  num_views: Positive[int] = 2
  multi_crop = True

  def loss(
    self,
    head_params: dict,
    state: dict,
    features: Features,
    *,
    key: Key,
    step: Step,
  ) -> tuple[Scalar, Aux]:
    """SIGReg and squared distance to the mean large view, over all views."""
    views = jnp.concatenate(features.pooled)
    z, state = self.apply_head("projector", head_params, state, views)
    mean = jnp.mean(z[: self.num_views], axis=0, keepdims=True)
    invariance = jnp.mean((z - mean) ** 2)
    slices = stream(key, "slices")
    of_views = [
      losses.sigreg(view, key=slices, num_slices=self.num_slices) for view in z
    ]
    gaussian = jnp.mean(jnp.stack(of_views))
    weight = self.sigreg_weight
    loss = weight * gaussian + (1 - weight) * invariance
    return loss, Aux({"invariance": invariance, "sigreg": gaussian}, state)
