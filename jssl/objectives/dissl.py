"""DISSL (Dubois et al., NeurIPS 2022): distilling invariant SSL.

State: batch statistics of both heads. Nothing is stop-gradient, averaged,
centred or balanced: the entropy of the mean assignment prevents collapse. In
the paper: 16,384 prototypes, a linear student of width 512, an MLP teacher,
temperatures 1 and 0.5, weights 2.3 and 0.8 (0.6 on ImageNet). TinyImageNet:
Adam at 2e-3, decay 1e-6, batch 256. The paper's prototype layers have a bias;
`Prototypes` has none.

Paper: arXiv:2209.06235. Study: docs/studies/idealised.md
"""

import dataclasses
import warnings
from collections.abc import Mapping
from typing import Annotated, Any

import jax
import jax.numpy as jnp

from jssl import losses
from jssl.models.heads import Head, Prototypes
from jssl.models.tokens import Spec
from jssl.objectives.base import Aux, Features
from jssl.objectives.projector import DistillationObjective
from jssl.schedules import Schedule
from jssl.typing import (
  Interval,
  Key,
  NonNegative,
  Positive,
  PyTree,
  Scalar,
  Step,
)

_PROTOTYPES = ("student_prototypes", "teacher_prototypes")


@dataclasses.dataclass(frozen=True, kw_only=True)
class DISSL(DistillationObjective):
  """DISSL; `objective.name="dissl"` in a config.

  Attributes:
    student_temperature: temperature of the student softmax.
    teacher_temperature: temperature of the teacher softmax.
    marginal_weight: weight of the entropy of the mean teacher assignment;
      should be at least 1 + `invariance_weight`.
    invariance_weight: weight of the cross-entropy between teacher views.
    prototypes: prototypes of each head, one per assumed equivalence class.
    num_views: number of large crops; the teacher sees only large crops.
  """

  student_temperature: Positive[float] = 1.0
  teacher_temperature: Positive[float] = 0.5
  marginal_weight: NonNegative[float] = 2.3
  invariance_weight: NonNegative[float] = 0.8
  student: Head = Head((), 512, last_norm="affine")
  teacher: Head = Head((1024,), 512, last_norm="affine")
  prototypes: Prototypes = Prototypes(16_384)
  num_views: Annotated[int, Interval(2)] = 2
  multi_crop = True

  def __post_init__(self) -> None:
    super().__post_init__()
    if self.marginal_weight < 1 + self.invariance_weight:
      warnings.warn(
        f"objective.marginal_weight={self.marginal_weight} is less than 1 + "
        f"objective.invariance_weight={self.invariance_weight}: collapse of "
        "the teacher lowers the loss",
        stacklevel=2,
      )

  def init(self, key: Key, spec: Spec) -> tuple[dict, dict]:
    """Returns both heads with prototypes; their batch statistics."""
    first, *keys = jax.random.split(key, 3)
    params, state = super().init(first, spec)
    heads = (self.student, self.teacher)
    for name, k, head in zip(_PROTOTYPES, keys, heads, strict=True):
      params[name] = self.prototypes.init(k, head.width(spec.feature_dim))
    return params, state

  def schedules(self) -> Mapping[str, Schedule]:
    """Freezes the prototypes for `prototypes.freeze_steps` steps."""
    student, teacher = map(self.prototypes.schedules, _PROTOTYPES)
    return student | teacher

  def loss(
    self, head_params: dict, state: dict, features: Features, **unused: Any
  ) -> tuple[Scalar, Aux]:
    """Distillation and invariance minus the entropy of the mean assignment."""
    views, large = jnp.concatenate(features.pooled), features.pooled[0]
    s, state = self.apply_head("student", head_params, state, views)
    t, state = self.apply_head("teacher", head_params, state, large)
    terms = losses.dissl_terms(
      s,
      t,
      *(self.prototypes.rows(head_params[name]) for name in _PROTOTYPES),
      student_temperature=self.student_temperature,
      teacher_temperature=self.teacher_temperature,
    )
    loss = (
      terms.distillation
      - self.marginal_weight * terms.marginal_entropy
      + self.invariance_weight * terms.invariance
    )
    return loss, Aux(terms._asdict(), state)

  def update(
    self, head_params: dict, state: dict, carry: dict, *, step: Step
  ) -> tuple[PyTree, PyTree]:
    """Normalises the prototypes if `prototypes.norm` is "step"."""
    prototypes = {
      name: self.prototypes.after_step(head_params[name])
      for name in _PROTOTYPES
    }
    return {**head_params, **prototypes}, carry
