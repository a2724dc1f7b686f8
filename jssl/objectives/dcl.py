"""DCL (Yeh et al., ECCV 2022): NT-Xent, positives not in the denominator.

State: batch statistics of the projector. Nothing is stop-gradient. In the
paper: temperature 0.1, SimCLR's projector, batch 256 on ImageNet (DCL aims at
small batches).

Paper: arXiv:2110.06848
"""

import dataclasses

from jssl import losses
from jssl.models.heads import Head
from jssl.objectives.projector import Embeddings, TwoViewObjective
from jssl.typing import Labels, Metrics, Positive, Scalar


@dataclasses.dataclass(frozen=True, kw_only=True)
class DCL(TwoViewObjective):
  """DCL; `objective.name="dcl"` in a config.

  Attributes:
    temperature: temperature of the loss.
  """

  temperature: Positive[float] = 0.1
  projector: Head = Head((2048,), 128, last_norm="plain")

  def compare(
    self, z1: Embeddings, z2: Embeddings, labels: Labels | None
  ) -> tuple[Scalar, Metrics]:
    """Decoupled contrastive loss between two views."""
    return losses.dcl(z1, z2, temperature=self.temperature), {}
