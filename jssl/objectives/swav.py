"""SwAV (Caron et al., NeurIPS 2020): predict the other view's assignment.

State: batch statistics. Stop-gradient: the assignments of the large crops,
balanced over the global batch. In the paper: 3000 prototypes, temperature 0.1,
epsilon 0.05, 3 iterations, projector 2048-128, 2 crops of 224 px and 6 of 96,
prototypes frozen for one epoch, LARS at 0.3 b/256, decay 1e-6, batch 4096, 800
epochs. The paper's queue for small batches is not implemented.

Paper: arXiv:2006.09882
"""

import dataclasses
from typing import Any

import jax.numpy as jnp

from jssl import losses
from jssl.losses.rows import l2_normalize
from jssl.models.heads import Head, Prototypes
from jssl.objectives.base import Aux, Features
from jssl.objectives.projector import PrototypeObjective
from jssl.typing import Positive, Scalar


@dataclasses.dataclass(frozen=True, kw_only=True)
class SwAV(PrototypeObjective):
  """SwAV; `objective.name="swav"` in a config.

  Attributes:
    temperature: temperature of the predictions.
    epsilon: entropy regularisation of the assignments.
    iterations: number of Sinkhorn-Knopp iterations.
    projector: head that maps features to z; z is then normalised.
  """

  temperature: Positive[float] = 0.1
  epsilon: Positive[float] = 0.05
  iterations: Positive[int] = 3
  projector: Head = Head((2048,), 128)
  prototypes: Prototypes = Prototypes(3000, "step")
  num_views: Positive[int] = 2
  multi_crop = True

  def loss(
    self, head_params: dict, state: dict, features: Features, **unused: Any
  ) -> tuple[Scalar, Aux]:
    """Swapped prediction: all views predict assignments of large crops."""
    views = jnp.concatenate(features.pooled)
    z, state = self.apply_head("projector", head_params, state, views)
    loss = losses.swav(
      l2_normalize(z),
      self.prototypes.rows(head_params["prototypes"]),
      temperature=self.temperature,
      epsilon=self.epsilon,
      iterations=self.iterations,
      num_large=self.num_views,
    )
    return loss, Aux({}, state)
