"""SimCLR (Chen et al., ICML 2020): NT-Xent on an MLP projector.

State: the projector's batch statistics. Nothing is stop-gradient. In the paper:
temperature 0.1 (batch 4096, ImageNet; 0.5 on CIFAR-10), hidden_dims (2048,),
out_dim 128, batch statistics over the global batch and both views.
"""

import dataclasses
from collections.abc import Mapping

import jax
import jax.numpy as jnp

from jssl import losses
from jssl.models.heads import MLP
from jssl.objectives.base import Aux, Features
from jssl.schedules import Schedule
from jssl.typing import Key, PyTree, Scalar, Step


@dataclasses.dataclass(frozen=True)
class SimCLR:
  """The `objective` section of a config, for `objective.name="simclr"`.

  Attributes:
    temperature: of NT-Xent.
    hidden_dims: hidden widths of the projector.
    out_dim: width of z.
    last_norm: a BatchNorm without parameters after the last layer, as in
      SimCLR's code.
  """

  temperature: float
  hidden_dims: tuple[int, ...]
  out_dim: int
  last_norm: bool = True
  num_views: int = dataclasses.field(default=2, init=False)

  def __post_init__(self) -> None:
    if self.temperature <= 0:
      raise ValueError(
        f"objective.temperature={self.temperature} must be positive"
      )

  def _head(self) -> MLP:
    return MLP(tuple(self.hidden_dims), self.out_dim, self.last_norm)

  def init(self, key: Key, feature_dim: int) -> tuple[PyTree, PyTree]:
    """Returns the projector's parameters, and its batch statistics."""
    state = self._head().init(key, jnp.zeros((1, feature_dim)), train=False)
    params = state.pop("params")
    return params, state

  def teacher_momentum(self, step: Step) -> None:
    """No averaged backbone."""

  def groups(self, head_params: PyTree) -> PyTree:
    """The projector is one group."""
    return jax.tree.map(lambda _: "head", head_params)

  def schedules(self) -> Mapping[str, Schedule]:
    """The projector learns at the backbone's rate."""
    return {}

  def loss(
    self,
    head_params: PyTree,
    state: PyTree,
    features: Features,
    *,
    key: Key,
    step: Step,
  ) -> tuple[Scalar, Aux]:
    """NT-Xent between the two views."""
    (h,) = features.student
    (z1, z2), state = self._head().apply(
      {"params": head_params, **state}, h, train=True, mutable=[*state]
    )
    loss = losses.nt_xent(z1, z2, temperature=self.temperature)
    return loss, Aux({}, state)

  def update(
    self, head_params: PyTree, state: PyTree, carry: PyTree, *, step: Step
  ) -> tuple[PyTree, PyTree]:
    """Keeps the new batch statistics."""
    return head_params, carry
