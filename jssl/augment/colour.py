"""Colour jitter in random order, and grayscale.

The operations are torchvision's, on pixels in [0, 1]. Saturation and hue do not
change images of one channel. Of four channels the last, opacity, is kept. Each
of 2, 5 or more channels is changed as an image of its own, by the same factors;
they have neither saturation nor hue.

Inside, an image is [c, h, w]: operations between channels are then elementwise
over planes, which XLA vectorises on every backend.
"""

from collections.abc import Callable
from functools import partial

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float, Int

from jssl.typing import Images, Key, Keys, Scalar

STRENGTHS = ("brightness", "contrast", "saturation", "hue")

Planes = Float[Array, "c h w"]


def luminance(planes: Float[Array, "c *n"]) -> Float[Array, "*n"]:
  """Returns 0.2989 R + 0.587 G + 0.114 B, or the only channel."""
  if len(planes) == 1:
    return planes[0]
  red, green, blue = planes
  return 0.2989 * red + 0.587 * green + 0.114 * blue


def blend(
  planes: Planes, other: Float[Array, "h w"], factor: Scalar | float
) -> Planes:
  """Returns `factor * planes + (1 - factor) * other`, clipped to [0, 1]."""
  return jnp.clip(factor * planes + ((1 - factor) * other)[None], 0, 1)


def shift_hue(planes: Planes, shift: Scalar | float) -> Planes:
  """Rotates the hue of each pixel by `shift` turns; keeps value and chroma."""
  red, green, blue = planes
  value = planes.max(axis=0)
  chroma = value - planes.min(axis=0)
  # Hue in sixths of a turn: side of the colour hexagon and position on it.
  side, place = (
    jnp.where(value == red, r, jnp.where(value == green, g, b))
    for r, g, b in (
      (0.0, 2.0, 4.0),
      (green - blue, blue - red, red - green),
    )
  )
  hue = side + place / jnp.where(chroma == 0, 1, chroma) + 6 * shift
  angle = hue[None] + jnp.array([5.0, 3.0, 1.0])[:, None, None]
  # On CPU, XLA's remainder is 20 times slower.
  angle -= 6 * jnp.floor(angle / 6)
  fall = jnp.clip(jnp.minimum(angle, 4 - angle), 0, 1)
  return value[None] - chroma[None] * fall


def jitter_in_order(
  planes: Planes,
  slots: dict[str, Int[Array, ""]],
  factors: dict[str, Scalar | float],
) -> Planes:
  """Applies the operations in the order of their slots 0, 1, ..., by name.

  Blends share a loop. Hue costs more than all blends, so it runs once, between
  two loops over the blends before and after it.
  """
  hue_slot = slots.get("hue")
  slots = {name: slot for name, slot in slots.items() if name != "hue"}
  last = len(slots)

  def blend_slot(now: Int[Array, ""], planes: Planes, late: bool) -> Planes:
    gray = luminance(planes)
    others = {
      "brightness": jnp.zeros_like(gray),
      "contrast": jnp.full_like(gray, gray.mean()),
      "saturation": gray,
    }
    other, factor = gray, jnp.ones_like(gray.mean())
    for name, slot in slots.items():
      mine = slot == now
      if hue_slot is not None:
        mine &= (slot > hue_slot) == late
      other = jnp.where(mine, others[name], other)
      factor = jnp.where(mine, factors[name], factor)
    return blend(planes, other, factor)

  early, late = partial(blend_slot, late=False), partial(blend_slot, late=True)
  planes = jax.lax.fori_loop(0, last, early, planes)
  if hue_slot is None:
    return planes
  planes = shift_hue(planes, factors["hue"])
  return jax.lax.fori_loop(1, last + 1, late, planes)


def _jitter(
  key: Key, planes: Planes, *, probability: float, ranges: dict
) -> Planes:
  low, high = jnp.array(list(ranges.values())).T
  drawn = jax.random.uniform(key, (3 * len(ranges),))
  chance, order, place = drawn.reshape(3, -1)
  jittered = jitter_in_order(
    planes,
    # Ranks of independent draws: all orders are equally likely.
    slots=dict(zip(ranges, jnp.argsort(order), strict=True)),
    factors=dict(zip(ranges, low + (high - low) * place, strict=True)),
  )
  return jnp.where(chance[0] < probability, jittered, planes)


def keep_opacity(change: Callable[[Images], Images], images: Images) -> Images:
  """Applies a change of colours; keeps the last of four channels."""
  if images.shape[-1] != 4:
    return change(images)
  return jnp.concatenate([change(images[..., :3]), images[..., 3:]], axis=-1)


def jitter(
  keys: Keys, images: Images, *, probability: float, **strengths: float
) -> Images:
  """Changes brightness, contrast, saturation and hue in a random order.

  Factors are uniform in [max(0, 1 - s), 1 + s] for strength s, and the hue
  shift is uniform in [-s, s] turns; strength 0 turns an operation off. An image
  changes with `probability`. All `STRENGTHS` must be given.
  """
  ranges = {}
  has_colours = images.shape[-1] in (3, 4)
  for name in STRENGTHS if has_colours else STRENGTHS[:2]:
    if s := strengths[name]:
      ranges[name] = (-s, s) if name == "hue" else (max(0.0, 1 - s), 1 + s)
  if not ranges:
    return images

  def change(images: Images) -> Images:
    draw = partial(_jitter, probability=probability, ranges=ranges)
    if not has_colours:
      each = jax.vmap(draw, (None, 0))  # Every channel has its own contrast.
      planes = jnp.moveaxis(images, 3, 1)[:, :, None]
      return jnp.moveaxis(jax.vmap(each)(keys, planes)[:, :, 0], 1, 3)
    return jnp.moveaxis(jax.vmap(draw)(keys, jnp.moveaxis(images, 3, 1)), 1, 3)

  return keep_opacity(change, images)


def grayscale(images: Images) -> Images:
  """Replaces all channels by the luminance."""
  if images.shape[-1] == 4:
    return keep_opacity(grayscale, images)
  gray = luminance(jnp.moveaxis(images, 3, 0))
  return jnp.broadcast_to(gray[..., None], images.shape)
