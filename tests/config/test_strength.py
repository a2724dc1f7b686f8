import dataclasses

import pytest

from jssl.augment import Augment
from jssl.config.recipes import coarse, colour_strength


@pytest.mark.parametrize("function", [coarse, colour_strength])
@pytest.mark.parametrize("s", [0.1, 0.5, 1, 2.0, 50.0])
def test_every_strength_is_a_section(function, s):
  keys = function(s)
  augment = Augment(**{"crop_size_px": 8, "crop_min_area": 0.5, **keys})
  assert dataclasses.asdict(augment).items() >= keys.items()


def test_colour_of_simclr():
  # The colour of configs/simclr_imagenet.py, and half of it.
  full = {"brightness": 0.8, "contrast": 0.8, "saturation": 0.8, "hue": 0.2}
  assert colour_strength(1) == full
  assert colour_strength(0.5) == {name: x / 2 for name, x in full.items()}
  assert set(colour_strength(0).values()) == {0}


def test_coarse_at_one_is_the_usual_one_and_grows_coarser():
  assert coarse(1) == {
    "crop_min_area": 0.2,
    "brightness": 0.4,
    "contrast": 0.4,
    "saturation": 0.4,
    "hue": 0.1,
    "grayscale_probability": 0.1,
  }
  assert coarse(2.0) == {
    "crop_min_area": 0.1,
    "brightness": 0.8,
    "contrast": 0.8,
    "saturation": 0.8,
    "hue": 0.2,
    "grayscale_probability": 0.2,
  }


def test_what_has_a_limit_stays_within_it():
  assert colour_strength(3)["hue"] == 0.5
  assert colour_strength(3)["contrast"] == pytest.approx(2.4)
  assert coarse(20.0)["hue"] == 0.5
  assert coarse(20.0)["grayscale_probability"] == 1
  assert coarse(0.1)["crop_min_area"] == 1


@pytest.mark.parametrize("s", [-1.0, float("nan")])
def test_no_such_strength(s):
  with pytest.raises(ValueError, match=r"^s=.* must be at least 0"):
    colour_strength(s)
  with pytest.raises(ValueError, match=r"^s=.* must be positive"):
    coarse(s)
  with pytest.raises(ValueError, match=r"^s=0 must be positive"):
    coarse(0)
