"""CISSL (Dubois et al., NeurIPS 2022): contrastive invariant SSL.

State: batch statistics of both heads. Nothing is stop-gradient: the teacher is
a second head on the same features, trained with the student. In the paper: a
student head of the probe's family (linear for linear probes), an MLP teacher of
hidden width 1024, output width 128, a norm after the last layers, temperature
0.07 (0.1 on ImageNet). TinyImageNet: Adam at 2e-3, decay 1e-6, batch 512, 10
warm-up epochs. The full recipe adds feature dimensions (`model.expand_dim`) and
coarser augmentation.

Paper: arXiv:2209.06235. Study: docs/studies/idealised.md
"""

import dataclasses
from typing import Any

from jssl import losses
from jssl.models.heads import Head
from jssl.models.tokens import Spec
from jssl.objectives.base import (
  Aux,
  Features,
  check_same_width,
)
from jssl.objectives.projector import DistillationObjective
from jssl.typing import Key, Positive, Scalar


@dataclasses.dataclass(frozen=True, kw_only=True)
class CISSL(DistillationObjective):
  """CISSL; `objective.name="cissl"` in a config.

  Attributes:
    temperature: temperature of the softmax over the teacher's 2b rows.
  """

  temperature: Positive[float] = 0.07
  student: Head = Head((), 128, last_norm="affine")
  teacher: Head = Head((1024,), 128, last_norm="affine")

  def init(self, key: Key, spec: Spec) -> tuple[dict, dict]:
    """Returns parameters and batch statistics of both heads."""
    check_same_width(
      student=self.student.width(spec.feature_dim),
      teacher=self.teacher.width(spec.feature_dim),
    )
    return super().init(key, spec)

  def loss(
    self, head_params: dict, state: dict, features: Features, **unused: Any
  ) -> tuple[Scalar, Aux]:
    """Cross-entropy of student rows with both views of the teacher."""
    (h,) = features.pooled
    u, state = self.apply_head("student", head_params, state, h)
    v, state = self.apply_head("teacher", head_params, state, h)
    loss = losses.cissl(
      u.reshape(-1, u.shape[-1]),
      v.reshape(-1, v.shape[-1]),
      temperature=self.temperature,
    )
    return loss, Aux({}, state)
