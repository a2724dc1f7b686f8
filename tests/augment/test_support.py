"""Inclusion between the supports of augmentations."""

import dataclasses

import pytest

from jssl.augment import Augment, includes

WIDE = Augment(
  crop_size_px=28,
  crop_min_area=0.2,
  flip_probability=0.5,
  jitter_probability=0.8,
  brightness=0.4,
  contrast=0.4,
  grayscale_probability=0.2,
  blur_probability=(1.0, 0.1),
  solarize_probability=(0.0, 0.2),
)


@pytest.mark.parametrize(
  "fewer",
  [
    {"crop_min_area": 0.5},
    {"crop_min_area": 1.0, "crop_ratio_min": 1.0, "crop_ratio_max": 1.0},
    {"flip_probability": 0.0},
    {"flip_probability": 1.0},
    {"jitter_probability": 0.0, "brightness": 3.0},
    {"brightness": 0.1},
    {"grayscale_probability": 0.0},
    {"blur_probability": (0.0,)},
    {"blur_probability": (1.0,)},
    {"blur_probability": (0.0,), "blur_kernel_px": 5},
    {"blur_sigma_max": 1.0},
    {"solarize_probability": (0.0,), "solarize_threshold": 0.1},
  ],
  ids=str,
)
def test_a_weaker_augmentation_is_included_but_not_the_reverse(fewer):
  narrow = dataclasses.replace(WIDE, **fewer)
  assert includes(WIDE, narrow)
  assert not includes(narrow, WIDE)


def test_inclusion_does_not_depend_on_positive_probabilities():
  likely = dataclasses.replace(WIDE, flip_probability=0.9)
  assert includes(WIDE, likely)
  assert includes(likely, WIDE)


@pytest.mark.parametrize(
  "other",
  [
    {"crop_size_px": 24},
    {"blur_kernel_px": 5},
    {"solarize_threshold": 0.1},
  ],
  ids=str,
)
def test_incomparable_augmentations_do_not_include_each_other(other):
  changed = dataclasses.replace(WIDE, **other)
  assert not includes(WIDE, changed)
  assert not includes(changed, WIDE)
