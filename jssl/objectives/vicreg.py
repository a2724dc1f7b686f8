"""VICReg (Bardes et al., ICLR 2022): invariance, variance, covariance.

State: batch statistics of the projector. Nothing is stop-gradient. In the
paper: weights 25, 25 and 1, projector 8192-8192-8192, batch 2048, LARS, 1000
epochs.

Paper: arXiv:2105.04906
"""

import dataclasses

from jssl import losses
from jssl.models.heads import Head
from jssl.objectives.projector import Embeddings, TwoViewObjective
from jssl.typing import Labels, Metrics, NonNegative, Scalar


@dataclasses.dataclass(frozen=True, kw_only=True)
class VICReg(TwoViewObjective):
  """VICReg; `objective.name="vicreg"` in a config.

  Attributes:
    invariance_weight: weight of the mean squared distance of views.
    variance_weight: weight of the hinge on standard deviations; 0 collapses.
    covariance_weight: weight of the squared covariances.
    projector: head without a last norm, because the loss controls the variance.
  """

  invariance_weight: NonNegative[float] = 25.0
  variance_weight: NonNegative[float] = 25.0
  covariance_weight: NonNegative[float] = 1.0
  projector: Head = Head((8192, 8192), 8192)

  def compare(
    self, z1: Embeddings, z2: Embeddings, labels: Labels | None
  ) -> tuple[Scalar, Metrics]:
    """Returns the weighted sum of the terms; the terms are metrics."""
    terms = losses.vicreg_terms(z1, z2)
    loss = (
      self.invariance_weight * terms.invariance
      + self.variance_weight * terms.variance
      + self.covariance_weight * terms.covariance
    )
    return loss, terms._asdict()
