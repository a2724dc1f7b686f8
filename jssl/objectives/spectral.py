"""Spectral contrastive learning (HaoChen et al., NeurIPS 2021).

State: the projector's batch statistics. Nothing is stop-gradient. In the paper:
a projector 8192-8192-8192 with a norm after each layer, SGD at 0.05 b/256,
decay 1e-4, 100 epochs of ImageNet, batch 384. As in its code, rows longer than
a radius are brought back onto that sphere, and the loss is divided by the
squared radius.
"""

import dataclasses

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float

from jssl import losses
from jssl.models.heads import Head
from jssl.objectives.base import check_positive
from jssl.objectives.two_view import TwoViewObjective
from jssl.typing import Labels, Metrics, Scalar


@dataclasses.dataclass(frozen=True, kw_only=True)
class Spectral(TwoViewObjective):
  """The `objective` section of a config, for `objective.name="spectral"`.

  Attributes:
    squared_radius: of the ball that holds z.
    projector: from h to z.
  """

  squared_radius: float = 10.0
  projector: Head = Head((8192, 8192), 8192, last_norm="affine")

  def __post_init__(self) -> None:
    check_positive(squared_radius=self.squared_radius)

  def compare(
    self,
    z1: Float[Array, "b z"],
    z2: Float[Array, "b z"],
    labels: Labels | None,
  ) -> tuple[Scalar, Metrics]:
    """The spectral contrastive loss of the two views, in the ball."""
    z1, z2 = (self._in_ball(z) for z in (z1, z2))
    return losses.spectral_contrastive(z1, z2) / self.squared_radius, {}

  def _in_ball(self, z: Float[Array, "b z"]) -> Float[Array, "b z"]:
    square = jnp.sum(z**2, axis=1, keepdims=True)
    outside = square > self.squared_radius
    # The quotient is that of rows outside: no gradient of 1 / 0 within.
    shrink = jax.lax.rsqrt(jnp.where(outside, square, 1))
    return jnp.where(outside, z * shrink * self.squared_radius**0.5, z)
