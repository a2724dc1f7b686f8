"""SimSiam (Chen & He, CVPR 2021): BYOL without a momentum encoder.

State: batch statistics. Stop-gradient: the targets. In the paper: projector
2048-2048-2048 with a last norm (without parameters in the authors' code),
predictor 512-2048, SGD at 0.05 b/256, decay 1e-4, constant learning rate of the
predictor, batch 256 to 512, 100 epochs.

Paper: arXiv:2011.10566. Study: docs/studies/collapse.md
"""

import dataclasses
from typing import Any

from jssl import losses
from jssl.models.heads import Head
from jssl.objectives.base import Aux, Features
from jssl.objectives.projector import PredictorObjective
from jssl.typing import Scalar


@dataclasses.dataclass(frozen=True, kw_only=True)
class SimSiam(PredictorObjective):
  """SimSiam; `objective.name="simsiam"` in a config.

  Attributes:
    stop_gradient: True if targets are stop-gradient; False collapses.
    constant_predictor_rate: True if the learning rate of the predictor does not
      decay.
  """

  projector: Head = Head((2048, 2048), 2048, last_norm="plain")
  predictor: Head = Head((512,), 2048)
  stop_gradient: bool = True
  constant_predictor_rate: bool = True

  def constant_rates(self) -> frozenset[str]:
    """Returns the predictor's group if `constant_predictor_rate`."""
    return frozenset({"predictor"} if self.constant_predictor_rate else ())

  def loss(
    self, head_params: dict, state: dict, features: Features, **unused: Any
  ) -> tuple[Scalar, Aux]:
    """Negative cosine similarity of prediction and target, both directions."""
    p, z, state = self.predict(head_params, state, features)
    if self.stop_gradient:
      loss = losses.simsiam(*p, *z)
    else:
      loss = losses.negative_cosine(p[0], z[1]) / 2
      loss += losses.negative_cosine(p[1], z[0]) / 2
    return loss, Aux({}, state)
