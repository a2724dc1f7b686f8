"""Config of the kernel studies."""

import contextlib
import dataclasses
from collections.abc import Iterator
from typing import Literal, get_args

import numpy as np
from jaxtyping import Float

from jssl.augment import Augment
from jssl.config import schema
from jssl.kernel_regime import memory, targets
from jssl.kernel_regime.convolutional import ConvGP, ConvNTK
from jssl.kernel_regime.dense import (
  MLPNTK,
  RBF,
  ArcCosine,
  Kernel,
  check_setting,
  median_bandwidth,
)
from jssl.kernel_regime.losses import NonContrastive
from jssl.typing import Seed

Basis = Literal["principal", "root"]
BASES: tuple[Basis, ...] = get_args(Basis)


@dataclasses.dataclass(frozen=True)
class RBFConfig:
  """RBF kernel whose bandwidth can be taken from the data.

  Attributes:
    bandwidth: see `RBF`; 0 is the median distance between points.
  """

  bandwidth: float = 0.0

  def __post_init__(self) -> None:
    valid = self.bandwidth >= 0
    check_setting("kernel.bandwidth", self.bandwidth, valid, ">= 0")


KernelConfig = RBFConfig | ArcCosine | MLPNTK | ConvGP | ConvNTK
KERNELS: dict[str, type[KernelConfig]] = {
  "rbf": RBFConfig,
  "arc_cosine": ArcCosine,
  "mlp_ntk": MLPNTK,
  "conv_gp": ConvGP,
  "conv_ntk": ConvNTK,
}


@dataclasses.dataclass(frozen=True)
class Loss:
  """The `loss` section of a config. The tables have both losses.

  Attributes:
    name: loss whose kernel is drawn.
    beta: weight of the invariance of the non-contrastive loss, >= 0.
  """

  name: Literal["contrastive", "non_contrastive"] = "contrastive"
  beta: float = 0.4

  def __post_init__(self) -> None:
    NonContrastive(self.beta)


@dataclasses.dataclass(frozen=True)
class Problem:
  """The `problem` section of a config.

  Attributes:
    images: number of images of `data.split`, balanced over classes.
    views: number of random views of each image; N = images x views.
    test_images: number of images of `data.test_split`.
    d_out: dimension of the embedding; 0 is the number of dimensions that
      distinguish images: the number of images, or one less for the
      non-contrastive loss.
    alpha: weight of the ridge as a fraction of `alpha_max`; 0 is no ridge.
    jitter: see `with_jitter`.
    memory_limit_gib: limit for all matrices; 0 is 80% of the available memory.
    folds: number of folds of the cross-validation of the classifiers.
    seed: seed of images, views and folds.
  """

  images: int = 300
  views: int = 4
  test_images: int = 1000
  d_out: int = 0
  alpha: float = 0.0
  jitter: float = 1e-6
  memory_limit_gib: float = 0.0
  folds: int = 5
  seed: Seed = 0

  def __post_init__(self) -> None:
    least = {"images": 2, "views": 2, "test_images": 1, "folds": 2}
    for name, value in dataclasses.asdict(self).items():
      bound = least.get(name, 0)
      valid = value >= bound
      check_setting(f"problem.{name}", value, valid, f"at least {bound}")
    check_setting("problem.alpha", self.alpha, self.alpha < 1, "less than 1")


@dataclasses.dataclass(frozen=True)
class Sweep:
  """The `sweep` section of a config: values that replace those of the problem.

  Attributes:
    views: numbers of views.
    labels: numbers of images whose labels the classifiers use.
    betas: weights of the invariance.
    alphas: weights of the ridge.
  """

  views: tuple[int, ...] = ()
  labels: tuple[int, ...] = ()
  betas: tuple[float, ...] = ()
  alphas: tuple[float, ...] = ()

  def __post_init__(self) -> None:
    for name, values in dataclasses.asdict(self).items():
      least = 2 if name in ("views", "labels") else 0
      valid = min(values, default=least) >= least
      check_setting(f"sweep.{name}", values, valid, f"at least {least}")
    valid = max(self.alphas, default=0) < 1
    check_setting("sweep.alphas", self.alphas, valid, "less than 1")


@dataclasses.dataclass(frozen=True)
class Bridge:
  """The `bridge` section of a config: training of a linear map.

  Attributes:
    steps: number of full-batch steps.
    learning_rate: peak learning rate of Adam, with cosine decay to 0.
    d_outs: dimensions of the embedding, each as `problem.d_out`.
  """

  steps: int = 2000
  learning_rate: float = 0.02
  d_outs: tuple[int, ...] = (0,)

  def __post_init__(self) -> None:
    check_setting("bridge.steps", self.steps, self.steps >= 1, "at least 1")
    valid = min(self.d_outs, default=-1) >= 0
    check_setting("bridge.d_outs", self.d_outs, valid, "dimensions >= 0")


@dataclasses.dataclass(frozen=True, kw_only=True)
class KernelStudy:
  """Config of a kernel study; the attributes are its sections."""

  data: schema.Data
  augment: Augment
  kernel: KernelConfig = dataclasses.field(metadata={"classes": KERNELS})
  loss: Loss = Loss()
  problem: Problem = Problem()
  sweep: Sweep = Sweep()
  bridge: Bridge = Bridge()

  def __post_init__(self) -> None:
    images, labels = self.problem.images, self.sweep.labels
    valid = max(labels, default=0) <= images
    check_setting(
      "sweep.labels", labels, valid, f"at most problem.images={images}"
    )
    if self.problem.d_out:
      views = min((self.problem.views, *self.sweep.views))
      targets.check_d_out(self.problem.d_out, images * views)

  @property
  def max_views(self) -> int:
    """Largest number of views of the problem and its sweep."""
    return max((self.problem.views, *self.sweep.views))

  def build_kernel(self, points: Float[np.ndarray, "n ..."]) -> Kernel:
    """Returns the kernel for these points."""
    if isinstance(self.kernel, RBFConfig):
      return RBF(self.kernel.bandwidth or median_bandwidth(points))
    return self.kernel

  @contextlib.contextmanager
  def memory_limit(self) -> Iterator[None]:
    """Holds the limit; ValueError if the matrices of the study exceed it."""
    images, tests = self.problem.images, self.problem.test_images
    views = images * self.max_views
    # Besides the Gram matrix of all points, a solver needs 7 or 12 matrices of
    # views, counting a copy of the Gram matrix and one with jitter.
    ridge = self.problem.alpha or any(self.sweep.alphas)
    needed_gib = (
      memory.gram_gib(views + images)
      + (12 if ridge else 7) * memory.gram_gib(views)
      # The kernel of test images, and its columns of one experiment.
      + 2 * memory.gram_gib(tests, views + images)
    )
    with memory.memory_limit(self.problem.memory_limit_gib or None):
      memory.check_memory(
        f"The study of problem.images={images} with {self.max_views} views and "
        f"problem.test_images={tests} (see problem.memory_limit_gib)",
        needed_gib,
      )
      yield
