"""How strong views are, as one number: keys of the `augment` section.

Each function returns keyword arguments of `Augment`, to be merged into the
section of a config.
"""

_MAX_HUE = 0.5


def colour_strength(s: float) -> dict[str, float]:
  """Returns the ranges of SimCLR's colour jitter at strength `s`.

  The probabilities are not among them: SimCLR jitters 0.8 of the images and
  drops the colour of 0.2 at every strength.

  Example:
    >>> colour_strength(0.5)
    {'brightness': 0.4, 'contrast': 0.4, 'saturation': 0.4, 'hue': 0.1}

  Args:
    s: 1 in SimCLR on ImageNet, 0.5 on CIFAR-10, 0 for none.

  Returns:
    brightness, contrast and saturation 0.8 s; hue 0.2 s turns, at most 0.5.

  Raises:
    ValueError: `s` is negative.

  Reference:
    Chen et al., "A Simple Framework for Contrastive Learning of Visual
    Representations", ICML 2020, arXiv 2002.05709, appendix A.
  """
  if not s >= 0:
    raise ValueError(f"s={s} must be at least 0")
  return _jitter(0.8 * s, 0.2 * s)


def coarse(s: float) -> dict[str, float]:
  """Returns crop, jitter and grayscale at strength `s`, of CISSL and DISSL.

  A coarser augmentation makes more images equivalent: the smaller the crops
  and the stronger the colours change, the fewer features are left that all
  views of an image share. 1 is what SimCLR takes on images of this size.

  Example:
    >>> coarse(2.0)["crop_min_area"]
    0.1

  Args:
    s: positive; 1 is not coarser than usual.

  Returns:
    crop_min_area 0.2 / s and grayscale_probability 0.1 s, at most 1 each;
    brightness, contrast and saturation 0.4 s; hue 0.1 s turns, at most 0.5.

  Raises:
    ValueError: `s` isn't positive.

  Reference:
    Dubois et al., "Improving Self-Supervised Learning by Characterizing
    Idealized Representations", NeurIPS 2022, arXiv 2209.06235; the numbers are
    those of its code for TinyImageNet and STL-10.
  """
  if not s > 0:
    raise ValueError(f"s={s} must be positive")
  return {
    "crop_min_area": min(0.2 / s, 1.0),
    **_jitter(0.4 * s, 0.1 * s),
    "grayscale_probability": min(0.1 * s, 1.0),
  }


def _jitter(blends: float, hue: float) -> dict[str, float]:
  return {
    "brightness": blends,
    "contrast": blends,
    "saturation": blends,
    # Half a turn either way is every hue there is.
    "hue": min(hue, _MAX_HUE),
  }
