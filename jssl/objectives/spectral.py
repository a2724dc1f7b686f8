"""Spectral contrastive learning (HaoChen et al., NeurIPS 2021).

State: batch statistics of the projector. Nothing is stop-gradient. In the
paper: projector 8192-8192-8192 with a norm after each layer, SGD at 0.05 b/256,
decay 1e-4, 100 epochs of ImageNet, batch 384. As in the authors' code, rows are
projected onto a ball, and the loss is divided by its squared radius.

Paper: arXiv:2106.04156
"""

import dataclasses

import jax
import jax.numpy as jnp

from jssl import losses
from jssl.models.heads import Head
from jssl.objectives.projector import Embeddings, TwoViewObjective
from jssl.typing import Labels, Metrics, Positive, Scalar


@dataclasses.dataclass(frozen=True, kw_only=True)
class Spectral(TwoViewObjective):
  """Spectral contrastive learning; `objective.name="spectral"` in a config.

  Attributes:
    squared_radius: squared radius of the ball.
  """

  squared_radius: Positive[float] = 10.0
  projector: Head = Head((8192, 8192), 8192, last_norm="affine")

  def compare(
    self, z1: Embeddings, z2: Embeddings, labels: Labels | None
  ) -> tuple[Scalar, Metrics]:
    """Spectral contrastive loss of two views projected onto the ball."""
    z1, z2 = (self._in_ball(z) for z in (z1, z2))
    return losses.spectral_contrastive(z1, z2) / self.squared_radius, {}

  def _in_ball(self, z: Embeddings) -> Embeddings:
    square = jnp.sum(z**2, axis=1, keepdims=True)
    outside = square > self.squared_radius
    # 1 replaces the norm of inner rows: no infinite gradient at zero rows.
    shrink = jax.lax.rsqrt(jnp.where(outside, square, 1))
    return jnp.where(outside, z * shrink * self.squared_radius**0.5, z)
