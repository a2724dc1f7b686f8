"""The losses of the kernel regime (Kiani et al. 2022), for a linear map.

State: nothing. Nothing is stop-gradient. On fixed features of a kernel (an
encoder that doesn't learn) their minimum is known: `jssl.kernel_regime` has it
in closed form, and a training can be held against it. Both see the whole
batch at once, [n, n]: they are meant for full batches of thousands of rows.
The forms of the losses are recalled, not read in the paper.
"""

import abc
import dataclasses

import jax
import jax.numpy as jnp
from jaxtyping import Array, Bool, Float

from jssl.objectives.base import (
  Aux,
  Features,
  Objective,
  check_positive,
  check_range,
)
from jssl.typing import Key, Scalar, Step

_HIGHEST = jax.lax.Precision.HIGHEST

Same = Bool[Array, "n n"]


@dataclasses.dataclass(frozen=True, kw_only=True)
class KernelRegime(Objective):
  """What both are: z = W h without a bias, and a loss of all rows of z.

  Attributes:
    out_dim: width of z.
    num_views: of each image.
    uses_labels: whether rows with the same label are taken as views of one
      image: the fixed augmented copies of a set, or its classes. Otherwise
      those that the step makes are.
  """

  out_dim: int = 64
  num_views: int = 2
  uses_labels: bool = False
  heads = ()

  def __post_init__(self) -> None:
    check_positive(out_dim=self.out_dim, num_views=self.num_views)

  @abc.abstractmethod
  def of_rows(self, z: Float[Array, "n z"], same: Same) -> Scalar:
    """Returns the loss; `same` are pairs of one image, with oneself too."""

  def init(self, key: Key, feature_dim: int) -> tuple[dict, dict]:
    """Returns the map, small: both losses have a saddle at 0."""
    w = jax.random.normal(key, (feature_dim, self.out_dim))
    return {"map": w / feature_dim}, {}

  def loss(
    self,
    head_params: dict,
    state: dict,
    features: Features,
    *,
    key: Key,
    step: Step,
  ) -> tuple[Scalar, Aux]:
    """The loss of all views of the batch."""
    del key, step
    (h,) = features.student
    v, b, d = h.shape
    images = jnp.arange(b)
    if self.uses_labels and features.labels is not None:
      images = features.labels
    ids = jnp.tile(images, v)
    z = jnp.matmul(h.reshape(v * b, d), head_params["map"], precision=_HIGHEST)
    return self.of_rows(z, ids[:, None] == ids[None]), Aux({}, state)


@dataclasses.dataclass(frozen=True, kw_only=True)
class KernelContrastive(KernelRegime):
  """The `objective` section, for `objective.name="kernel_contrastive"`."""

  def of_rows(self, z: Float[Array, "n z"], same: Same) -> Scalar:
    """||Z Z^T - (I + A)||_F^2; 0 only with a dimension for each image."""
    gram = jnp.matmul(z, z.T, precision=_HIGHEST)
    return jnp.sum((gram - same) ** 2)


@dataclasses.dataclass(frozen=True, kw_only=True)
class KernelNonContrastive(KernelRegime):
  """The `objective` section, for `objective.name="kernel_non_contrastive"`.

  Attributes:
    beta: weight of the invariance.
  """

  beta: float = 0.5

  def __post_init__(self) -> None:
    super().__post_init__()
    check_range("beta", self.beta, 0)

  def of_rows(self, z: Float[Array, "n z"], same: Same) -> Scalar:
    """||Z^T C Z - I||_F^2 + beta Tr(Z^T Lap Z); out_dim at collapse."""
    z = z - jnp.mean(z, axis=0, keepdims=True)
    covariance = jnp.matmul(z.T, z, precision=_HIGHEST)
    spread = jnp.sum((covariance - jnp.eye(z.shape[1])) ** 2)
    # Neither does the Laplacian see the mean.
    degrees = jnp.sum(same, axis=1, keepdims=True)
    neighbours = jnp.matmul(same.astype(z.dtype), z, precision=_HIGHEST)
    return spread + self.beta * jnp.sum(z * (degrees * z - neighbours))
