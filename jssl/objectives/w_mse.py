"""W-MSE (Ermolov et al., ICML 2021): views agree after whitening.

State: the projector's batch statistics. Nothing is stop-gradient. In the paper:
a projector of one hidden layer of 1024 and 64 out (128 on ImageNet), Adam at
2e-3, batch 512 on CIFAR. The batch must be larger than z is wide; it is
whitened as a whole, in the paper in parts of 2 x the width.
"""

import dataclasses

from jaxtyping import Array, Float

from jssl import losses
from jssl.models.heads import Head
from jssl.objectives.base import check_range
from jssl.objectives.two_view import TwoViewObjective
from jssl.typing import Labels, Metrics, Scalar


@dataclasses.dataclass(frozen=True, kw_only=True)
class WMSE(TwoViewObjective):
  """The `objective` section of a config, for `objective.name="w_mse"`.

  Attributes:
    eps: weight of the identity in the covariance that is whitened by.
    projector: from h to z; fewer dimensions than the batch has images.
  """

  eps: float = 1e-3
  projector: Head = Head((1024,), 64)

  def __post_init__(self) -> None:
    check_range("eps", self.eps, 1e-12, 1)

  def compare(
    self,
    z1: Float[Array, "b z"],
    z2: Float[Array, "b z"],
    labels: Labels | None,
  ) -> tuple[Scalar, Metrics]:
    """The distance of whitened views."""
    b, width = z1.shape
    if b <= width:
      raise ValueError(
        f"data.batch_size={b} must be larger than the projector's width "
        f"{width} (objective.projector.out_dim): whitening needs it"
      )
    return losses.w_mse(z1, z2, eps=self.eps), {}
