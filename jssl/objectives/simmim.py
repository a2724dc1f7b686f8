"""SimMIM (Xie et al., CVPR 2022): predicts hidden pixels by a linear layer.

State: none. Stop-gradient: none. The backbone sees a mask token in place of
hidden patches. In the paper: units of 32 px, 60% hidden, crops of area 0.67 to
1 and flips, AdamW at 1e-4 b/512, decay 0.05, clipping at 5, batch 2048, 800
epochs.

Paper: arXiv:2111.09886
"""

import dataclasses
import math
from typing import Any

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float

from jssl.augment.masks import random_units
from jssl.models.tokens import Grid, Replace, Spec, patches
from jssl.objectives.base import Aux, Features, Objective, grid_of
from jssl.typing import Key, Keys, OpenFraction, Positive, Scalar


@dataclasses.dataclass(frozen=True, kw_only=True)
class SimMIM(Objective):
  """SimMIM; `objective.name="simmim"` in a config.

  Attributes:
    mask_ratio: share of hidden units, rounded up.
    mask_unit_px: side of a unit, which is hidden as a whole; a multiple of
      `model.patch_size_px`.
    num_views: number of views, each reconstructed on its own.
  """

  mask_ratio: OpenFraction = 0.6
  mask_unit_px: Positive[int] = 32
  num_views: Positive[int] = 1
  uses_tokens = True
  uses_pixels = True
  uses_mask_token = True
  heads = ()

  def init(self, key: Key, spec: Spec) -> tuple[dict, dict]:
    """Returns the linear layer [w, pixels of a patch]; no state."""
    grid = grid_of(spec, self)
    self._check(grid)
    shape = (grid.width, spec.channels * grid.patch_size_px**2)
    kernel = jax.nn.initializers.lecun_normal()(key, shape)
    return {"linear": {"kernel": kernel, "bias": jnp.zeros(shape[1])}}, {}

  def _check(self, grid: Grid) -> None:
    """Raises ValueError if units do not fit the grid, or all are hidden."""
    size = grid.patch_size_px
    sides = grid.rows * size, grid.columns * size
    if any(side % self.mask_unit_px for side in sides):
      raise ValueError(
        f"objective.mask_unit_px={self.mask_unit_px} must divide the views of "
        f"{sides[0]} x {sides[1]} px (augment.crop_size_px)"
      )
    if self.mask_unit_px % size:
      raise ValueError(
        f"objective.mask_unit_px={self.mask_unit_px} must be a multiple of "
        f"model.patch_size_px={size}"
      )
    units = math.prod(side // self.mask_unit_px for side in sides)
    if math.ceil(self.mask_ratio * units) == units:
      raise ValueError(
        f"objective.mask_ratio={self.mask_ratio} hides all {units} units of "
        f"objective.mask_unit_px={self.mask_unit_px}; lower one of them"
      )

  def hide(self, keys: Keys, grid: Grid) -> Replace:
    """Hides random units of each view."""
    self._check(grid)
    unit = self.mask_unit_px // grid.patch_size_px
    hidden = jax.vmap(
      lambda key: random_units(
        key, (grid.rows, grid.columns), self.mask_ratio, unit
      )
    )(keys)
    return Replace(hidden.reshape(len(keys), -1))

  def loss(
    self, head_params: dict, state: dict, features: Features, **unused: Any
  ) -> tuple[Scalar, Aux]:
    """Mean absolute error of the pixels of hidden patches."""
    linear, losses = head_params["linear"], []
    for view in features.large_views():
      x = patches(view.pixels, view.grid.patch_size_px)
      x = _channel_first(x, view.pixels.shape[-1])
      y = view.tokens @ linear["kernel"] + linear["bias"][None, None]
      # All images hide equally many patches.
      hidden = view.mask.hidden[..., None]
      losses.append(jnp.mean(jnp.abs(y - x), where=hidden))
    return jnp.stack(losses).mean(), Aux({}, state)


def _channel_first(
  x: Float[Array, "b n p"], channels: int
) -> Float[Array, "b n p"]:
  """Reorders the pixels of patches for the official pixel shuffle."""
  pixels = x.reshape(*x.shape[:2], -1, channels)
  return pixels.swapaxes(2, 3).reshape(x.shape)
