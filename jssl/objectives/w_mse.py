"""W-MSE (Ermolov et al., ICML 2021): distance of whitened views.

State: batch statistics of the projector. Nothing is stop-gradient. In the
paper: projector 1024-64 (1024-128 on ImageNet), Adam at 2e-3, batch 512 on
CIFAR. The batch size must exceed the embedding width. The batch is whitened as
a whole; the paper whitens sub-batches of twice the width.

Paper: arXiv:2007.06346
"""

import dataclasses
from typing import Annotated

from jssl import losses
from jssl.models.heads import Head
from jssl.objectives.projector import Embeddings, TwoViewObjective
from jssl.typing import Interval, Labels, Metrics, Scalar


@dataclasses.dataclass(frozen=True, kw_only=True)
class WMSE(TwoViewObjective):
  """W-MSE; `objective.name="w_mse"` in a config.

  Attributes:
    eps: weight of the identity in the covariance that defines the whitening.
    projector: head of output width below the batch size.
  """

  eps: Annotated[float, Interval(1e-12, 1)] = 1e-3
  projector: Head = Head((1024,), 64)

  def compare(
    self, z1: Embeddings, z2: Embeddings, labels: Labels | None
  ) -> tuple[Scalar, Metrics]:
    """Squared distance of whitened views."""
    b, width = z1.shape
    if b <= width:
      raise ValueError(
        f"data.batch_size={b} must exceed objective.projector.out_dim={width}: "
        "whitening needs more rows than dimensions"
      )
    return losses.w_mse(z1, z2, eps=self.eps), {}
