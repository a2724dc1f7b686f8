"""SwAV (Caron et al., NeurIPS 2020): predict the other view's assignment.

State: batch statistics. Stop-gradient: the assignments, which are those of
large crops, balanced over the global batch. In the paper: 3000 prototypes,
temperature 0.1, epsilon 0.05, 3 iterations, projector 2048-128, 2 crops of 224
px and 6 of 96, prototypes frozen for the first epoch, LARS at 0.3 b/256, decay
1e-6, batch 4096, 800 epochs. Its queue for small batches is not here.
"""

import dataclasses
from collections.abc import Mapping

import jax
import jax.numpy as jnp

from jssl import losses
from jssl.models.heads import Head, Prototypes, unit
from jssl.objectives.base import Aux, Features, Objective, check_positive
from jssl.schedules import Schedule
from jssl.typing import Key, PyTree, Scalar, Step


@dataclasses.dataclass(frozen=True, kw_only=True)
class SwAV(Objective):
  """The `objective` section of a config, for `objective.name="swav"`.

  Attributes:
    temperature: of the predictions.
    epsilon: of the assignments' entropy.
    iterations: of Sinkhorn and Knopp.
    projector: from h to z, which is then normalised.
    prototypes: what views are assigned to.
    num_views: large crops.
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
    """Returns projector and prototypes (unit rows), and batch statistics."""
    first, second = jax.random.split(key)
    params, state = self.projector.init(first, feature_dim)
    width = self.projector.width(feature_dim)
    prototypes = self.prototypes.init(second, width)
    return {"projector": params, "prototypes": prototypes}, {"projector": state}

  def schedules(self) -> Mapping[str, Schedule]:
    """Prototypes are frozen at first."""
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
    """Swapped prediction of all views from the large ones."""
    del key, step
    h = jnp.concatenate(features.student)
    z, moved = self.projector.apply(
      head_params["projector"], state["projector"], h
    )
    loss = losses.swav(
      unit(z),
      self.prototypes.rows(head_params["prototypes"]),
      temperature=self.temperature,
      epsilon=self.epsilon,
      iterations=self.iterations,
      num_large=self.num_views,
    )
    return loss, Aux({}, {"projector": moved})

  def update(
    self, head_params: dict, state: dict, carry: dict, *, step: Step
  ) -> tuple[PyTree, PyTree]:
    """Brings the prototypes back to length 1."""
    del state, step
    prototypes = self.prototypes.after_step(head_params["prototypes"])
    return {**head_params, "prototypes": prototypes}, carry
