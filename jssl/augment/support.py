"""Which views an augmentation can make at all, however rarely."""

from jssl.augment.views import Augment

_FACTORS = ("brightness", "contrast", "saturation", "hue")
_RANGES = (
  ("crop_min_area", "crop_max_area"),
  ("crop_ratio_min", "crop_ratio_max"),
)
_BLURS = ("blur_sigma_min", "blur_sigma_max")


def _outcomes(*probabilities: float) -> set[bool]:
  """Returns whether an operation can be done, and whether it can be left."""
  return {
    done
    for probability in probabilities
    for done, chance in ((True, probability), (False, 1 - probability))
    if chance
  }


def includes(augment: Augment, other: Augment) -> bool:
  """Whether each large view that another section makes could be one of these.

  Then augmented distances over all views can't be larger here. A factor of 1
  and a turn of the hue by 0 are in their ranges, so a colour change that may be
  done may also be none.

  Example:
    >>> from jssl.augment import Augment
    >>> crop = Augment(crop_size_px=28, crop_min_area=0.2)
    >>> both = Augment(
    ...   crop_size_px=28, crop_min_area=0.2, flip_probability=0.5
    ... )
    >>> includes(both, crop), includes(crop, both)
    (True, False)

  Args:
    augment: whose views may be more.
    other: whose views may be fewer.
  """

  def within(low: str, high: str) -> bool:
    return getattr(augment, low) <= getattr(other, low) and getattr(
      other, high
    ) <= getattr(augment, high)

  def strength(of: Augment, factor: str) -> float:
    return getattr(of, factor) if of.jitter_probability else 0.0

  def can(name: str) -> bool:
    outcomes = [
      _outcomes(*(p if isinstance(p, tuple) else (p,)))
      for p in (getattr(augment, name), getattr(other, name))
    ]
    return outcomes[0] >= outcomes[1]

  blurs, solarizes = (
    any(getattr(other, name))
    for name in ("blur_probability", "solarize_probability")
  )
  return (
    augment.crop_size_px == other.crop_size_px
    and all(within(*names) for names in _RANGES)
    and all(
      can(f"{operation}_probability")
      for operation in ("flip", "grayscale", "blur", "solarize")
    )
    and all(strength(augment, f) >= strength(other, f) for f in _FACTORS)
    and not (
      blurs
      and (
        augment.blur_kernel_px != other.blur_kernel_px or not within(*_BLURS)
      )
    )
    and not (
      solarizes and augment.solarize_threshold != other.solarize_threshold
    )
  )
