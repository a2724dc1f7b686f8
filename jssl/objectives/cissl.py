"""CISSL (Dubois et al., NeurIPS 2022): contrastive idealised representations.

State: batch statistics of both heads. Nothing is stop-gradient: the teacher is
a head, trained as the student is. In the paper: the head of the probe's family
for the student, that is a linear one for linear probes, an MLP of hidden width
1024 for the teacher, 128 out, a norm after each last layer; temperature 0.07
(0.1 on ImageNet); TinyImageNet: Adam at 2e-3, decay 1e-6, batch 512, 10 epochs
of warm-up. More dimensions (`model.expand_dim`) and coarser augmentations are
the rest of its recipe.
"""

import dataclasses

from jssl import losses
from jssl.models.heads import Head, init_heads
from jssl.objectives.base import (
  Aux,
  Features,
  Objective,
  check_positive,
  check_same_width,
)
from jssl.typing import Key, Scalar, Step


@dataclasses.dataclass(frozen=True, kw_only=True)
class CISSL(Objective):
  """The `objective` section of a config, for `objective.name="cissl"`.

  Attributes:
    temperature: of the softmax over the teacher's 2b rows.
    student: head of the family of the probe that will be used.
    teacher: the other head, as wide.
  """

  temperature: float = 0.07
  student: Head = Head((), 128, last_norm="affine")
  teacher: Head = Head((1024,), 128, last_norm="affine")
  heads = ("student", "teacher")

  def __post_init__(self) -> None:
    check_positive(temperature=self.temperature)

  def init(self, key: Key, feature_dim: int) -> tuple[dict, dict]:
    """Returns both heads' parameters, and their batch statistics."""
    check_same_width(
      student=self.student.width(feature_dim),
      teacher=self.teacher.width(feature_dim),
    )
    return init_heads(
      key,
      {
        "student": (self.student, feature_dim),
        "teacher": (self.teacher, feature_dim),
      },
    )

  def loss(
    self,
    head_params: dict,
    state: dict,
    features: Features,
    *,
    key: Key,
    step: Step,
  ) -> tuple[Scalar, Aux]:
    """Each row of the student finds both views among the teacher's rows."""
    del key, step
    (h,) = features.student
    u, student = self.student.apply(head_params["student"], state["student"], h)
    v, teacher = self.teacher.apply(head_params["teacher"], state["teacher"], h)
    loss = losses.cissl(
      u.reshape(-1, u.shape[-1]),
      v.reshape(-1, v.shape[-1]),
      temperature=self.temperature,
    )
    return loss, Aux({}, {"student": student, "teacher": teacher})
