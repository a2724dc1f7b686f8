"""SimSiam (Chen & He, CVPR 2021): BYOL's prediction without an average.

State: batch statistics. Stop-gradient: the targets. In the paper: projector
2048-2048-2048 ending in a norm (without parameters in its code), predictor
512-2048, SGD at 0.05 b/256, decay 1e-4, the predictor's learning rate constant,
batch 256 to 512, 100 epochs.
"""

import dataclasses

from jssl import losses
from jssl.models.heads import Head, init_heads
from jssl.objectives.base import Aux, Features, Objective, check_same_width
from jssl.typing import Key, Scalar, Step


@dataclasses.dataclass(frozen=True, kw_only=True)
class SimSiam(Objective):
  """The `objective` section of a config, for `objective.name="simsiam"`.

  Attributes:
    projector: of both views.
    predictor: of the view that predicts.
    stop_gradient: whether targets are stopped; without it collapses.
    constant_predictor_rate: whether the predictor's learning rate stays at the
      peak while the others' decay.
  """

  projector: Head = Head((2048, 2048), 2048, last_norm="plain")
  predictor: Head = Head((512,), 2048)
  stop_gradient: bool = True
  constant_predictor_rate: bool = True

  def init(self, key: Key, feature_dim: int) -> tuple[dict, dict]:
    """Returns both heads' parameters, and their batch statistics."""
    width = self.projector.width(feature_dim)
    check_same_width(projector=width, predictor=self.predictor.width(width))
    return init_heads(
      key,
      {
        "projector": (self.projector, feature_dim),
        "predictor": (self.predictor, width),
      },
    )

  def constant_rates(self) -> frozenset[str]:
    """The predictor, if its rate doesn't decay."""
    return frozenset({"predictor"} if self.constant_predictor_rate else ())

  def loss(
    self,
    head_params: dict,
    state: dict,
    features: Features,
    *,
    key: Key,
    step: Step,
  ) -> tuple[Scalar, Aux]:
    """The negative cosine of prediction and other view, both directions."""
    del key, step
    (h,) = features.student
    z, projector = self.projector.apply(
      head_params["projector"], state["projector"], h
    )
    p, predictor = self.predictor.apply(
      head_params["predictor"], state["predictor"], z
    )
    if self.stop_gradient:
      loss = losses.simsiam(*p, *z)
    else:
      loss = losses.negative_cosine(p[0], z[1]) / 2
      loss += losses.negative_cosine(p[1], z[0]) / 2
    return loss, Aux({}, {"projector": projector, "predictor": predictor})
