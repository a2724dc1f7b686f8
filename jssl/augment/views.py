"""Views of a batch: all operations in SimCLR's order, by one set of numbers.

SimCLR, arXiv 2002.05709, appendix A; solarisation, and views that differ in it
and in blur, as in BYOL, 2006.07733; small crops as in SwAV, 2006.09882, and
DINO, 2104.14294.
"""

import dataclasses
import itertools
from functools import partial

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float

from jssl import rng
from jssl.augment import blur, colour, crop, solarize
from jssl.typing import Images, Keys, Pixels, Scalar, Views

# One probability for each large view.
_BY_VIEW = ("blur_probability", "solarize_probability")


@dataclasses.dataclass(frozen=True)
class Augment:
  """How views are made; what has probability 0 is not computed.

  BYOL's two views have `blur_probability=(1.0, 0.1)` and
  `solarize_probability=(0.0, 0.2)`. Small crops, where there are any, have an
  area, a size and a blur of their own, are never solarized, and share the rest.

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
    blur_probability: of the Gaussian blur; one for all large views, or one
      for each of them.
    blur_kernel_px: odd length of its kernel.
    blur_sigma_min: smallest standard deviation, px of the view.
    blur_sigma_max: largest.
    solarize_probability: of inverting bright pixels; likewise.
    solarize_threshold: the value from which pixels are bright.
    num_small: small crops of each image, beside the large views.
    small_crop_size_px: height and width of a small crop.
    small_crop_min_area: smallest share of the image that it shows.
    small_crop_max_area: largest share.
    small_blur_probability: of its blur, whose kernel and standard deviations
      are those of large views, in pixels of the small crop.

  Raises:
    ValueError: a number is outside its range; the message names it.
    TypeError: a probability of large views isn't a tuple.
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
    for name, value in dataclasses.asdict(self).items():
      if name in _BY_VIEW:
        _check_each_view(name, value)
      elif name.endswith(("_probability", "_threshold")):
        self._check(name, 0 <= value <= 1, "in [0, 1]")
    for name in ("brightness", "contrast", "saturation", "num_small"):
      self._check(name, getattr(self, name) >= 0, "at least 0")
    self._check("hue", 0 <= self.hue <= 0.5, "in [0, 0.5]")
    self._check("crop_size_px", self.crop_size_px > 0, "positive")
    self._check_area("crop_min_area", "crop_max_area")
    self._check_order("crop_ratio_min", "crop_ratio_max")
    self._check_order("blur_sigma_min", "blur_sigma_max")
    kernel = self.blur_kernel_px
    self._check("blur_kernel_px", kernel > 0 and kernel % 2, "odd and positive")
    if any(self.blur_probability):
      self._check_kernel("crop_size_px", "augment.blur_probability (0,)")
    if self.num_small:
      self._check(
        "small_crop_size_px",
        0 < self.small_crop_size_px <= self.crop_size_px,
        f"positive and at most augment.crop_size_px={self.crop_size_px}, as "
        f"augment.num_small={self.num_small}",
      )
      self._check_area("small_crop_min_area", "small_crop_max_area")
      if self.small_blur_probability:
        self._check_kernel(
          "small_crop_size_px", "augment.small_blur_probability 0"
        )

  def of_large_views(self, num_views: int) -> "Augment":
    """Returns it for another number of large views, and no small crops.

    Where each view has probabilities of its own, further ones take these in
    turn.
    """

    def in_turn(values: tuple[float, ...]) -> tuple[float, ...]:
      return tuple(itertools.islice(itertools.cycle(values), num_views))

    return dataclasses.replace(
      self,
      blur_probability=in_turn(self.blur_probability),
      solarize_probability=in_turn(self.solarize_probability),
      num_small=0,
    )

  def _check(self, name: str, valid: object, expected: str) -> None:
    if not valid:
      value = getattr(self, name)
      raise ValueError(f"augment.{name}={value} must be {expected}")

  def _check_order(self, low: str, high: str) -> None:
    least, most = getattr(self, low), getattr(self, high)
    self._check(low, 0 < least <= most, f"in (0, augment.{high}={most}]")

  def _check_area(self, low: str, high: str) -> None:
    self._check_order(low, high)
    self._check(high, getattr(self, high) <= 1, "at most 1")

  def _check_kernel(self, size: str, otherwise: str) -> None:
    px = getattr(self, size)
    self._check(
      "blur_kernel_px",
      self.blur_kernel_px < 2 * px,
      f"less than twice augment.{size}={px}, or {otherwise}",
    )


def _check_each_view(name: str, value: object) -> None:
  if not isinstance(value, tuple):
    raise TypeError(
      f"augment.{name}={value!r} must be a tuple: one probability for all "
      "large views, as (0.5,), or one for each"
    )
  if not value or not all(0 <= p <= 1 for p in value):
    raise ValueError(
      f"augment.{name}={value} must be one or more numbers in [0, 1]"
    )


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


def _view(
  augment: Augment,
  keys: Keys,
  images: Images,
  *,
  blur_probability: Scalar,
  solarize_probability: Scalar,
) -> Images:
  """Returns one view of each image.

  The two probabilities are those of this view. Which operations there are is
  the same for all views, so that they are one program.
  """
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
  if any(augment.blur_probability):
    images = blur.random_blur(
      blur_keys,
      images,
      probability=blur_probability,
      kernel_px=augment.blur_kernel_px,
      min_sigma=augment.blur_sigma_min,
      max_sigma=augment.blur_sigma_max,
    )
  if any(augment.solarize_probability):
    images = solarize.random_solarize(
      solarize_keys,
      images,
      probability=solarize_probability,
      threshold=augment.solarize_threshold,
    )
  return images


def _views_of_a_size(
  augment: Augment, keys: Keys, images: Images, *, name: str, number: int
) -> Views:
  """Returns `number` views of each image, from the key stream `name`."""

  def view(index: Array, blur: Scalar, solarize: Scalar) -> Images:
    return _view(
      augment,
      jax.vmap(lambda key: rng.stream(key, name, index))(keys),
      images,
      blur_probability=blur,
      solarize_probability=solarize,
    )

  by_view = (
    jnp.broadcast_to(jnp.array(getattr(augment, field), float), number)
    for field in _BY_VIEW
  )
  return jax.vmap(view)(jnp.arange(number), *by_view)


def _of_small(augment: Augment) -> Augment:
  """Returns the section whose large views are the small crops of `augment`."""
  return dataclasses.replace(
    augment,
    crop_size_px=augment.small_crop_size_px,
    crop_min_area=augment.small_crop_min_area,
    crop_max_area=augment.small_crop_max_area,
    blur_probability=(augment.small_blur_probability,),
    solarize_probability=(0.0,),
    num_small=0,
  )


def views(
  augment: Augment, keys: Keys, images: Pixels, num_views: int = 2
) -> tuple[Views, ...]:
  """Returns random views of each image: large ones, and small crops if any.

  A view depends on its image, its key and its number among those of its size
  only, not on the rest of the batch or on how many views there are.

  Args:
    augment: the hyper-parameters, static under jit.
    keys: one for each image, [b].
    images: uint8 [b, h, w, c], c being 1 or 3.
    num_views: v, of large views.

  Returns:
    Pixels in [0, 1], one array for each size: `(large,)` of
    [v, b, crop_size_px, crop_size_px, c], or `(large, small)` with small of
    [num_small, b, small_crop_size_px, small_crop_size_px, c].

  Raises:
    TypeError: the images are not uint8 [b, h, w, 1 or 3].
    ValueError: there are probabilities for another number of large views.
  """
  for name in _BY_VIEW:
    value = getattr(augment, name)
    if len(value) not in (1, num_views):
      raise ValueError(
        f"augment.{name}={value} must be 1 probability for all large views or "
        f"num_views={num_views}, one for each, not {len(value)}"
      )
  pixels = _unit_interval(images)
  large = _views_of_a_size(augment, keys, pixels, name="view", number=num_views)
  if not augment.num_small:
    return (large,)
  small = _views_of_a_size(
    _of_small(augment),
    keys,
    pixels,
    name="small view",
    number=augment.num_small,
  )
  return large, small


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
