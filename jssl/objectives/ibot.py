"""iBOT (Zhou et al., ICLR 2022): DINO, and its loss for hidden patches.

State: that of DINO, and the centre of the patch tokens' logits; averages of the
patch head where it is not shared. Stop-gradient: the teacher. The student sees
the mask token in place of hidden patches, the teacher every patch. In the
paper: 8192 prototypes for both losses, half of the large crops with 10% to 50%
hidden, 2 crops of 224 px and 10 of 96, the rest as DINO.

Paper: arXiv:2111.07832
"""

import dataclasses

import jax
import jax.numpy as jnp
from jaxtyping import Array, Bool, Float, Int

from jssl import losses
from jssl.augment.masks import blocks
from jssl.losses.rows import l2_normalize
from jssl.models.heads import Head, Prototypes
from jssl.models.tokens import Grid, Replace, Spec
from jssl.objectives.base import Aux, Features, grid_of
from jssl.objectives.dino import DINO
from jssl.typing import Fraction, Key, Keys, NonNegative, PyTree, Scalar, Step


@dataclasses.dataclass(frozen=True, kw_only=True)
class IBOT(DINO):
  """iBOT; `objective.name="ibot"` in a config.

  Attributes:
    mask_probability: probability that a large crop has hidden patches, drawn
      for each crop (DINOv2's code masks this share of a batch exactly).
    mask_ratio_min: smallest share of hidden patches of such a crop.
    mask_ratio_max: largest share of hidden patches.
    patch_weight: weight of the loss of patches.
    shared_head: True to use projector and prototypes for patches too.
    patch_projector: head of the patch tokens if it is not shared.
    patch_prototypes: their prototypes if the head is not shared.
  """

  mask_probability: Fraction = 0.5
  mask_ratio_min: Fraction = 0.1
  mask_ratio_max: Fraction = 0.5
  patch_weight: NonNegative[float] = 1.0
  shared_head: bool = True
  patch_projector: Head = Head((2048, 2048), 256, norm=False, activation="gelu")
  patch_prototypes: Prototypes = Prototypes(8192, "weight")
  prototypes: Prototypes = Prototypes(8192, "weight")
  uses_tokens = True
  uses_mask_token = True

  def __post_init__(self) -> None:
    super().__post_init__()
    low, high = self.mask_ratio_min, self.mask_ratio_max
    if not low <= high or high in (0, 1) or not self.mask_probability:
      raise ValueError(
        f"objective.mask_ratio_min={low}, objective.mask_ratio_max={high} and "
        f"objective.mask_probability={self.mask_probability}: expected "
        "mask_ratio_min <= mask_ratio_max, 0 < mask_ratio_max < 1 and a "
        "positive probability"
      )
    name = self._names[0]
    head: Head = getattr(self, name)
    if head.norm or head.last_norm != "none":
      raise ValueError(
        f"objective.{name}.norm={head.norm}, last_norm={head.last_norm!r}: "
        "hidden patches have no batch statistics; use norm=False and "
        'last_norm="none"'
      )

  @property
  def _names(self) -> tuple[str, str]:
    """Names of the head and the prototypes of patch tokens."""
    if self.shared_head:
      return "projector", "prototypes"
    return "patch_projector", "patch_prototypes"

  def init(self, key: Key, spec: Spec) -> tuple[dict, dict]:
    """Returns heads and prototypes; state with their averages and centres."""
    first, second, third = jax.random.split(key, 3)
    params, state = super().init(first, spec)
    width = grid_of(spec, self).width
    head, prototypes = self._names
    if self.shared_head and spec.feature_dim != width:
      raise ValueError(
        f"objective.shared_head=True needs features of the width of tokens, "
        f"{width}, not {spec.feature_dim}: set it to False, or model.pooling "
        'to "cls" without model.expand_dim'
      )
    if not self.shared_head:
      params[head], _ = self.patch_projector.init(second, width)
      params[prototypes] = self.patch_prototypes.init(
        third, self.patch_projector.width(width)
      )
      for name in (head, prototypes):
        state["teacher"][name] = jax.tree.map(jnp.copy, params[name])
    state["patch_center"] = jnp.zeros(len(params[prototypes]))
    return params, state

  def layers(self) -> dict[str, Prototypes]:
    """Returns the layers of prototypes by name."""
    name = self._names[1]
    return {**super().layers(), name: getattr(self, name)}

  def hide(self, keys: Keys, grid: Grid) -> Replace:
    """Hides blocks of patches in some of the large crops."""

    def one(key: Key) -> Bool[Array, "rows columns"]:
      chosen, ratio, block = jax.random.split(key, 3)
      share = jax.random.uniform(
        ratio,
        dtype=jnp.float32,
        minval=self.mask_ratio_min,
        maxval=self.mask_ratio_max,
      )
      hides = jax.random.uniform(chosen, dtype=jnp.float32)
      hides = hides < self.mask_probability
      budget = jnp.where(hides, share * grid.patches, 0)
      return self.hide_blocks(block, grid, budget)

    return Replace(jax.vmap(one)(keys).reshape(len(keys), -1))

  def hide_blocks(
    self, key: Key, grid: Grid, budget: Float[Array, ""]
  ) -> Bool[Array, "rows columns"]:
    """Hides up to `budget` patches of a crop, by the rule of the paper."""
    shape = grid.rows, grid.columns
    return blocks(key, shape, budget, min_area=(min(shape) // 3) ** 2)

  def in_center(self, hidden: Bool[Array, "u b"]) -> Bool[Array, "u b"] | None:
    """Returns the patches that their centre is of; None for all."""
    return None

  def loss(
    self,
    head_params: dict,
    state: dict,
    features: Features,
    *,
    key: Key,
    step: Step,
  ) -> tuple[Scalar, Aux]:
    """DINO's loss, and the cross-entropy of hidden patches of each crop."""
    loss, aux = super().loss(head_params, state, features, key=key, step=step)
    head, prototypes = self._names
    layer: Prototypes = getattr(self, prototypes)

    def project(
      params: PyTree, tokens: Float[Array, "*b n d"]
    ) -> Float[Array, "*b n z"]:
      z, _ = getattr(self, head).apply(params[head], {}, tokens)
      return l2_normalize(z)

    views = features.large_views()
    seen = jnp.stack([view.teacher for view in views])
    target = project(state["teacher"], seen)
    target = jax.lax.stop_gradient(target)
    v, b, n, z = target.shape
    hidden = jnp.stack([view.mask.hidden for view in views])
    # Patches before images, whose axis is sharded.
    by_patch = target.swapaxes(1, 2).reshape(v * n, b, z)
    weights = self.in_center(hidden.swapaxes(1, 2).reshape(v * n, b))
    theirs = layer.rows(state["teacher"][prototypes])
    temperature = self.teacher_temperature_at(step)
    center, new_center = self.centers(
      state["patch_center"], by_patch, theirs, temperature, weights
    )
    patch_losses = []
    for view, target_tokens in zip(views, target, strict=True):
      places = self._places(view.mask.hidden)
      tokens = jnp.take_along_axis(view.tokens, places, axis=1)
      patch_losses.append(
        losses.ibot(
          project(head_params, tokens),
          jnp.take_along_axis(target_tokens, places, axis=1),
          layer.rows(head_params[prototypes]),
          theirs,
          center,
          hidden=jnp.take_along_axis(view.mask.hidden, places[..., 0], axis=1),
          student_temperature=self.student_temperature,
          teacher_temperature=temperature,
        )
      )
    patch_loss = jnp.stack(patch_losses).mean()
    metrics = {"view_loss": loss, "patch_loss": patch_loss}
    carry = {**aux.carry, "patch_center": new_center}
    return loss + self.patch_weight * patch_loss, Aux(metrics, carry)

  def _places(self, hidden: Bool[Array, "b n"]) -> Int[Array, "b m 1"]:
    """Returns the hidden patches first; no crop hides more than m."""
    most = max(int(self.mask_ratio_max * hidden.shape[1]), 1)
    return jnp.argsort(~hidden, axis=1)[:, :most, None]
