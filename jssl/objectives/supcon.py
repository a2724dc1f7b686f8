"""SupCon (Khosla et al., NeurIPS 2020): positives share a label.

State: batch statistics of the projector. Nothing is stop-gradient. In the
paper: temperature 0.1 (0.07 in the authors' code), projector 2048-128 without
norms, batch 6144. Positives of an image without a label (-1) are its own views.

Paper: arXiv:2004.11362
"""

import dataclasses

import jax.numpy as jnp

from jssl import losses
from jssl.models.heads import Head
from jssl.objectives.projector import Embeddings, TwoViewObjective
from jssl.typing import Labels, Metrics, Positive, Scalar


@dataclasses.dataclass(frozen=True, kw_only=True)
class SupCon(TwoViewObjective):
  """SupCon; `objective.name="supcon"` in a config.

  Attributes:
    temperature: temperature of the loss.
  """

  temperature: Positive[float] = 0.1
  projector: Head = Head((2048,), 128, norm=False)
  uses_labels = True

  def compare(
    self, z1: Embeddings, z2: Embeddings, labels: Labels | None
  ) -> tuple[Scalar, Metrics]:
    """L_out over all 2b rows."""
    if labels is None:
      raise ValueError('objective.name="supcon" needs a data set with labels')
    # Interleaved instead of concatenated, so that no row changes its device.
    z = jnp.stack([z1, z2], axis=1).reshape(-1, z1.shape[1])
    # An image without a label is a class of its own.
    own = jnp.iinfo(labels.dtype).max - jnp.arange(len(labels))
    classes = jnp.where(labels < 0, own.astype(labels.dtype), labels)
    row_labels = jnp.stack([classes, classes], axis=1).reshape(-1)
    loss = losses.supervised_contrastive(
      z, row_labels, temperature=self.temperature
    )
    return loss, {}
