"""Views of a batch of images: hyper-parameters and order of operations.

Operations follow SimCLR, arXiv 2002.05709, appendix A; solarisation BYOL,
2006.07733; small crops SwAV, 2006.09882, and DINO, 2104.14294; erasing Zhong et
al., 1708.04896.
"""

import dataclasses
import itertools
from functools import partial
from typing import Annotated

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float

from jssl import rng
from jssl.augment import blur, colour, crop, erase
from jssl.pixels import check_range, to_unit_interval
from jssl.typing import (
  Fraction,
  Images,
  Interval,
  Keys,
  NonNegative,
  Pixels,
  Positive,
  Scalar,
  Views,
  check_fields,
)

# Fields with one probability per large view.
_PER_VIEW = ("blur_probability", "solarize_probability")
# Ends of ranges.
_RANGES = (
  ("crop_min_area", "crop_max_area"),
  ("small_crop_min_area", "small_crop_max_area"),
  ("crop_ratio_min", "crop_ratio_max"),
  ("blur_sigma_min", "blur_sigma_max"),
)

_Area = Annotated[float, Interval(0, 1, low_open=True)]


@dataclasses.dataclass(frozen=True)
class Augment:
  """Hyper-parameters of random views; operations of probability 0 are skipped.

  BYOL's two views have `blur_probability=(1.0, 0.1)` and
  `solarize_probability=(0.0, 0.2)`. Small crops have their own size, area and
  blur probability, are never solarised or erased, and share all other fields.
  `views` does not mix images: see `jssl.augment.mix`.

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
    erase_probability: probability of random erasing, which fills a box of a
      large view with noise (MAE's fine-tuning and DeiT: 0.25).
    mixup_alpha: concentration of the weights of mixup; 0: off. Mixing needs an
      objective that weights two labels (MAE's fine-tuning and DeiT: 0.8).
    cutmix_alpha: concentration of the weights of cutmix; 0: off.
    cutmix_probability: probability of cutmix instead of mixup, with both on.
    num_small: number of small crops of each image.
    small_crop_size_px: height and width of a small crop.
    small_crop_min_area: smallest area of a small crop.
    small_crop_max_area: largest area of a small crop.
    small_blur_probability: probability of blurring a small crop.

  Raises:
    ValueError: if a value is out of range; the message names its config key.
  """

  crop_size_px: Positive[int]
  crop_min_area: _Area
  crop_max_area: _Area = 1.0
  crop_ratio_min: Positive[float] = 3 / 4
  crop_ratio_max: Positive[float] = 4 / 3
  flip_probability: Fraction = 0.0
  jitter_probability: Fraction = 0.0
  brightness: NonNegative[float] = 0.0
  contrast: NonNegative[float] = 0.0
  saturation: NonNegative[float] = 0.0
  hue: Annotated[float, Interval(0, 0.5)] = 0.0
  grayscale_probability: Fraction = 0.0
  blur_probability: tuple[Fraction, ...] = (0.0,)
  blur_kernel_px: Positive[int] = 3
  blur_sigma_min: Positive[float] = 0.1
  blur_sigma_max: Positive[float] = 2.0
  solarize_probability: tuple[Fraction, ...] = (0.0,)
  solarize_threshold: Fraction = 0.5
  erase_probability: Fraction = 0.0
  mixup_alpha: NonNegative[float] = 0.0
  cutmix_alpha: NonNegative[float] = 0.0
  cutmix_probability: Fraction = 0.5
  num_small: NonNegative[int] = 0
  small_crop_size_px: NonNegative[int] = 0
  small_crop_min_area: _Area = 0.05
  small_crop_max_area: _Area = 0.25
  small_blur_probability: Fraction = 0.5

  def __post_init__(self) -> None:
    values = dataclasses.asdict(self)

    def check(name: str, valid: object, expected: str) -> None:
      if not valid:
        raise ValueError(f"augment.{name}={values[name]!r} must be {expected}")

    for name in _PER_VIEW:
      expected = "one for all large views, such as (0.5,), or one for each"
      valid = isinstance(values[name], tuple) and values[name]
      check(name, valid, f"a tuple of numbers in [0, 1]: {expected}")
    check_fields(self, "augment")
    for low, high in _RANGES:
      end = values[high]
      check(low, values[low] <= end, f"in (0, augment.{high}={end}]")
    kernel = self.blur_kernel_px
    check("blur_kernel_px", kernel % 2, "odd and positive")
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
      limit = values[size]
      expected = f"less than twice augment.{size}={limit}, of blurred views"
      check("blur_kernel_px", not blurs or kernel < 2 * limit, expected)

  @property
  def mixes(self) -> bool:
    """True if training mixes images."""
    return bool(self.mixup_alpha or self.cutmix_alpha)

  def of_large_views(self, num_views: int) -> "Augment":
    """Returns a copy for large views only; cycles probabilities per view."""
    blurs, solarizes = (
      tuple(itertools.islice(itertools.cycle(values), num_views))
      for values in (self.blur_probability, self.solarize_probability)
    )
    return dataclasses.replace(
      self, blur_probability=blurs, solarize_probability=solarizes, num_small=0
    )


