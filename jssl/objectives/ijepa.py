"""I-JEPA (Assran et al., CVPR 2023): predicts the teacher's patch tokens.

State: none. Stop-gradient: the teacher, whose tokens are normalised. The
backbone encodes a context block, and a predictor the tokens of target blocks
from it. In the paper: ViT-H/14 without class token, 4 targets, predictor of 12
blocks of width 384, crops of area 0.3 to 1 only, AdamW at 1e-3 with 40 epochs
of warm-up, decay 0.04 to 0.4, linear momentum 0.996 to 1, batch 2048, 300
epochs.

Paper: arXiv:2301.08243
"""

import dataclasses
from typing import Annotated, Any

import jax
import jax.numpy as jnp
import optax

from jssl import schedules
from jssl.augment import masks
from jssl.losses.rows import upcast
from jssl.models.decoder import Decoder
from jssl.models.tokens import Drop, Grid, Spec
from jssl.models.vit_layers import standardized
from jssl.objectives.base import Aux, Features, grid_of
from jssl.objectives.momentum import TeacherObjective
from jssl.typing import (
  Fraction,
  Interval,
  Key,
  Keys,
  NonNegative,
  Positive,
  Scalar,
  Step,
)

# That of `torch.nn.functional.layer_norm`.
_EPSILON = 1e-5
_Share = Annotated[float, Interval(0, 1, low_open=True)]


@dataclasses.dataclass(frozen=True, kw_only=True)
class IJEPA(TeacherObjective):
  """I-JEPA; `objective.name="ijepa"` in a config.

  Every image has its own block sizes, and the context a static length; the
  official code draws sizes per step, and cuts contexts to the shortest on a
  device, which for 128 images is at the median 26% of the patches.

  Attributes:
    context_share: length of the context as share of all patches; a longer
      context is cut, a shorter one padded.
    num_targets: number of target blocks.
    target_area_min: smallest area of a target, as share of the grid.
    target_area_max: largest area of a target.
    target_aspect_min: smallest height / width of a target.
    target_aspect_max: largest height / width of a target.
    context_area_min: smallest area of the context block, before the targets are
      removed.
    min_context: number of patches that a context must exceed.
    predictor: predicts the tokens of each target from those of the context.
    num_views: number of views, each predicted on its own.
  """

  context_share: _Share = 0.26
  num_targets: Positive[int] = 4
  target_area_min: _Share = 0.15
  target_area_max: _Share = 0.2
  target_aspect_min: Positive[float] = 0.75
  target_aspect_max: Positive[float] = 1.5
  context_area_min: _Share = 0.85
  min_context: NonNegative[int] = 10
  predictor: Decoder = Decoder(384, 12, 12)
  momentum_start: Fraction = 0.996
  num_views: Positive[int] = 1
  uses_tokens = True
  heads = ()

  def __post_init__(self) -> None:
    super().__post_init__()
    for name in ("target_area", "target_aspect"):
      low, high = getattr(self, f"{name}_min"), getattr(self, f"{name}_max")
      if low > high:
        raise ValueError(
          f"objective.{name}_min={low} must be at most "
          f"objective.{name}_max={high}"
        )

  def teacher_momentum(self, step: Step) -> Scalar | float:
    """Returns the momentum of the averaged backbone, linear in the step."""
    if not self.total_steps:
      return super().teacher_momentum(step)
    return schedules.warmup_constant(
      self.momentum_start, self.momentum_end, warmup_steps=self.total_steps
    )(step)

  def init(self, key: Key, spec: Spec) -> tuple[dict, dict]:
    """Returns the parameters of the predictor; no state."""
    grid = grid_of(spec, self)
    self._check(grid)
    return {"predictor": self.predictor.init(key, grid, grid.width)}, {}

  def _check(self, grid: Grid) -> None:
    """Raises ValueError if context and targets do not fit the grid."""
    smallest = int(grid.patches * self.target_area_min)
    block = int(grid.patches * self.context_area_min)
    if not smallest:
      raise ValueError(
        f"objective.target_area_min={self.target_area_min} of {grid.patches} "
        "patches is less than one patch; raise it"
      )
    if self.num_targets * smallest + self.min_context > block:
      raise ValueError(
        f"objective.num_targets={self.num_targets} blocks of {smallest} "
        f"patches (objective.target_area_min={self.target_area_min}) and a "
        f"context of more than objective.min_context={self.min_context} do not "
        f"fit into the {block} patches of a context block "
        f"(objective.context_area_min={self.context_area_min})"
      )

  def hide(self, keys: Keys, grid: Grid) -> Drop:
    """Draws the context and the targets of each view."""
    self._check(grid)
    length = max(round(self.context_share * grid.patches), self.min_context + 1)
    drawn = jax.vmap(
      lambda key: masks.multi_block(
        key,
        (grid.rows, grid.columns),
        length,
        num_targets=self.num_targets,
        target_area=(self.target_area_min, self.target_area_max),
        target_aspect=(self.target_aspect_min, self.target_aspect_max),
        context_area=(self.context_area_min, 1.0),
        min_context=self.min_context,
      )
    )(keys)
    return Drop(*drawn)

  def loss(
    self, head_params: dict, state: dict, features: Features, **unused: Any
  ) -> tuple[Scalar, Aux]:
    """Smooth L1 distance to the teacher's tokens, of the target blocks."""
    losses = []
    for view in features.large_views():
      y = self.predictor.apply(
        head_params["predictor"],
        view.tokens,
        view.mask,
        view.grid,
        view.grid.width,
      )
      b, m, t, w = y.shape
      places = view.mask.targets.reshape(b, m * t, 1)
      tokens = standardized(view.teacher.reshape(-1, w), _EPSILON)
      tokens = jax.lax.stop_gradient(tokens.reshape(b, -1, w))
      target = jnp.take_along_axis(tokens, places, axis=1)
      y = upcast(y).reshape(b, m * t, w)
      distance = optax.losses.huber_loss(y, target)
      valid = view.mask.targets_valid.reshape(b, m * t)
      by_image = jnp.mean(distance.mean(-1), axis=1, where=valid)
      losses.append(by_image.mean())
    return jnp.stack(losses).mean(), Aux({}, state)
