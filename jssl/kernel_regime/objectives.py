"""Losses of the kernel regime as objectives, for a linear map of features.

On fixed kernel features their minimum is known (`jssl.kernel_regime.solve`);
`python -m jssl.study bridge` compares a training with it. They compare all
pairs of rows, without state or stop-gradient, and are not in the registry of
objectives. The forms of the losses are recalled (Kiani et al., 2022, arXiv
2209.14884).
"""

import abc
import dataclasses
from typing import Any

import jax
import jax.numpy as jnp
from jaxtyping import Array, Bool, Float

from jssl.models.tokens import Spec
from jssl.objectives.base import (
  Aux,
  Features,
  Objective,
)
from jssl.typing import Key, NonNegative, Positive, Scalar

_HIGHEST = jax.lax.Precision.HIGHEST

SameImage = Bool[Array, "n n"]


@dataclasses.dataclass(frozen=True, kw_only=True)
class KernelRegime(Objective):
  """Base class: z = W h without a bias, and a loss of all rows of z.

  Attributes:
    out_dim: width of z.
    num_views: number of views of each image.
    uses_labels: True if rows with the same label are views of one image: fixed
      augmented copies, or classes. Otherwise the views of the step are.
  """

  out_dim: Positive[int] = 64
  num_views: Positive[int] = 2
  uses_labels: bool = False
  heads = ()

  @abc.abstractmethod
  def loss_of_rows(self, z: Float[Array, "n z"], same: SameImage) -> Scalar:
    """Returns the loss; `same` has True for pairs of one image, i = j too."""

  def init(self, key: Key, spec: Spec) -> tuple[dict, dict]:
    """Returns a small random map: both losses have a saddle point at 0."""
    w = jax.random.normal(key, (spec.feature_dim, self.out_dim))
    return {"map": w / spec.feature_dim}, {}

  def loss(
    self, head_params: dict, state: dict, features: Features, **unused: Any
  ) -> tuple[Scalar, Aux]:
    """Returns the loss of all views of the batch."""
    (h,) = features.pooled
    v, b, d = h.shape
    images = jnp.arange(b)
    if self.uses_labels and features.labels is not None:
      # An image without a label (-1) is one of its own.
      images = jnp.where(features.labels < 0, -1 - images, features.labels)
    ids = jnp.tile(images, v)
    z = jnp.matmul(h.reshape(v * b, d), head_params["map"], precision=_HIGHEST)
    return self.loss_of_rows(z, ids[:, None] == ids[None]), Aux({}, state)


@dataclasses.dataclass(frozen=True, kw_only=True)
class KernelContrastive(KernelRegime):
  """||Z Z^T - (I + A)||_F^2; 0 only with a dimension for each image."""

  def loss_of_rows(self, z: Float[Array, "n z"], same: SameImage) -> Scalar:
    """Returns the loss of rows [n, z]."""
    gram = jnp.matmul(z, z.T, precision=_HIGHEST)
    return jnp.sum((gram - same) ** 2)


@dataclasses.dataclass(frozen=True, kw_only=True)
class KernelNonContrastive(KernelRegime):
  """||Z^T C Z - I||_F^2 + beta Tr(Z^T Lap Z); out_dim at collapse.

  Attributes:
    beta: weight of the invariance.
  """

  beta: NonNegative[float] = 0.5

  def loss_of_rows(self, z: Float[Array, "n z"], same: SameImage) -> Scalar:
    """Returns the loss of rows [n, z]."""
    # The Laplacian is invariant to the mean, too.
    z = z - jnp.mean(z, axis=0, keepdims=True)
    covariance = jnp.matmul(z.T, z, precision=_HIGHEST)
    spread = jnp.sum((covariance - jnp.eye(z.shape[1])) ** 2)
    degrees = jnp.sum(same, axis=1, keepdims=True)
    neighbours = jnp.matmul(same.astype(z.dtype), z, precision=_HIGHEST)
    return spread + self.beta * jnp.sum(z * (degrees * z - neighbours))
