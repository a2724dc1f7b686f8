"""Comparison of the sets of views that two augmentations can make."""

from jssl.augment.colour import STRENGTHS
from jssl.augment.views import Augment

_RANDOM = ("flip", "grayscale", "blur", "solarize", "erase")


def _outcomes(augment: Augment, operation: str) -> set[bool]:
  """Returns the possible values of "the operation is applied"."""
  probability = getattr(augment, f"{operation}_probability")
  values = probability if isinstance(probability, tuple) else (probability,)
  return {
    applied for p in values for applied in (True, False) if p != 1 - applied
  }


def includes(augment: Augment, other: Augment) -> bool:
  """True if `augment` can make every large view that `other` can make.

  Augmented distances over all views are then at most those of `other`. Ranges
  of colour factors contain the identity, so jitter that may be applied need not
  change an image.

  Example:
    >>> import dataclasses
    >>> crop = Augment(crop_size_px=28, crop_min_area=0.2)
    >>> both = dataclasses.replace(crop, flip_probability=0.5)
    >>> includes(both, crop), includes(crop, both)
    (True, False)

  Args:
    augment: augmentation with the larger set of views.
    other: augmentation with the smaller set of views.
  """

  def same(name: str) -> bool:
    return getattr(augment, name) == getattr(other, name)

  def within(low: str, high: str) -> bool:
    return getattr(augment, low) <= getattr(other, low) and getattr(
      other, high
    ) <= getattr(augment, high)

  def strength(of: Augment, factor: str) -> float:
    return getattr(of, factor) if of.jitter_probability else 0.0

  return (
    same("crop_size_px")
    and within("crop_min_area", "crop_max_area")
    and within("crop_ratio_min", "crop_ratio_max")
    and all(_outcomes(augment, x) >= _outcomes(other, x) for x in _RANDOM)
    and all(strength(augment, f) >= strength(other, f) for f in STRENGTHS)
    and (
      not any(other.blur_probability)
      or (same("blur_kernel_px") and within("blur_sigma_min", "blur_sigma_max"))
    )
    and (not any(other.solarize_probability) or same("solarize_threshold"))
  )
