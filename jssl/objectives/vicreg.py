"""VICReg (Bardes et al., ICLR 2022): invariance, variance, covariance.

State: the projector's batch statistics. Nothing is stop-gradient. In the paper:
weights 25, 25 and 1, a projector 8192-8192-8192, batch 2048, LARS, 1000 epochs.
"""

import dataclasses

from jaxtyping import Array, Float

from jssl import losses
from jssl.models.heads import Head
from jssl.objectives.base import check_range
from jssl.objectives.two_view import TwoViewObjective
from jssl.typing import Labels, Metrics, Scalar


@dataclasses.dataclass(frozen=True, kw_only=True)
class VICReg(TwoViewObjective):
  """The `objective` section of a config, for `objective.name="vicreg"`.

  Attributes:
    invariance_weight: of the mean squared distance of views.
    variance_weight: of the hinge on deviations; 0 lets it collapse.
    covariance_weight: of the squared covariances.
    projector: without a last norm: the variance is the loss's concern.
  """

  invariance_weight: float = 25.0
  variance_weight: float = 25.0
  covariance_weight: float = 1.0
  projector: Head = Head((8192, 8192), 8192)

  def __post_init__(self) -> None:
    for term in ("invariance", "variance", "covariance"):
      key = f"{term}_weight"
      check_range(key, getattr(self, key), 0)

  def compare(
    self,
    z1: Float[Array, "b z"],
    z2: Float[Array, "b z"],
    labels: Labels | None,
  ) -> tuple[Scalar, Metrics]:
    """The weighted sum of the terms, and the terms."""
    terms = losses.vicreg_terms(z1, z2)
    loss = (
      self.invariance_weight * terms.invariance
      + self.variance_weight * terms.variance
      + self.covariance_weight * terms.covariance
    )
    return loss, terms._asdict()
