"""MAE (He et al., CVPR 2022): reconstructs the pixels of hidden patches.

State: none. Stop-gradient: none. The backbone encodes visible patches only. In
the paper: 75% hidden, a decoder
of 8 blocks of width 512, crops of area 0.2 to 1 and flips, AdamW at 1.5e-4
b/256 with betas 0.9 and 0.95, decay 0.05, 40 epochs of warm-up, batch 4096, 800
epochs.

Paper: arXiv:2111.06377
"""

import dataclasses
from typing import Any

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float

from jssl.augment.masks import random_visible
from jssl.losses.rows import upcast
from jssl.models.decoder import Decoder
from jssl.models.tokens import Drop, Grid, Spec, patches
from jssl.objectives.base import Aux, Features, Objective, grid_of
from jssl.typing import Key, Keys, OpenFraction, Positive, Scalar

# Added to the variance of a patch, as in the official code.
_EPSILON = 1e-6


@dataclasses.dataclass(frozen=True, kw_only=True)
class MAE(Objective):
  """MAE; `objective.name="mae"` in a config.

  Attributes:
    mask_ratio: share of hidden patches; int(n (1 - mask_ratio)) are visible.
    normalize_patches: True to predict patches of zero mean and unit variance.
    decoder: predicts pixels from the tokens of visible patches and from the
      pooled feature, which is the class token with `model.pooling="cls"`.
    num_views: number of views, each reconstructed on its own.
  """

  mask_ratio: OpenFraction = 0.75
  normalize_patches: bool = True
  decoder: Decoder = Decoder()
  num_views: Positive[int] = 1
  uses_tokens = True
  uses_pixels = True
  heads = ()

  def init(self, key: Key, spec: Spec) -> tuple[dict, dict]:
    """Returns the parameters of the decoder; no state."""
    grid = grid_of(spec, self)
    if spec.feature_dim != grid.width:
      raise ValueError(
        f"MAE needs features of the width of tokens, {grid.width}, not "
        f"{spec.feature_dim}: set model.expand_dim=0 and model.pooling to "
        '"cls" or "mean"'
      )
    self._visible(grid)
    pixels = spec.channels * grid.patch_size_px**2
    return {"decoder": self.decoder.init(key, grid, pixels)}, {}

  def _visible(self, grid: Grid) -> int:
    """Returns the number of visible patches."""
    visible = int(grid.patches * (1 - self.mask_ratio))
    if not 0 < visible < grid.patches:
      raise ValueError(
        f"objective.mask_ratio={self.mask_ratio} leaves {visible} of "
        f"{grid.patches} patches visible: expected at least one visible and "
        "one hidden; change it, model.patch_size_px or augment.crop_size_px"
      )
    return visible

  def hide(self, keys: Keys, grid: Grid) -> Drop:
    """Hides random patches of each view."""
    n, visible = grid.patches, self._visible(grid)
    shown, hidden = jax.vmap(lambda key: random_visible(key, n, visible))(keys)
    return Drop(shown, targets=hidden[:, None])

  def loss(
    self, head_params: dict, state: dict, features: Features, **unused: Any
  ) -> tuple[Scalar, Aux]:
    """Mean squared error of the pixels of hidden patches."""
    losses = []
    for view in features.large_views():
      x = patches(view.pixels, view.grid.patch_size_px)
      if self.normalize_patches:
        x = normalized(x)
      (hidden,) = jnp.moveaxis(view.mask.targets, 1, 0)
      x = jnp.take_along_axis(x, hidden[..., None], axis=1)
      y = self.decoder.apply(
        head_params["decoder"],
        view.tokens,
        view.mask,
        view.grid,
        x.shape[-1],
        prefix=view.pooled,
      )
      losses.append(jnp.mean((upcast(y[:, 0]) - x) ** 2))
    return jnp.stack(losses).mean(), Aux({}, state)


def normalized(x: Float[Array, "b n p"]) -> Float[Array, "b n p"]:
  """Returns patches of zero mean and unit (unbiased) variance."""
  centred = x - x.mean(axis=-1, keepdims=True)
  variance = x.var(axis=-1, ddof=1, keepdims=True)
  return centred / jnp.sqrt(variance + _EPSILON)
