"""DINO (Caron et al., ICCV 2021): match an averaged encoder's softmax.

State: the averaged head with its prototypes, the centre of its logits.
Stop-gradient: the teacher's side. In the paper: head 2048-2048-256 with GELU
and without norms, 65,536 prototypes as unit vectors, temperatures 0.1 and 0.04
to 0.07 over 30 epochs, momentum 0.996 to 1 along a cosine, centre momentum 0.9,
prototypes frozen for the first epoch, 2 crops of 224 px and 10 of 96, AdamW at
5e-4 b/256, decay 0.04 to 0.4, batch 1024, clipping at 3.
"""

import dataclasses
from collections.abc import Mapping

import jax
import jax.numpy as jnp

from jssl import losses, schedules, tree
from jssl.models.heads import Head, unit
from jssl.objectives.averaged import Averaged
from jssl.objectives.base import Aux, Features, check_positive, check_range
from jssl.schedules import Schedule
from jssl.typing import Key, Scalar, Step


@dataclasses.dataclass(frozen=True, kw_only=True)
class DINO(Averaged):
  """The `objective` section of a config, for `objective.name="dino"`.

  Attributes:
    num_prototypes: k.
    student_temperature: of the student's softmax.
    teacher_temperature_start: of the teacher's, at step 0,
    teacher_temperature: and after
    temperature_warmup_steps: so many steps of linear growth.
    center_momentum: of the centre's average.
    freeze_steps: steps in which the prototypes don't learn.
    projector: from h to what is normalised and meets the prototypes.
    num_views: large crops; the teacher sees only those.
  """

  num_prototypes: int = 65_536
  student_temperature: float = 0.1
  teacher_temperature_start: float = 0.04
  teacher_temperature: float = 0.07
  temperature_warmup_steps: int = 0
  center_momentum: float = 0.9
  freeze_steps: int = 0
  projector: Head = Head((2048, 2048), 256, norm=False, activation="gelu")
  momentum_start: float = 0.996
  num_views: int = 2
  multi_crop = True

  def __post_init__(self) -> None:
    super().__post_init__()
    check_positive(
      num_prototypes=self.num_prototypes,
      student_temperature=self.student_temperature,
      teacher_temperature_start=self.teacher_temperature_start,
      teacher_temperature=self.teacher_temperature,
      num_views=self.num_views,
    )
    check_range("center_momentum", self.center_momentum, 0, 1)
    for key in ("temperature_warmup_steps", "freeze_steps"):
      check_range(key, getattr(self, key), 0)

  def init(self, key: Key, feature_dim: int) -> tuple[dict, dict]:
    """Returns head and prototypes, and state with averages of both."""
    first, second = jax.random.split(key)
    params, state = super().init(first, feature_dim)
    shape = (self.num_prototypes, self.projector.width(feature_dim))
    params["prototypes"] = unit(jax.random.normal(second, shape))
    state["teacher"]["prototypes"] = jnp.copy(params["prototypes"])
    state["center"] = jnp.zeros(self.num_prototypes)
    return params, state

  def schedules(self) -> Mapping[str, Schedule]:
    """Prototypes are frozen at first."""
    if not self.freeze_steps:
      return {}
    return {"prototypes": schedules.frozen_until(self.freeze_steps)}

  def loss(
    self,
    head_params: dict,
    state: dict,
    features: Features,
    *,
    key: Key,
    step: Step,
  ) -> tuple[Scalar, Aux]:
    """Cross-entropies of the student's views with the teacher's others."""
    del key
    z, state = self.project(
      head_params, state, jnp.concatenate(features.student)
    )
    target, state = self.targets(state, features)
    target, theirs = unit(target), unit(state["teacher"]["prototypes"])
    loss = losses.dino(
      unit(z),
      target,
      unit(head_params["prototypes"]),
      theirs,
      state["center"],
      student_temperature=self.student_temperature,
      teacher_temperature=schedules.warmup_constant(
        self.teacher_temperature_start,
        self.teacher_temperature,
        warmup_steps=self.temperature_warmup_steps,
      )(step),
    )
    center = tree.ema(
      state["center"], losses.dino_center(target, theirs), self.center_momentum
    )
    return loss, Aux({}, {**state, "center": center})