def _floats(pixels: Pixels) -> Images:
  if pixels.ndim != 4:
    raise TypeError(f"images of shape {pixels.shape}: expected [b, h, w, c]")
  check_range(pixels)
  images = to_unit_interval(pixels)
  return images.astype(jnp.promote_types(images.dtype, jnp.float32))


def _check_colours(augment: Augment, channels: int) -> None:
  """Raises ValueError if images without colours would change in colour."""
  names = ["grayscale_probability"]
  if augment.jitter_probability:
    names += ["saturation", "hue"]
  for name in names:
    if channels not in (1, 3, 4) and (value := getattr(augment, name)):
      raise ValueError(
        f"augment.{name}={value}: expected 0, because images of {channels} "
        "channels have no hue, saturation or gray"
      )


def _change(
  keys: Keys, probability: Scalar | float, changed: Images, images: Images
) -> Images:
  """Replaces each image by the changed one, with a probability."""
  draw = jax.vmap(lambda key: jax.random.bernoulli(key, probability))
  return jnp.where(draw(keys)[:, None, None, None], changed, images)


def _views_of_one_size(
  augment: Augment, keys: Keys, images: Images, *, stream: str, number: int
) -> Float[Array, "{number} b {augment.crop_size_px} {augment.crop_size_px} c"]:
  """Returns `number` views of each image, drawn from a named key stream."""
  _, height, width, channels = images.shape

  def one_view(index: Array, blurs: Scalar, solarizes: Scalar) -> Images:
    view_keys = jax.vmap(lambda key: rng.stream(key, stream, index))(keys)
    # Key i of a split does not depend on the number of keys: an operation added
    # at the end does not change the draws of the others.
    own = jax.vmap(partial(jax.random.split, num=6))(view_keys)
    crop_keys, flip_keys, jitter_keys, gray_keys, blur_keys, solarize_keys = (
      own[:, i] for i in range(6)
    )
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
      flip = jax.vmap(
        lambda key: jax.random.bernoulli(key, augment.flip_probability)
      )(flip_keys)
    view = crop.crop_and_resize(
      boxes, images, size_px=augment.crop_size_px, flip=flip
    )
    if augment.jitter_probability:
      view = colour.jitter(
        jitter_keys,
        view,
        probability=augment.jitter_probability,
        **{name: getattr(augment, name) for name in colour.STRENGTHS},
      )
    if augment.grayscale_probability and channels >= 3:
      gray = colour.grayscale(view)
      view = _change(gray_keys, augment.grayscale_probability, gray, view)
    if any(augment.blur_probability):
      view = blur.random_blur(
        blur_keys,
        view,
        probability=blurs,
        kernel_px=augment.blur_kernel_px,
        sigmas=(augment.blur_sigma_min, augment.blur_sigma_max),
      )
    if any(augment.solarize_probability):
      inverted = colour.keep_opacity(
        lambda view: jnp.where(
          view >= augment.solarize_threshold, 1 - view, view
        ),
        view,
      )
      view = _change(solarize_keys, solarizes, inverted, view)
    if augment.erase_probability:
      erase_keys = jax.vmap(lambda key: rng.stream(key, "erase"))(view_keys)
      view = erase.random_erase(
        erase_keys, view, probability=augment.erase_probability
      )
    return view

  per_view = (
    jnp.broadcast_to(jnp.array(getattr(augment, field), float), number)
    for field in _PER_VIEW
  )
  return jax.vmap(one_view)(jnp.arange(number), *per_view)


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
    images: stored pixels, [b, h, w, c]. Of c = 4, the last is opacity.
    num_views: number v of large views.

  Returns:
    Pixels in [0, 1], one array per size: `(large,)` or `(large, small)`, with
    large [v, b, crop_size_px, crop_size_px, c].

  Raises:
    TypeError: if images are not uint8, uint16 or floats [b, h, w, c].
    ValueError: if the number of probabilities is neither 1 nor `num_views`,
      floats are not in [0, 1], or a change of hue, saturation or to gray is on
      for images of other than 1, 3 or 4 channels.
  """
  for name in _PER_VIEW:
    value = getattr(augment, name)
    if len(value) not in (1, num_views):
      raise ValueError(
        f"augment.{name}={value} must be 1 probability for all large views or "
        f"num_views={num_views} probabilities, not {len(value)}"
      )
  pixels = _floats(images)
  _check_colours(augment, pixels.shape[-1])
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
    erase_probability=0.0,
    num_small=0,
  )
  small = _views_of_one_size(
    small_crops, keys, pixels, stream="small view", number=augment.num_small
  )
  return large, small


def center_view(
  images: Pixels, *, crop_size_px: int, channels: int = 1
) -> Float[Array, "b crop_size_px crop_size_px _"]:
  """Returns the deterministic view for evaluation: a resized centre crop.

  Example:
    >>> center_view(np.zeros((8, 32, 32, 3), np.uint8), crop_size_px=24).shape
    (8, 24, 24, 3)

  Args:
    images: stored pixels, [b, h, w, c].
    crop_size_px: height and width of the result.
    channels: images of one channel are repeated to this number.

  Raises:
    TypeError: if images are not uint8, uint16 or floats [b, h, w, c].
    ValueError: if floats are not in [0, 1].
  """
  view = crop.center_crop(_floats(images), size_px=crop_size_px)
  repeated = view.shape[-1] == 1 < channels
  return jnp.repeat(view, channels, axis=-1) if repeated else view
