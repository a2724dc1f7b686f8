"""SwAV (Caron et al., NeurIPS 2020): predict the other view's assignment.

State: batch statistics. Stop-gradient: the assignments of the large crops,
balanced over the global batch. In the paper: 3000 prototypes, temperature 0.1,
epsilon 0.05, 3 iterations, projector 2048-128, 2 crops of 224 px and 6 of 96,
prototypes frozen for one epoch, LARS at 0.3 b/256, decay 1e-6, batch 4096, 800
epochs. The paper's queue for small batches is not implemented.
"""

import dataclasses
from collections.abc import Mapping

import jax
import jax.numpy as jnp

from jssl import losses
from jssl.losses.rows import l2_normalize
from jssl.models.heads import Head, Prototypes
from jssl.objectives.base import Aux, Features, check_positive
from jssl.objectives.projector import ProjectorObjective
from jssl.schedules import Schedule
from jssl.typing import Key, PyTree, Scalar, Step


@dataclasses.dataclass(frozen=True, kw_only=True)
class SwAV(ProjectorObjective):
  """SwAV; `objective.name="swav"` in a config.

  Attributes:
    temperature: temperature of the predictions.
    epsilon: entropy regularisation of the assignments.
    iterations: number of Sinkhorn-Knopp iterations.
    projector: head that maps features to z; z is then normalised.
    prototypes: prototypes that views are assigned to.
    num_views: number of large crops.
  """

  temperature: float = 0.1
  epsilon: float = 0.05
  iterations: int = 3
  projector: Head = Head((2048,), 128)
  prototypes: Prototypes = Prototypes(3000, "step")
  num_views: int = 2
  multi_crop = True

  def __post_init__(self) -> None:
    check_positive(
      temperature=self.temperature,
      epsilon=self.epsilon,
      iterations=self.iterations,
      num_views=self.num_views,
    )

  def init(self, key: Key, feature_dim: int) -> tuple[dict, dict]:
    """Returns projector and prototypes; batch statistics of the projector."""
    first, second = jax.random.split(key)
    params, state = super().init(first, feature_dim)
    width = self.projector.width(feature_dim)
    params["prototypes"] = self.prototypes.init(second, width)
    return params, state

  def schedules(self) -> Mapping[str, Schedule]:
    """Freezes the prototypes for `prototypes.freeze_steps` steps."""
    return self.prototypes.schedules("prototypes")

  def loss(
    self,
    head_params: dict,
    state: dict,
    features: Features,
    *,
    key: Key,
    step: Step,
  ) -> tuple[Scalar, Aux]:
    """Swapped prediction: all views predict assignments of large crops."""
    del key, step
    z, state = self.project(
      head_params, state, jnp.concatenate(features.student)
    )
    loss = losses.swav(
      l2_normalize(z),
      self.prototypes.rows(head_params["prototypes"]),
      temperature=self.temperature,
      epsilon=self.epsilon,
      iterations=self.iterations,
      num_large=self.num_views,
    )
    return loss, Aux({}, state)

  def update(
    self, head_params: dict, state: dict, carry: dict, *, step: Step
  ) -> tuple[PyTree, PyTree]:
    """Normalises the prototypes if `prototypes.norm` is "step"."""
    del state, step
    prototypes = self.prototypes.after_step(head_params["prototypes"])
    return {**head_params, "prototypes": prototypes}, carry
