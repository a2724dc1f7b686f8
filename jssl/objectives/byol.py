"""BYOL (Grill et al., NeurIPS 2020): predict an averaged encoder's view.

State: batch statistics, the averaged projector. Stop-gradient: the targets. In
the paper: projector and predictor 4096-256 without a last norm, cosine momentum
0.996 to 1, LARS, learning rate 0.2 b/256, decay 1.5e-6, batch 4096, 1000 epochs
(0.3 b/256, 1e-6 and momentum 0.99 for 300 epochs). Views differ: blur
probability 1 and 0.1, solarisation 0 and 0.2.

Paper: arXiv:2006.07733
"""

import dataclasses
from typing import Any

from jssl import losses
from jssl.models.heads import Head
from jssl.objectives.base import Aux, Features
from jssl.objectives.momentum import MomentumObjective
from jssl.objectives.projector import PredictorObjective
from jssl.typing import Fraction, Scalar


@dataclasses.dataclass(frozen=True, kw_only=True)
class BYOL(PredictorObjective, MomentumObjective):
  """BYOL; `objective.name="byol"` in a config.

  Attributes:
    projector: head of the student and, averaged, of the teacher.
    predictor: second head of the student; training collapses without one.
  """

  projector: Head = Head((4096,), 256)
  predictor: Head = Head((4096,), 256)
  momentum_start: Fraction = 0.996

  def loss(
    self, head_params: dict, state: dict, features: Features, **unused: Any
  ) -> tuple[Scalar, Aux]:
    """Squared distance of unit vectors, summed over both directions."""
    (p1, p2), _, state = self.predict(head_params, state, features)
    (target1, target2), state = self.targets(state, features)
    return losses.byol(p1, p2, target1, target2), Aux({}, state)
