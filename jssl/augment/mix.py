"""Mixup (Zhang et al., ICLR 2018) and cutmix (Yun et al., ICCV 2019)."""

from functools import partial

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float
from scipy.special import betaincinv

from jssl import rng
from jssl.augment import crop
from jssl.augment.views import Augment
from jssl.typing import Key, Keys, Scalar, Views

_NODES = 1024


def _beta_quantile(alpha: float, p: Scalar) -> Scalar:
  """Returns a quantile of Beta(alpha, alpha), by a table.

  `jax.random.beta` rejects samples in a loop, which on a mesh would wait for
  all devices in each iteration.
  """
  nodes = jnp.asarray(betaincinv(alpha, alpha, np.linspace(0, 1, _NODES + 1)))
  below = jnp.minimum((p * _NODES).astype(int), _NODES - 1)
  return nodes[below] + (p * _NODES - below) * jnp.diff(nodes)[below]


def _own_shares(
  key: Key, augment: Augment, height: int, width: int
) -> tuple[Float[Array, "h w"], Float[Array, ""]]:
  """Draws the share of an image in each pixel of a mix, and its mean."""
  cuts = augment.cutmix_probability
  if not (augment.mixup_alpha and augment.cutmix_alpha):
    cuts = float(augment.cutmix_alpha > 0)
  kind_key, share_key, *place_keys = jax.random.split(key, 4)
  cut = jax.random.bernoulli(kind_key, cuts)
  place = jax.random.uniform(share_key)
  by_mixup, by_cutmix = (
    _beta_quantile(alpha or 1.0, place)
    for alpha in (augment.mixup_alpha, augment.cutmix_alpha)
  )
  share = jnp.where(cut, by_cutmix, by_mixup)
  # The box of timm: its centre is anywhere, and borders cut it off.
  edges = []
  for side, place_key in zip((height, width), place_keys, strict=True):
    half = jnp.floor(side * jnp.sqrt(1 - share)).astype(int) // 2
    centre = jax.random.randint(place_key, (), 0, side)
    edges.append(jnp.clip(jnp.stack([centre - half, centre + half]), 0, side))
  (top, bottom), (left, right) = edges
  box = crop.Boxes(top, left, bottom - top, right - left)
  # Exact area instead of the drawn one, as borders cut boxes off.
  outside = 1 - box.height * box.width / (height * width)
  shares = jnp.where(cut, ~crop.inside(box, height, width), share)
  return shares, jnp.where(cut, outside, share)


def mix(
  augment: Augment, keys: Keys, views: Views, partners: Views
) -> tuple[Views, Float[Array, "v b"]]:
  """Mixes each view with that of a partner, by mixup or cutmix.

      mixup:  x = w own + (1 - w) partner,   w ~ Beta(alpha, alpha)
      cutmix: x = partner in a box of area 1 - w, own outside

  Each view has its own draw, from the key of its image ("elem" in timm). With
  both alphas positive, cutmix has probability `augment.cutmix_probability`.

  Example:
    >>> import jax
    >>> augment = Augment(crop_size_px=8, crop_min_area=1.0, cutmix_alpha=1.0)
    >>> keys = jax.random.split(jax.random.key(0), 4)
    >>> own = jax.numpy.ones((1, 4, 8, 8, 3))
    >>> mixed, weight = mix(augment, keys, own, 0 * own)
    >>> bool(jax.numpy.allclose(mixed.mean((2, 3, 4)), weight))
    True

  Args:
    augment: `mixup_alpha`, `cutmix_alpha` and `cutmix_probability`, static.
    keys: one key per image, [b].
    views: views of the images.
    partners: views of the partners, such as the batch in reverse order.

  Returns:
    Mixed views, and the weight of the own label; that of the partner is one
    minus it.
  """
  number, _, height, width, _ = views.shape
  draw = partial(_own_shares, augment=augment, height=height, width=width)

  def one_view(index: Array) -> tuple[Array, Array]:
    own = jax.vmap(lambda key: rng.stream(key, "mix", index))(keys)
    return jax.vmap(draw)(own)

  shares, weight = jax.vmap(one_view)(jnp.arange(number))
  shares = shares[..., None].astype(views.dtype)
  return shares * views + (1 - shares) * partners, weight
