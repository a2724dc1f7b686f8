"""DINOv2 (Oquab et al., 2023): iBOT with spread features and large heads.

State: that of iBOT. Stop-gradient: the teacher. In the paper's code for
ImageNet-1k, ViT-L/16: 65,536 prototypes, 8 small crops, KoLeo of weight 0.1,
teacher temperature 0.04 to 0.07 over 30 epochs, momentum 0.992 to 1, AdamW at
4e-3 sqrt(b/1024), decay 0.04 to 0.4, layer-wise decay 0.9 of the learning rate,
0.2 of it for the patch embedding, drop path 0.3, clipping at 3. For larger
sets: separate heads and centring by Sinkhorn-Knopp.

Paper: arXiv:2304.07193
"""

import dataclasses
from typing import Literal, Self

import jax.numpy as jnp
from jaxtyping import Array, Bool, Float

from jssl import losses
from jssl.augment.masks import blocks
from jssl.models.heads import Prototypes
from jssl.models.tokens import Grid
from jssl.objectives.base import Aux, Features
from jssl.objectives.dino import Center
from jssl.objectives.ibot import IBOT
from jssl.typing import Fraction, Key, NonNegative, Positive, Scalar, Step


@dataclasses.dataclass(frozen=True, kw_only=True)
class DINOv2(IBOT):
  """DINOv2; `objective.name="dinov2"` in a config.

  Centres of patches are means over hidden patches. Nearest neighbours of KoLeo
  are those of the global batch; in the official code those on the device.

  Attributes:
    koleo_weight: weight of KoLeo of each large crop's features; 0: none.
    centering: targets subtract a moving average of the logits ("mean"), or are
      balanced over the batch ("sinkhorn", as in SwAV).
    sinkhorn_iterations: rounds of Sinkhorn-Knopp.
    gram_weight: weight of Gram anchoring (DINOv3: 2): patch similarities stay
      those of a frozen copy of the teacher, which sees the same crops (in
      DINOv3 at twice the resolution); 0: none.
    gram_start_step: first step with that loss; the copy is the teacher then, or
      the backbone of `init_from` at 0.
    gram_every_steps: steps between new copies; 0: never.
  """

  koleo_weight: NonNegative[float] = 0.1
  centering: Literal["mean", "sinkhorn"] = "mean"
  sinkhorn_iterations: Positive[int] = 3
  gram_weight: NonNegative[float] = 0.0
  gram_start_step: NonNegative[int] = 0
  gram_every_steps: NonNegative[int] = 0
  prototypes: Prototypes = Prototypes(65_536, "weight")
  patch_prototypes: Prototypes = Prototypes(65_536, "weight")
  momentum_start: Fraction = 0.992

  def with_total_steps(self, total_steps: int) -> Self:
    """See `Objective`; ValueError if no step has the loss of Gram anchoring."""
    if self.gram_weight and self.gram_start_step >= total_steps:
      raise ValueError(
        f"objective.gram_start_step={self.gram_start_step}: expected less than "
        f"train.steps={total_steps}, or objective.gram_weight=0"
      )
    return super().with_total_steps(total_steps)

  def hide_blocks(
    self, key: Key, grid: Grid, budget: Float[Array, ""]
  ) -> Bool[Array, "rows columns"]:
    """Hides blocks of at least 4 patches and at most half of the crop."""
    shape, most = (grid.rows, grid.columns), grid.patches / 2
    return blocks(key, shape, jnp.floor(budget), max_area=most)

  def in_center(self, hidden: Bool[Array, "u b"]) -> Bool[Array, "u b"]:
    """Returns the patches that their centre is of: the hidden ones."""
    return hidden

  def centers(
    self,
    center: Center,
    target: Float[Array, "u b z"],
    prototypes: Float[Array, "k z"],
    temperature: Scalar | float,
    weights: Bool[Array, "u b"] | None = None,
  ) -> tuple[Center, Center]:
    """Returns the centre of this step and that of the next."""
    if self.centering == "mean":
      return super().centers(center, target, prototypes, temperature, weights)
    balanced = losses.sinkhorn_center(
      target,
      prototypes,
      temperature=temperature,
      iterations=self.sinkhorn_iterations,
      weights=weights,
    )
    return balanced, center

  def loss(
    self,
    head_params: dict,
    state: dict,
    features: Features,
    *,
    key: Key,
    step: Step,
  ) -> tuple[Scalar, Aux]:
    """IBOT's loss, and KoLeo of the features of each large crop."""
    loss, aux = super().loss(head_params, state, features, key=key, step=step)
    metrics = dict(aux.metrics)
    if self.koleo_weight:
      images = features.pooled[0].shape[1]
      if images < 2:
        raise ValueError(
          f"objective.koleo_weight={self.koleo_weight} needs another image in "
          f"the batch, and there is {images}; raise data.batch_size, or set "
          "objective.koleo_weight to 0"
        )
      koleo = jnp.stack([losses.koleo(h) for h in features.pooled[0]])
      metrics["koleo"] = koleo.mean()
      loss += self.koleo_weight * koleo.sum()
    if self.gram_weight:
      views = features.large_views()
      gram = jnp.stack([losses.gram_loss(v.tokens, v.anchor) for v in views])
      metrics["gram"] = gram.mean()
      active = jnp.where(step >= self.gram_start_step, self.gram_weight, 0.0)
      loss += active * gram.mean()
    return loss, Aux(metrics, aux.carry)

  def anchored(self, step: Step) -> Bool[Array, ""] | bool | None:
    """True before `gram_start_step`, and every `gram_every_steps` from there.

    None without Gram anchoring.
    """
    if not self.gram_weight:
      return None
    done = step + 1 - self.gram_start_step
    start = done == 0
    if not self.gram_every_steps:
      return start
    return start | ((done > 0) & (done % self.gram_every_steps == 0))
