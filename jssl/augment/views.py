"""Views of a batch: all operations in SimCLR's order, by one set of numbers.

SimCLR, arXiv 2002.05709, appendix A; solarisation as in BYOL, 2006.07733.
"""

import dataclasses
from functools import partial

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float

from jssl import rng
from jssl.augment import blur, colour, crop, solarize
from jssl.typing import Images, Keys, Pixels, Views


@dataclasses.dataclass(frozen=True)
class Augment:
  """How views are made; what has probability 0 is not computed.

  Attributes:
    crop_size_px: height and width of a view.
    crop_min_area: smallest share of the image that a view shows.
    crop_max_area: largest share.
    crop_ratio_min: smallest width / height of the crop in the image.
    crop_ratio_max: largest.
    flip_probability: of swapping left and right.
    jitter_probability: of the four colour changes together.
    brightness: its factor is uniform in [max(0, 1 - it), 1 + it]; 0 is off.
    contrast: likewise.
    saturation: likewise.
    hue: the hue turns by a uniform part in [-it, it] of the circle.
    grayscale_probability: of dropping the colour.
    blur_probability: of the Gaussian blur.
    blur_kernel_px: odd length of its kernel.
    blur_sigma_min: smallest standard deviation, px of the view.
    blur_sigma_max: largest.
    solarize_probability: of inverting bright pixels.
    solarize_threshold: the value from which pixels are bright.

  Raises:
    ValueError: a number is outside its range; the message names it.
  """

  crop_size_px: int
  crop_min_area: float
  crop_max_area: float = 1.0
  crop_ratio_min: float = 3 / 4
  crop_ratio_max: float = 4 / 3
  flip_probability: float = 0.0
  jitter_probability: float = 0.0
  brightness: float = 0.0
  contrast: float = 0.0
  saturation: float = 0.0
  hue: float = 0.0
  grayscale_probability: float = 0.0
  blur_probability: float = 0.0
  blur_kernel_px: int = 3
  blur_sigma_min: float = 0.1
  blur_sigma_max: float = 2.0
  solarize_probability: float = 0.0
  solarize_threshold: float = 0.5

  def __post_init__(self) -> None:
    for name, value in dataclasses.asdict(self).items():
      if name.endswith("_probability"):
        _check(0 <= value <= 1, name, value, "in [0, 1]")
    for name in ("brightness", "contrast", "saturation"):
      value = getattr(self, name)
      _check(value >= 0, name, value, "at least 0")
    _check(0 <= self.hue <= 0.5, "hue", self.hue, "in [0, 0.5]")
    _check(self.crop_size_px > 0, "crop_size_px", self.crop_size_px, "positive")
    _check(
      0 < self.crop_min_area <= self.crop_max_area,
      "crop_min_area",
      self.crop_min_area,
      f"in (0, augment.crop_max_area={self.crop_max_area}]",
    )
    _check(
      self.crop_max_area <= 1,
      "crop_max_area",
      self.crop_max_area,
      "at most 1",
    )
    _check(
      0 < self.crop_ratio_min <= self.crop_ratio_max,
      "crop_ratio_min",
      self.crop_ratio_min,
      f"in (0, augment.crop_ratio_max={self.crop_ratio_max}]",
    )
    _check(
      self.blur_kernel_px % 2 == 1
      and 0 < self.blur_kernel_px < 2 * self.crop_size_px,
      "blur_kernel_px",
      self.blur_kernel_px,
      "odd, positive and less than twice "
      f"augment.crop_size_px={self.crop_size_px}",
    )
    _check(
      0 < self.blur_sigma_min <= self.blur_sigma_max,
      "blur_sigma_min",
      self.blur_sigma_min,
      f"in (0, augment.blur_sigma_max={self.blur_sigma_max}]",
    )
    _check(
      0 <= self.solarize_threshold <= 1,
      "solarize_threshold",
      self.solarize_threshold,
      "in [0, 1]",
    )


