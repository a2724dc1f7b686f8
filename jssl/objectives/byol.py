"""BYOL (Grill et al., NeurIPS 2020): predict an averaged encoder's view.

State: batch statistics, the averaged projector. Stop-gradient: the targets. In
the paper: projector and predictor of one hidden layer of 4096 and 256 out, no
norm at the end, momentum 0.996 to 1 along a cosine, LARS at 0.2 b/256 with
decay 1.5e-6, batch 4096, 1000 epochs (0.3, 1e-6 and 0.99 for 300), asymmetric
augmentation: blur 1 and 0.1, solarisation 0 and 0.2.
"""

import dataclasses

from jssl import losses
from jssl.models.heads import Head
from jssl.objectives.base import Aux, Features
from jssl.objectives.momentum import PredictorObjective
from jssl.typing import Key, Scalar, Step


@dataclasses.dataclass(frozen=True, kw_only=True)
class BYOL(PredictorObjective):
  """The `objective` section of a config, for `objective.name="byol"`.

  Attributes:
    projector: of the student and, averaged, of the teacher.
    predictor: of the student; without layers there is none, and it collapses.
  """

  projector: Head = Head((4096,), 256)
  predictor: Head = Head((4096,), 256)
  momentum_start: float = 0.996

  def loss(
    self,
    head_params: dict,
    state: dict,
    features: Features,
    *,
    key: Key,
    step: Step,
  ) -> tuple[Scalar, Aux]:
    """The squared distance of unit vectors, summed over both directions."""
    del key, step
    (p1, p2), state = self.predict(head_params, state, features)
    (target1, target2), state = self.targets(state, features)
    return losses.byol(p1, p2, target1, target2), Aux({}, state)
