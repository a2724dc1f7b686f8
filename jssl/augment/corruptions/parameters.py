"""Published parameters of the corruptions, one entry per severity 1 to 5.

Those of ImageNet-C are for images of 224 px and those of CIFAR-10-C for images
of 32 px, both from the authors' repository (github.com/hendrycks/robustness).
"""

from typing import Any

IMAGENET_C: dict[str, tuple[Any, ...]] = {
  # Standard deviation.
  "gaussian_noise": (0.08, 0.12, 0.18, 0.26, 0.38),
  # Photons at full intensity.
  "shot_noise": (60, 25, 12, 5, 3),
  # Share of the values that are replaced.
  "impulse_noise": (0.03, 0.06, 0.09, 0.17, 0.27),
  # Radius of the disk, and standard deviation of its smoothing.
  "defocus_blur": ((3, 0.1), (4, 0.5), (6, 0.5), (8, 0.5), (10, 0.5)),
  # Standard deviation, largest distance and number of rounds.
  "glass_blur": ((0.7, 1, 2), (0.9, 2, 1), (1, 2, 3), (1.1, 3, 2), (1.5, 4, 2)),
  # Radius and standard deviation.
  "motion_blur": ((10, 3), (15, 5), (15, 8), (15, 12), (20, 15)),
  # Start, end and step of the zoom factors, as arguments of np.arange.
  "zoom_blur": (
    (1, 1.11, 0.01),
    (1, 1.16, 0.01),
    (1, 1.21, 0.02),
    (1, 1.26, 0.02),
    (1, 1.31, 0.03),
  ),
  # Mean, standard deviation and zoom of the flakes, smallest value of a flake,
  # radius and standard deviation of their motion, weight of the image.
  "snow": (
    (0.1, 0.3, 3, 0.5, 10, 4, 0.8),
    (0.2, 0.3, 2, 0.5, 12, 4, 0.7),
    (0.55, 0.3, 4, 0.9, 12, 8, 0.7),
    (0.55, 0.3, 4.5, 0.85, 12, 8, 0.65),
    (0.55, 0.3, 2.5, 0.85, 12, 12, 0.55),
  ),
  # Weights of the image and of the ice.
  "frost": ((1, 0.4), (0.8, 0.6), (0.7, 0.7), (0.65, 0.7), (0.6, 0.75)),
  # Weight of the fog, and decay of its detail.
  "fog": ((1.5, 2), (2, 2), (2.5, 1.7), (2.5, 1.5), (3, 1.4)),
  # Addition to the value of HSV.
  "brightness": (0.1, 0.2, 0.3, 0.4, 0.5),
  # Factor on the distance from the mean.
  "contrast": (0.4, 0.3, 0.2, 0.1, 0.05),
  # Length and smoothing of the displacement, and largest shift of the corners
  # of the affine map, as shares of the image. 244 is the authors'.
  "elastic_transform": (
    (244 / 224 * 2, 244 / 224 * 0.7, 244 / 224 * 0.1),
    (244 / 224 * 2, 244 / 224 * 0.08, 244 / 224 * 0.2),
    (244 / 224 * 0.05, 244 / 224 * 0.01, 244 / 224 * 0.02),
    (244 / 224 * 0.07, 244 / 224 * 0.01, 244 / 224 * 0.02),
    (244 / 224 * 0.12, 244 / 224 * 0.01, 244 / 224 * 0.02),
  ),
  # Size of the smaller image, as a share.
  "pixelate": (0.6, 0.5, 0.4, 0.3, 0.25),
  # Quality of libjpeg.
  "jpeg_compression": (25, 18, 15, 10, 7),
}

CIFAR_10_C: dict[str, tuple[Any, ...]] = {
  "gaussian_noise": (0.04, 0.06, 0.08, 0.09, 0.10),
  "shot_noise": (500, 250, 100, 75, 50),
  "impulse_noise": (0.01, 0.02, 0.03, 0.05, 0.07),
  "defocus_blur": ((0.3, 0.4), (0.4, 0.5), (0.5, 0.6), (1, 0.2), (1.5, 0.1)),
  "glass_blur": (
    (0.05, 1, 1),
    (0.25, 1, 1),
    (0.4, 1, 1),
    (0.25, 1, 2),
    (0.4, 1, 2),
  ),
  "motion_blur": ((6, 1), (6, 1.5), (6, 2), (8, 2), (9, 2.5)),
  "zoom_blur": (
    (1, 1.06, 0.01),
    (1, 1.11, 0.01),
    (1, 1.16, 0.01),
    (1, 1.21, 0.01),
    (1, 1.26, 0.01),
  ),
  "snow": (
    (0.1, 0.2, 1, 0.6, 8, 3, 0.95),
    (0.1, 0.2, 1, 0.5, 10, 4, 0.9),
    (0.15, 0.3, 1.75, 0.55, 10, 4, 0.9),
    (0.25, 0.3, 2.25, 0.6, 12, 6, 0.85),
    (0.3, 0.3, 1.25, 0.65, 14, 12, 0.8),
  ),
  "frost": ((1, 0.2), (1, 0.3), (0.9, 0.4), (0.85, 0.4), (0.75, 0.45)),
  "fog": ((0.2, 3), (0.5, 3), (0.75, 2.5), (1, 2), (1.5, 1.75)),
  "brightness": (0.05, 0.1, 0.15, 0.2, 0.3),
  "contrast": (0.75, 0.5, 0.4, 0.3, 0.15),
  "elastic_transform": (
    (0, 0, 0.08),
    (0.05, 0.2, 0.07),
    (0.08, 0.06, 0.06),
    (0.1, 0.04, 0.05),
    (0.1, 0.03, 0.03),
  ),
  "pixelate": (0.95, 0.9, 0.85, 0.75, 0.65),
  "jpeg_compression": (80, 65, 58, 50, 40),
}

# The geometric mean of 32 and 224 px is 84.7.
LARGEST_CIFAR_PX = 84


def of(name: str, severity: int, *, height: int, width: int) -> Any:
  """Returns the parameters for a size of images.

  Those of CIFAR-10-C if the shorter side has at most 84 px, those of ImageNet-C
  otherwise.
  """
  small = min(height, width) <= LARGEST_CIFAR_PX
  return (CIFAR_10_C if small else IMAGENET_C)[name][severity - 1]
