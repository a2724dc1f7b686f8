"""The config of the kernel studies: its sections, and what they must be."""

import bisect
import dataclasses
from collections.abc import Mapping
from typing import Literal, get_args

import numpy as np
from jaxtyping import Float

from jssl.augment import Augment
from jssl.config import schema
from jssl.kernel_regime import losses, memory, targets
from jssl.kernel_regime.convolutional import ConvGP, ConvNTK
from jssl.kernel_regime.dense import (
  MLPNTK,
  RBF,
  ArcCosine,
  Kernel,
  median_bandwidth,
)


@dataclasses.dataclass(frozen=True)
class MedianRBF:
  """An RBF that can take its bandwidth from the points.

  Attributes:
    bandwidth: see `RBF`; 0 takes the median distance between points.

  Raises:
    ValueError: the bandwidth is negative.
  """

  bandwidth: float = 0.0

  def __post_init__(self) -> None:
    if not self.bandwidth >= 0:
      raise ValueError(
        f"kernel.bandwidth={self.bandwidth} must not be negative; 0 takes the "
        "median distance between points"
      )

  def of(self, points: Float[np.ndarray, "n ..."]) -> RBF:
    """Returns the kernel for these points."""
    return RBF(self.bandwidth or median_bandwidth(points))


KernelSection = MedianRBF | ArcCosine | MLPNTK | ConvGP | ConvNTK
KERNELS: Mapping[str, type[KernelSection]] = {
  "rbf": MedianRBF,
  "arc_cosine": ArcCosine,
  "mlp_ntk": MLPNTK,
  "conv_gp": ConvGP,
  "conv_ntk": ConvNTK,
}


@dataclasses.dataclass(frozen=True)
class Loss:
  """The `loss` section of a config.

  Both losses are in the tables; one has its kernel drawn.

  Attributes:
    name: of that one.
    beta: weight of the invariance of the non-contrastive one, >= 0.

  Raises:
    ValueError: beta is negative.
  """

  name: Literal["contrastive", "non_contrastive"] = "contrastive"
  beta: float = 0.4

  def __post_init__(self) -> None:
    losses.NonContrastive(self.beta)


