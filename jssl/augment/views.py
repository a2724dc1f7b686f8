"""Views of a batch of images: hyper-parameters and order of operations.

Operations follow SimCLR, arXiv 2002.05709, appendix A; solarisation BYOL,
2006.07733; small crops SwAV, 2006.09882, and DINO, 2104.14294.
"""

import dataclasses
import itertools
import math
import sys
from functools import partial

import jax
import jax.numpy as jnp
from jaxtyping import Array, Bool, Float

from jssl import rng
from jssl.augment import blur, colour, crop
from jssl.typing import Images, Keys, Pixels, Scalar, Views

# Fields with one probability per large view.
_PER_VIEW = ("blur_probability", "solarize_probability")
_NOT_NEGATIVE = ("brightness", "contrast", "saturation", "num_small")
# Ends of ranges of positive numbers, and the largest allowed number.
_RANGES = (
  ("crop_min_area", "crop_max_area", 1),
  ("small_crop_min_area", "small_crop_max_area", 1),
  ("crop_ratio_min", "crop_ratio_max", sys.float_info.max),
  ("blur_sigma_min", "blur_sigma_max", sys.float_info.max),
)


@dataclasses.dataclass(frozen=True)
class Augment:
  """Hyper-parameters of random views; operations of probability 0 are skipped.

  BYOL's two views have `blur_probability=(1.0, 0.1)` and
  `solarize_probability=(0.0, 0.2)`. Small crops have their own size, area and
  blur probability, are never solarised, and share all other fields.

  Attributes:
    crop_size_px: height and width of a large view.
    crop_min_area: smallest crop area, as a share of the image.
    crop_max_area: largest crop area.
    crop_ratio_min: smallest width / height of the crop.
    crop_ratio_max: largest width / height of the crop.
    flip_probability: probability of a horizontal flip.
    jitter_probability: probability of colour jitter as a whole.
    brightness: s for a factor uniform in [max(0, 1 - s), 1 + s]; 0: off.
    contrast: as for brightness.
    saturation: as for brightness.
    hue: s for a hue shift uniform in [-s, s] turns; 0: off.
    grayscale_probability: probability of dropping the colour.
    blur_probability: probability of Gaussian blur; one for all large views, or
      one for each.
    blur_kernel_px: odd length of the blur kernel.
    blur_sigma_min: smallest standard deviation, in pixels of the view.
    blur_sigma_max: largest standard deviation.
    solarize_probability: probability of inverting bright pixels; one for all
      large views, or one for each.
    solarize_threshold: smallest pixel value to invert.
    num_small: number of small crops of each image.
    small_crop_size_px: height and width of a small crop.
    small_crop_min_area: smallest area of a small crop.
    small_crop_max_area: largest area of a small crop.
    small_blur_probability: probability of blurring a small crop.

  Raises:
    ValueError: if a value is out of range; the message names its config key.
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
  blur_probability: tuple[float, ...] = (0.0,)
  blur_kernel_px: int = 3
  blur_sigma_min: float = 0.1
  blur_sigma_max: float = 2.0
  solarize_probability: tuple[float, ...] = (0.0,)
  solarize_threshold: float = 0.5
  num_small: int = 0
  small_crop_size_px: int = 0
  small_crop_min_area: float = 0.05
  small_crop_max_area: float = 0.25
  small_blur_probability: float = 0.5

  def __post_init__(self) -> None:
    values = dataclasses.asdict(self)

    def check(name: str, valid: object, expected: str) -> None:
      if not valid:
        raise ValueError(f"augment.{name}={values[name]!r} must be {expected}")

    for name, value in values.items():
      if name in _PER_VIEW:
        is_filled = isinstance(value, tuple) and len(value)
        valid = is_filled and all(0 <= p <= 1 for p in value)
        expected = (
          "a tuple of numbers in [0, 1]: one for all large views, such "
        )
        check(name, valid, f"{expected}as (0.5,), or one for each")
      elif name.endswith(("_probability", "_threshold")):
        check(name, 0 <= value <= 1, "in [0, 1]")
      elif name in _NOT_NEGATIVE:
        check(name, 0 <= value < math.inf, "finite and at least 0")
    check("hue", 0 <= self.hue <= 0.5, "in [0, 0.5]")
    check("crop_size_px", self.crop_size_px > 0, "positive")
    for low, high, limit in _RANGES:
      end = values[high]
      check(low, 0 < values[low] <= end, f"in (0, augment.{high}={end}]")
      check(high, end <= limit, f"at most {limit:g}")
    kernel = self.blur_kernel_px
    check("blur_kernel_px", kernel > 0 and kernel % 2, "odd and positive")
    blurred = {"crop_size_px": any(self.blur_probability)}
    if self.num_small:
      check(
        "small_crop_size_px",
        0 < self.small_crop_size_px <= self.crop_size_px,
        f"positive and at most augment.crop_size_px={self.crop_size_px}, as "
        f"augment.num_small={self.num_small}",
      )
      blurred["small_crop_size_px"] = bool(self.small_blur_probability)
    for size, blurs in blurred.items():
      expected = (
        f"less than twice augment.{size}={values[size]}, of blurred views"
      )
      check("blur_kernel_px", not blurs or kernel < 2 * values[size], expected)

  def of_large_views(self, num_views: int) -> "Augment":
    """Returns a copy for large views only; cycles probabilities per view."""
    blurs, solarizes = (
      tuple(itertools.islice(itertools.cycle(values), num_views))
      for values in (self.blur_probability, self.solarize_probability)
    )
    return dataclasses.replace(
      self, blur_probability=blurs, solarize_probability=solarizes, num_small=0
    )


def _unit_interval(pixels: Pixels) -> Images:
  if (
    pixels.dtype != jnp.uint8
    or pixels.ndim != 4
    or pixels.shape[-1] not in (1, 3)
  ):
    raise TypeError(
      "images must be uint8 [b, h, w, c] with c = 1 or 3, "
      f"not {pixels.dtype} {list(pixels.shape)}"
    )
  return jnp.asarray(pixels).astype(float) / 255


def _chosen(keys: Keys, probability: Scalar | float) -> Bool[Array, "b"]:
  """Chooses each image with a probability."""
  return jax.vmap(lambda key: jax.random.bernoulli(key, probability))(keys)


def _view(
  augment: Augment,
  keys: Keys,
  images: Images,
  *,
  blur_probability: Scalar,
  solarize_probability: Scalar,
) -> Float[Array, "b {augment.crop_size_px} {augment.crop_size_px} c"]:
  """Returns one view of each image; all views run the same operations."""
  # Key i of a split does not depend on the number of keys: an operation added
  # at the end does not change the draws of the others.
  keys = jax.vmap(partial(jax.random.split, num=6))(keys)
  crop_keys, flip_keys, jitter_keys, gray_keys, blur_keys, solarize_keys = (
    keys[:, i] for i in range(6)
  )
  _, height, width, channels = images.shape
  random_box = partial(
    crop.random_box,
    height=height,
    width=width,
    areas=(augment.crop_min_area, augment.crop_max_area),
    ratios=(augment.crop_ratio_min, augment.crop_ratio_max),
  )
  boxes = jax.vmap(random_box)(crop_keys)
  flip = jnp.zeros(len(images), bool)
  if augment.flip_probability:
    flip = _chosen(flip_keys, augment.flip_probability)
  images = crop.crop_and_resize(
    boxes, images, size_px=augment.crop_size_px, flip=flip
  )
  if augment.jitter_probability:
    images = colour.jitter(
      jitter_keys,
      images,
      probability=augment.jitter_probability,
      **{name: getattr(augment, name) for name in colour.STRENGTHS},
    )
  if augment.grayscale_probability and channels == 3:
    gray = _chosen(gray_keys, augment.grayscale_probability)
    images = jnp.where(
      gray[:, None, None, None], colour.grayscale(images), images
    )
  if any(augment.blur_probability):
    images = blur.random_blur(
      blur_keys,
      images,
      probability=blur_probability,
      kernel_px=augment.blur_kernel_px,
      sigmas=(augment.blur_sigma_min, augment.blur_sigma_max),
    )
  if any(augment.solarize_probability):
    inverted = _chosen(solarize_keys, solarize_probability)
    bright = images >= augment.solarize_threshold
    images = jnp.where(
      inverted[:, None, None, None] & bright, 1 - images, images
    )
  return images


def _views_of_one_size(
  augment: Augment, keys: Keys, images: Images, *, stream: str, number: int
) -> Float[Array, "{number} b {augment.crop_size_px} {augment.crop_size_px} c"]:
  """Returns `number` views of each image, drawn from a named key stream."""

  def view(index: Array, blur: Scalar, solarize: Scalar) -> Array:
    return _view(
      augment,
      jax.vmap(lambda key: rng.stream(key, stream, index))(keys),
      images,
      blur_probability=blur,
      solarize_probability=solarize,
    )

  per_view = (
    jnp.broadcast_to(jnp.array(getattr(augment, field), float), number)
    for field in _PER_VIEW
  )
  return jax.vmap(view)(jnp.arange(number), *per_view)


def views(
  augment: Augment, keys: Keys, images: Pixels, num_views: int = 2
) -> tuple[Views, ...]:
  """Returns random views of each image: large views and small crops.

  A view depends only on its image, the key of the image and the index of the
  view, not on the rest of the batch or the number of views.

  Example:
    >>> import jax
    >>> augment = Augment(crop_size_px=24, crop_min_area=0.2)
    >>> keys = jax.random.split(jax.random.key(0), 8)
    >>> (large,) = views(augment, keys, np.zeros((8, 32, 32, 3), np.uint8))
    >>> large.shape
    (2, 8, 24, 24, 3)

  Args:
    augment: hyper-parameters, static under `jax.jit`.
    keys: one key per image, [b].
    images: uint8 [b, h, w, c], c = 1 or 3.
    num_views: number v of large views.

  Returns:
    Pixels in [0, 1], one array per size: `(large,)` or `(large, small)`, with
    large [v, b, crop_size_px, crop_size_px, c].

  Raises:
    TypeError: if the images are not uint8 [b, h, w, 1 or 3].
    ValueError: if the number of probabilities is neither 1 nor `num_views`.
  """
  for name in _PER_VIEW:
    value = getattr(augment, name)
    if len(value) not in (1, num_views):
      raise ValueError(
        f"augment.{name}={value} must be 1 probability for all large views or "
        f"num_views={num_views} probabilities, not {len(value)}"
      )
  pixels = _unit_interval(images)
  large = _views_of_one_size(
    augment, keys, pixels, stream="view", number=num_views
  )
  if not augment.num_small:
    return (large,)
  small_crops = dataclasses.replace(
    augment,
    crop_size_px=augment.small_crop_size_px,
    crop_min_area=augment.small_crop_min_area,
    crop_max_area=augment.small_crop_max_area,
    blur_probability=(augment.small_blur_probability,),
    solarize_probability=(0.0,),
    num_small=0,
  )
  small = _views_of_one_size(
    small_crops, keys, pixels, stream="small view", number=augment.num_small
  )
  return large, small


def center_view(
  images: Pixels, *, crop_size_px: int
) -> Float[Array, "b crop_size_px crop_size_px c"]:
  """Returns the deterministic view for evaluation: a resized centre crop.

  Example:
    >>> center_view(np.zeros((8, 32, 32, 3), np.uint8), crop_size_px=24).shape
    (8, 24, 24, 3)

  Args:
    images: uint8 [b, h, w, c], c = 1 or 3.
    crop_size_px: height and width of the result.

  Raises:
    TypeError: if the images are not uint8 [b, h, w, 1 or 3].
  """
  return crop.center_crop(_unit_interval(images), size_px=crop_size_px)
