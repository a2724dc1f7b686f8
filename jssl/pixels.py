"""Values of stored pixels: as floats in [0, 1], and as pictures to look at."""

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float, Num, UInt8

from jssl.typing import Pixels

# Rounding of a resize or of bfloat16 may leave [0, 1].
_TOLERANCE = 1e-2
# Percentiles that are black and white in a picture.
_SHOWN_PERCENTILES = (2, 98)


def to_unit_interval(
  images: Num[Array | np.ndarray, "*n"],
) -> Float[Array, "*n"]:
  """Returns uint8 divided by 255, uint16 by 65,535, and floats as they are.

  Every image on a device gets its floats here.

  Raises:
    TypeError: if images have another dtype.
  """
  if images.dtype in (jnp.uint8, jnp.uint16):
    return jnp.asarray(images).astype(float) / np.iinfo(images.dtype).max
  if not jnp.issubdtype(images.dtype, jnp.floating):
    raise TypeError(
      f"images of dtype {images.dtype}: expected uint8, uint16 or floats in "
      "[0, 1]"
    )
  return jnp.asarray(images)


def check_range(images: Pixels, *, tolerance: float = _TOLERANCE) -> None:
  """Raises ValueError if floats are not in [0, 1]; ignores traced arrays."""
  floats = jnp.issubdtype(images.dtype, jnp.floating)
  if floats and images.size and not isinstance(images, jax.core.Tracer):
    low, high = float(images.min()), float(images.max())
    if not (low >= -tolerance and high <= 1 + tolerance):
      raise ValueError(
        f"image values from {low:.3g} to {high:.3g}: expected floats in "
        "[0, 1], not standardised, or uint8 or uint16"
      )


def to_picture(
  images: Pixels, stored: Pixels | None = None
) -> UInt8[np.ndarray, "b h w _c"]:
  """Returns images with 1, 3 or 4 channels of 8 bits, for people.

  Stored images of uint8 with 1, 3 or 4 channels keep their values. Of all
  others the first three channels are shown, or the first of two; each is
  scaled so that its 2nd percentile over the stored images is black and the
  98th is white.

  Args:
    images: images or their views.
    stored: stored images that `images` are views of; None for `images`.
  """
  stored = images if stored is None else stored
  x = np.asarray(to_unit_interval(images))
  if stored.dtype != np.uint8 or stored.shape[-1] not in (1, 3, 4):
    shown = 3 if x.shape[-1] >= 3 else 1
    of = np.asarray(to_unit_interval(stored))[..., :shown]
    low, high = np.percentile(of, _SHOWN_PERCENTILES, axis=(0, 1, 2))
    x = (x[..., :shown] - low) / np.maximum(high - low, 1e-6)
  return np.rint(255 * np.clip(x, 0, 1)).astype(np.uint8)
