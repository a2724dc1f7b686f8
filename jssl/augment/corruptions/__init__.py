"""The 15 common corruptions of Hendrycks & Dietterich at five severities.

Reference: "Benchmarking Neural Network Robustness to Common Corruptions and
Perturbations" (ICLR 2019, arXiv 1903.12261). Deviations from the authors' code
are in docs/augment.md.
"""

import difflib
from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp

from jssl.augment.corruptions import digital, lens, noise, parameters, weather
from jssl.pixels import check_range
from jssl.typing import Images, Key, Keys

SEVERITIES = (1, 2, 3, 4, 5)
SMALLEST_PX = 8
# Rounding of a crop may leave [0, 1].
_TOLERANCE = 1e-3


def draw_nothing(key: Key, image: Any, c: Any) -> tuple:
  """Returns no random numbers."""
  return ()


class Corruption(NamedTuple):
  """Random numbers of one image, and the change of the image by them.

  Attributes:
    apply: function of an image, its random numbers and parameters.
    draw: function of a key, an image and parameters.
  """

  apply: Callable[[Any, Any, Any], Any]
  draw: Callable[[Key, Any, Any], Any] = draw_nothing


CORRUPTIONS = {
  "gaussian_noise": Corruption(noise.gaussian_noise, noise.draw_normal),
  "shot_noise": Corruption(noise.shot_noise, noise.draw_photons),
  "impulse_noise": Corruption(noise.impulse_noise, noise.draw_impulses),
  "defocus_blur": Corruption(lens.defocus_blur),
  "glass_blur": Corruption(lens.glass_blur, lens.draw_offsets),
  "motion_blur": Corruption(lens.motion_blur, lens.draw_angle),
  "zoom_blur": Corruption(lens.zoom_blur),
  "snow": Corruption(weather.snow, weather.draw_flakes),
  "frost": Corruption(weather.frost, weather.draw_plasma),
  "fog": Corruption(weather.fog, weather.draw_plasma),
  "brightness": Corruption(weather.brightness),
  "contrast": Corruption(digital.contrast),
  "elastic_transform": Corruption(digital.elastic_transform, digital.draw_warp),
  "pixelate": Corruption(digital.pixelate),
  "jpeg_compression": Corruption(digital.jpeg_compression),
}


def corrupt(name: str, severity: int, keys: Keys, images: Images) -> Images:
  """Corrupts each image with its own key.

  Images whose shorter side has at most 84 px take the parameters of CIFAR-10-C,
  larger ones those of ImageNet-C. A corrupted image depends only on the image
  and its key, not on the batch or the mesh.

  Example:
    >>> import jax
    >>> keys = jax.random.split(jax.random.key(0), 8)
    >>> corrupt("fog", 3, keys, np.full((8, 32, 32, 3), 0.5)).shape
    (8, 32, 32, 3)

  Args:
    name: one of `CORRUPTIONS`; static under `jax.jit`.
    severity: 1 to 5; static under `jax.jit`.
    keys: one threefry key per image.
    images: pixels in [0, 1], of 1 or 3 channels and at least 8 px.

  Returns:
    Images in [0, 1] of the same shape, float32 or wider.

  Raises:
    ValueError: if the name, the severity, the shape, the number of keys or, in
      an array that is not traced, the range is another one.
    TypeError: if images are not floats.
  """
  if name not in CORRUPTIONS:
    close = difflib.get_close_matches(str(name), CORRUPTIONS, n=1)
    known = ", ".join(CORRUPTIONS)
    hint = f"did you mean {close[0]!r}?" if close else f"known: {known}"
    raise ValueError(f"no corruption {name!r}; {hint}")
  if severity not in SEVERITIES:
    raise ValueError(f"severity={severity!r}: expected 1, 2, 3, 4 or 5")
  _check_images(keys, images)
  images = images.astype(jnp.promote_types(images.dtype, jnp.float32))
  _, height, width, _ = images.shape
  c = parameters.of(name, severity, height=height, width=width)
  corruption = CORRUPTIONS[name]

  def one(key: Key, image: Any) -> Any:
    changed = corruption.apply(image, corruption.draw(key, image, c), c)
    return changed.clip(0, 1)

  return jax.vmap(one)(keys, images.clip(0, 1))


def _check_images(keys: Keys, images: Images) -> None:
  """Raises an error unless there is a key for each image in [0, 1]."""
  if not jnp.issubdtype(images.dtype, jnp.floating):
    raise TypeError(
      f"images of {images.dtype}: expected floats in [0, 1]; divide uint8 by "
      "255"
    )
  shape = list(images.shape)
  if (
    images.ndim != 4
    or images.shape[-1] not in (1, 3)
    or min(images.shape[1:3]) < SMALLEST_PX
  ):
    raise ValueError(
      f"images of shape {shape}: expected [b, h, w, c] with h and w of at "
      f"least {SMALLEST_PX} and c of 1 or 3"
    )
  if keys.shape != images.shape[:1]:
    raise ValueError(
      f"keys of shape {list(keys.shape)} for images of shape {shape}: expected "
      "one key per image"
    )
  check_range(images, tolerance=_TOLERANCE)
