"""SimCLR (Chen et al., ICML 2020): NT-Xent on an MLP projector.

State: batch statistics of the projector. Nothing is stop-gradient. In the
paper: temperature 0.1 (batch 4096, ImageNet; 0.5 on CIFAR-10), projector
2048-128, batch statistics over the global batch and both views, LARS.

Paper: arXiv:2002.05709
"""

import dataclasses

from jssl import losses
from jssl.models.heads import Head
from jssl.objectives.projector import Embeddings, TwoViewObjective
from jssl.typing import Labels, Metrics, Positive, Scalar


@dataclasses.dataclass(frozen=True, kw_only=True)
class SimCLR(TwoViewObjective):
  """SimCLR; `objective.name="simclr"` in a config.

  Attributes:
    temperature: temperature of NT-Xent.
  """

  temperature: Positive[float] = 0.1
  projector: Head = Head((2048,), 128, last_norm="plain")

  def compare(
    self, z1: Embeddings, z2: Embeddings, labels: Labels | None
  ) -> tuple[Scalar, Metrics]:
    """NT-Xent between two views."""
    return losses.nt_xent(z1, z2, temperature=self.temperature), {}
