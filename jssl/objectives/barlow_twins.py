"""Barlow Twins (Zbontar et al., ICML 2021): the cross-correlation is identity.

State: batch statistics of the projector. Nothing is stop-gradient. In the
paper: off-diagonal weight 0.005, projector 8192-8192-8192, batch 2048, LARS,
1000 epochs. The authors' code scales the loss by 0.024 for LARS (`scale`).

Paper: arXiv:2103.03230
"""

import dataclasses

from jssl import losses
from jssl.models.heads import Head
from jssl.objectives.projector import Embeddings, TwoViewObjective
from jssl.typing import Labels, Metrics, Positive, Scalar


@dataclasses.dataclass(frozen=True, kw_only=True)
class BarlowTwins(TwoViewObjective):
  """Barlow Twins; `objective.name="barlow_twins"` in a config.

  Attributes:
    off_diagonal_weight: weight of the off-diagonal (decorrelation) term.
    scale: factor on the whole loss.
    projector: head without a last norm, because the loss standardises.
  """

  off_diagonal_weight: Positive[float] = 0.005
  scale: Positive[float] = 1.0
  projector: Head = Head((8192, 8192), 8192)

  def compare(
    self, z1: Embeddings, z2: Embeddings, labels: Labels | None
  ) -> tuple[Scalar, Metrics]:
    """Returns the loss; its two terms are metrics."""
    terms = losses.barlow_terms(z1, z2)
    loss = terms.on_diagonal + self.off_diagonal_weight * terms.off_diagonal
    return self.scale * loss, terms._asdict()