def _check(valid: bool, name: str, value: float, expected: str) -> None:
  if not valid:
    raise ValueError(f"augment.{name}={value} must be {expected}")


def _unit_interval(pixels: Pixels) -> Images:
  if (
    pixels.dtype != jnp.uint8
    or pixels.ndim != 4
    or pixels.shape[-1] not in (1, 3)
  ):
    raise TypeError(
      "images must be uint8 [b, h, w, c] with c 1 or 3, as data gives them, "
      f"not {pixels.dtype} {list(pixels.shape)}"
    )
  return jnp.asarray(pixels).astype(float) / 255


def _view(augment: Augment, keys: Keys, images: Images) -> Images:
  """Returns one view of each image."""
  # Key i of a split does not depend on how many follow, so an operation that
  # is added at the end leaves the draws of the others as they are.
  keys = jax.vmap(partial(jax.random.split, num=6))(keys)
  crop_keys, flip_keys, jitter_keys, gray_keys, blur_keys, solarize_keys = (
    keys[:, i] for i in range(6)
  )
  _, height, width, channels = images.shape
  boxes = crop.random_boxes(
    crop_keys,
    height=height,
    width=width,
    min_area=augment.crop_min_area,
    max_area=augment.crop_max_area,
    min_ratio=augment.crop_ratio_min,
    max_ratio=augment.crop_ratio_max,
  )
  flip = jnp.zeros(len(images), bool)
  if augment.flip_probability:
    flip = jax.vmap(
      lambda key: jax.random.bernoulli(key, augment.flip_probability)
    )(flip_keys)
  images = crop.crop_and_resize(
    boxes, images, size_px=augment.crop_size_px, flip=flip
  )
  if augment.jitter_probability:
    images = colour.jitter(
      jitter_keys,
      images,
      probability=augment.jitter_probability,
      brightness=augment.brightness,
      contrast=augment.contrast,
      saturation=augment.saturation,
      hue=augment.hue,
    )
  if augment.grayscale_probability and channels == 3:
    images = colour.random_grayscale(
      gray_keys, images, probability=augment.grayscale_probability
    )
  if augment.blur_probability:
    images = blur.random_blur(
      blur_keys,
      images,
      probability=augment.blur_probability,
      kernel_px=augment.blur_kernel_px,
      min_sigma=augment.blur_sigma_min,
      max_sigma=augment.blur_sigma_max,
    )
  if augment.solarize_probability:
    images = solarize.random_solarize(
      solarize_keys,
      images,
      probability=augment.solarize_probability,
      threshold=augment.solarize_threshold,
    )
  return images


def views(
  augment: Augment, keys: Keys, images: Pixels, num_views: int = 2
) -> Views:
  """Returns `num_views` random views of each image.

  A view depends on its image, its key and its number only, not on the rest of
  the batch.

  Args:
    augment: the hyper-parameters, static under jit.
    keys: one for each image, [b].
    images: uint8 [b, h, w, c], c being 1 or 3.
    num_views: v.

  Returns:
    Pixels in [0, 1], [v, b, crop_size_px, crop_size_px, c].

  Raises:
    TypeError: the images are not uint8 [b, h, w, 1 or 3].
  """
  pixels = _unit_interval(images)

  def view(number: Array) -> Images:
    one = jax.vmap(lambda key: rng.stream(key, "view", number))(keys)
    return _view(augment, one, pixels)

  return jax.vmap(view)(jnp.arange(num_views))


def center_view(
  images: Pixels, *, crop_size_px: int
) -> Float[Array, "b crop_size_px crop_size_px c"]:
  """Returns the view that evaluation sees: no randomness.

  Args:
    images: uint8 [b, h, w, c].
    crop_size_px: height and width of the result.

  Raises:
    TypeError: the images are not uint8 [b, h, w, 1 or 3].
  """
  return crop.center_crop(_unit_interval(images), size_px=crop_size_px)