@dataclasses.dataclass(frozen=True)
class Kernels:
  """The `kernels` section of a config.

  N = images x views points have the Gram matrix that is solved with. A sweep
  changes one number of the main setting, and keeps the others.

  Attributes:
    images: drawn from `data.split`, as evenly over classes as it goes.
    views: random ones of each image.
    test_images: drawn from `data.test_split`.
    d_out: dimension of the embedding; 0 takes all that tells images apart: as
      many as images, or one less for the non-contrastive loss.
    alpha: weight of the ridge, a fraction of the one from which on the optimum
      is 0; 0 takes the closed form without a ridge.
    jitter: added to the diagonal of the Gram matrix, relative to its mean.
    memory_limit_gib: for all matrices together; 0 takes 80% of what is free.
    folds: of the cross-validation that chooses C and the ridge.
    seed: of images, views and folds.
    sweep_views: numbers of views,
    sweep_labels: of images whose label the classifiers see,
    sweep_betas: weights of the invariance,
    sweep_alphas: and weights of the ridge.

  Raises:
    ValueError: a number is out of range; the message names it.
  """

  images: int = 300
  views: int = 4
  test_images: int = 1000
  d_out: int = 0
  alpha: float = 0.0
  jitter: float = 1e-6
  memory_limit_gib: float = 0.0
  folds: int = 5
  seed: int = 0
  sweep_views: tuple[int, ...] = ()
  sweep_labels: tuple[int, ...] = ()
  sweep_betas: tuple[float, ...] = ()
  sweep_alphas: tuple[float, ...] = ()

  def __post_init__(self) -> None:
    for name, least in (
      ("images", 2),
      ("test_images", 1),
      ("d_out", 0),
      ("jitter", 0),
      ("memory_limit_gib", 0),
      ("folds", 2),
      ("seed", 0),
    ):
      self._check(name, getattr(self, name) >= least, f"at least {least}")
    several = "at least 2: with one view of an image nothing is a copy"
    self._check("views", self.views >= 2, several)
    self._check("sweep_views", min(self.sweep_views, default=2) >= 2, several)
    self._check(
      "sweep_labels",
      all(2 <= labels <= self.images for labels in self.sweep_labels),
      f"from 2 to kernels.images={self.images}",
    )
    self._check(
      "sweep_betas", min(self.sweep_betas, default=0) >= 0, "at least 0"
    )
    below = "in [0, 1): from 1 on the optimum is 0"
    self._check("alpha", 0 <= self.alpha < 1, below)
    self._check(
      "sweep_alphas", all(0 <= a < 1 for a in self.sweep_alphas), below
    )
    if self.d_out:
      fewest = min((self.views, *self.sweep_views))
      targets.check_d_out(self.d_out, self.images * fewest)

  def _check(self, name: str, valid: bool, expected: str) -> None:
    if not valid:
      raise ValueError(
        f"kernels.{name}={getattr(self, name)} must be {expected}"
      )

  @property
  def most_views(self) -> int:
    """The largest number of views that the study needs."""
    return max((self.views, *self.sweep_views))

  @property
  def limit_gib(self) -> float | None:
    """The limit, as `jssl.kernel_regime` takes it."""
    return self.memory_limit_gib or None

  def check_memory(self) -> None:
    """Raises ValueError where the study doesn't fit, with the N that would."""
    limit = memory.limit_gib(self.limit_gib)
    needed = self._needed_gib(self.images)
    if needed <= limit:
      return
    counts = range(2, self.images)
    # Memory grows with images, so all that fit come first.
    fits = bisect.bisect_right(counts, limit, key=self._needed_gib) + 1
    views = self.most_views
    advice = (
      f"N={fits * views}, {fits} images, would fit"
      if fits > 1
      else "not even two images would fit"
    )
    raise ValueError(
      f"the study of N={self.images * views} points, {self.images} images of "
      f"{views} views, with the images themselves and {self.test_images} test "
      f"images needs {needed:.3g} GiB, and {limit:.3g} GiB may be used: "
      f"{advice}; take fewer images, views or test images, or raise "
      "kernels.memory_limit_gib"
    )

  def _needed_gib(self, images: int) -> float:
    """Returns the GiB that all matrices take together, of so many images."""
    # Of views and of the images themselves.
    views = images * self.most_views
    points = views + images
    # What a solver takes, besides a part of K and the same with its jitter.
    ridge = self.alpha or any(self.sweep_alphas)
    return (
      memory.gram_gib(points)
      + (12 if ridge else 7) * memory.gram_gib(views)
      # The kernel of test images, and the columns of it that a case has.
      + 2 * memory.gram_gib(self.test_images, points)
    )


Basis = Literal["principal", "root"]
BASES: tuple[Basis, ...] = get_args(Basis)


@dataclasses.dataclass(frozen=True)
class Bridge:
  """The `bridge` section of a config: the trainings of a linear map.

  Attributes:
    steps: on all points at once.
    learning_rate: of Adam, at its peak; it falls to 0 on a cosine.
    d_outs: dimensions of the embedding; 0 takes all that tells images apart.

  Raises:
    ValueError: a number is out of range; the message names it.
  """

  steps: int = 2000
  learning_rate: float = 0.02
  d_outs: tuple[int, ...] = (0,)

  def __post_init__(self) -> None:
    if self.steps < 1:
      raise ValueError(f"bridge.steps={self.steps} must be at least 1")
    if not self.d_outs or min(self.d_outs) < 0:
      raise ValueError(
        f"bridge.d_outs={self.d_outs} must be some dimensions, of which 0 "
        "stands for all that tells images apart"
      )


@dataclasses.dataclass(frozen=True, kw_only=True)
class Setting:
  """Config of a kernel study."""

  data: schema.Data
  augment: Augment
  kernel: KernelSection = dataclasses.field(metadata={"classes": KERNELS})
  loss: Loss = Loss()
  kernels: Kernels = Kernels()
  bridge: Bridge = Bridge()


def kernel_of(
  section: KernelSection, points: Float[np.ndarray, "n ..."]
) -> Kernel:
  """Returns the kernel of a section, for these points."""
  return section.of(points) if isinstance(section, MedianRBF) else section
