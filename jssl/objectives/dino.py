"""DINO (Caron et al., ICCV 2021): cross-entropy to an averaged teacher.

State: the averaged head and prototypes, the centre of the teacher's logits.
Stop-gradient: the teacher. In the paper: head 2048-2048-256 with GELU and
without norms, 65,536 unit-norm prototypes, student temperature 0.1, teacher
temperature 0.04 to 0.07 over 30 epochs, cosine momentum 0.996 to 1, centre
momentum 0.9, prototypes frozen for one epoch, 2 crops of 224 px and 10 of 96,
AdamW at 5e-4 b/256, decay 0.04 to 0.4, batch 1024, gradient clipping at 3.

Paper: arXiv:2104.14294
"""

import dataclasses

import jax.numpy as jnp
from jaxtyping import Array, Bool, Float

from jssl import losses, schedules, tree
from jssl.losses.rows import l2_normalize
from jssl.models.heads import Head, Prototypes
from jssl.models.tokens import Spec
from jssl.objectives.base import Aux, Features
from jssl.objectives.momentum import MomentumObjective
from jssl.objectives.projector import PrototypeObjective
from jssl.typing import Fraction, Key, NonNegative, Positive, Scalar, Step

Center = Float[Array, "k"]


@dataclasses.dataclass(frozen=True, kw_only=True)
class DINO(PrototypeObjective, MomentumObjective):
  """DINO; `objective.name="dino"` in a config.

  Attributes:
    student_temperature: temperature of the student softmax.
    teacher_temperature_start: temperature of the teacher softmax at step 0.
    teacher_temperature: temperature of the teacher softmax after warm-up.
    temperature_warmup_steps: number of steps of linear temperature warm-up.
    center_momentum: momentum of the moving average of the centre.
    prototypes: prototypes of the student and, averaged, of the teacher.
    num_views: number of large crops; the teacher sees only large crops.
  """

  student_temperature: Positive[float] = 0.1
  teacher_temperature_start: Positive[float] = 0.04
  teacher_temperature: Positive[float] = 0.07
  temperature_warmup_steps: NonNegative[int] = 0
  center_momentum: Fraction = 0.9
  projector: Head = Head((2048, 2048), 256, norm=False, activation="gelu")
  prototypes: Prototypes = Prototypes(65_536, "weight")
  momentum_start: Fraction = 0.996
  num_views: Positive[int] = 2
  multi_crop = True

  def init(self, key: Key, spec: Spec) -> tuple[dict, dict]:
    """Returns head and prototypes; state with averages of both."""
    params, state = super().init(key, spec)
    state["teacher"]["prototypes"] = jnp.copy(params["prototypes"])
    state["center"] = jnp.zeros(self.prototypes.number)
    return params, state

  def loss(
    self,
    head_params: dict,
    state: dict,
    features: Features,
    *,
    key: Key,
    step: Step,
  ) -> tuple[Scalar, Aux]:
    """Cross-entropy of student and teacher over all pairs of unequal views."""
    views = jnp.concatenate(features.pooled)
    z, state = self.apply_head("projector", head_params, state, views)
    target, state = self.targets(state, features)
    target = l2_normalize(target)
    teacher_prototypes = self.prototypes.rows(state["teacher"]["prototypes"])
    temperature = self.teacher_temperature_at(step)
    center, new_center = self.centers(
      state["center"], target, teacher_prototypes, temperature
    )
    loss = losses.dino(
      l2_normalize(z),
      target,
      self.prototypes.rows(head_params["prototypes"]),
      teacher_prototypes,
      center,
      student_temperature=self.student_temperature,
      teacher_temperature=temperature,
    )
    return loss, Aux({}, {**state, "center": new_center})

  def teacher_temperature_at(self, step: Step) -> Scalar | float:
    """Returns the temperature of the teacher softmax."""
    return schedules.warmup_constant(
      self.teacher_temperature_start,
      self.teacher_temperature,
      warmup_steps=self.temperature_warmup_steps,
    )(step)

  def centers(
    self,
    center: Center,
    target: Float[Array, "u b z"],
    prototypes: Float[Array, "k z"],
    temperature: Scalar | float,
    weights: Bool[Array, "u b"] | None = None,
  ) -> tuple[Center, Center]:
    """Returns the centre of this step and that of the next."""
    mean = losses.dino_center(target, prototypes, weights=weights)
    new = tree.ema(center, mean, self.center_momentum)
    if weights is not None:
      new = jnp.where(weights.any(), new, center)
    return center, new
