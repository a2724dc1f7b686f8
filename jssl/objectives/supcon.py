"""SupCon (Khosla et al., NeurIPS 2020): images of one label attract.

State: the projector's batch statistics. Nothing is stop-gradient. In the paper:
temperature 0.1 (0.07 in its code), a projector of one hidden layer of 2048 and
128 out without norms, batch 6144. It uses the labels of the training images:
every image needs one.
"""

import dataclasses

import jax.numpy as jnp
from jaxtyping import Array, Float

from jssl import losses
from jssl.models.heads import Head
from jssl.objectives.base import check_positive
from jssl.objectives.two_view import TwoViewObjective
from jssl.typing import Labels, Metrics, Scalar


@dataclasses.dataclass(frozen=True, kw_only=True)
class SupCon(TwoViewObjective):
  """The `objective` section of a config, for `objective.name="supcon"`.

  Attributes:
    temperature: of the loss.
    projector: from h to z.
  """

  temperature: float = 0.1
  projector: Head = Head((2048,), 128, norm=False)
  uses_labels = True

  def __post_init__(self) -> None:
    check_positive(temperature=self.temperature)

  def compare(
    self,
    z1: Float[Array, "b z"],
    z2: Float[Array, "b z"],
    labels: Labels | None,
  ) -> tuple[Scalar, Metrics]:
    """L_out of all 2b rows, the views of an image side by side."""
    if labels is None:
      raise ValueError('objective.name="supcon" needs a set with labels')
    # Interleaved, and not stacked, so that rows stay on their devices.
    z = jnp.stack([z1, z2], axis=1).reshape(-1, z1.shape[1])
    twice = jnp.stack([labels, labels], axis=1).reshape(-1)
    loss = losses.supervised_contrastive(z, twice, temperature=self.temperature)
    return loss, {}
