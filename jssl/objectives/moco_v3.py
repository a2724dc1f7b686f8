"""MoCo v3 (Chen et al., ICCV 2021): InfoNCE against an averaged encoder.

State: batch statistics, the averaged projector, the queue if `queue_size` > 0.
Stop-gradient: the keys. In the paper (ViT-S): temperature 0.2, batch 4096,
cosine momentum 0.99 to 1, projector 4096-4096-256 and predictor 4096-256, both
with a last norm without parameters, AdamW at 1.5e-4 b/256, decay 0.1.
ResNet-50: one hidden layer less in the projector, temperature 1, momentum 0.99
(0.996 for 1000 epochs).

With a queue the negatives are keys of earlier batches, in both directions, as
in MoCo v2 (He et al., CVPR 2020; Chen et al., 2020: 65,536 keys, temperature
0.2, constant momentum 0.999, no predictor).

Paper: arXiv:2104.02057
"""

import dataclasses
import functools
from typing import Any

import jax

from jssl import losses
from jssl.models.heads import Head
from jssl.models.tokens import Spec
from jssl.objectives import queue
from jssl.objectives.base import Aux, Features
from jssl.objectives.momentum import MomentumObjective
from jssl.objectives.projector import PredictorObjective
from jssl.typing import Fraction, Key, NonNegative, Positive, Scalar


@dataclasses.dataclass(frozen=True, kw_only=True)
class MoCoV3(PredictorObjective, MomentumObjective):
  """MoCo v3, or v2 with a queue; `objective.name="moco_v3"` in a config.

  Attributes:
    temperature: temperature T; the loss has MoCo v3's factor 2T.
    projector: head of the queries and, averaged, of the keys.
    queue_size: number of keys in the queue, a multiple of the batch size; with
      0 the other keys of the batch are the negatives.
  """

  temperature: Positive[float] = 0.2
  projector: Head = Head((4096, 4096), 256, last_norm="plain")
  predictor: Head = Head((4096,), 256, last_norm="plain")
  momentum_start: Fraction = 0.99
  queue_size: NonNegative[int] = 0

  def init(self, key: Key, spec: Spec) -> tuple[dict, dict]:
    """Returns head parameters; state with averages and the queue."""
    first, second = jax.random.split(key)
    params, state = super().init(first, spec)
    if self.queue_size:
      width = self.projector.width(spec.feature_dim)
      state["queue"] = queue.full(second, self.queue_size, width)
    return params, state

  def loss(
    self, head_params: dict, state: dict, features: Features, **unused: Any
  ) -> tuple[Scalar, Aux]:
    """InfoNCE of queries with keys of the other view, summed over views."""
    (q1, q2), _, state = self.predict(head_params, state, features)
    (k1, k2), state = self.targets(state, features)
    negatives = None
    if self.queue_size:
      negatives = jax.lax.stop_gradient(state["queue"].rows)
    info_nce = functools.partial(
      losses.info_nce, temperature=self.temperature, negatives=negatives
    )
    loss = info_nce(q1, k2) + info_nce(q2, k1)
    if self.queue_size:
      # Keys of one view, as in MoCo v2: the queue holds each image once.
      state = {**state, "queue": queue.push(state["queue"], k1)}
    return 2 * self.temperature * loss, Aux({}, state)
