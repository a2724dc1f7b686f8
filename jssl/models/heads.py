"""Heads of objectives: projectors, predictors and prototypes."""

import dataclasses
import functools
from collections.abc import Callable, Mapping
from typing import Literal

import flax.linen as nn
import jax
import jax.numpy as jnp
from jaxtyping import Array, Float

from jssl.losses.rows import l2_normalize
from jssl.schedules import Schedule, frozen_until
from jssl.typing import Key, NonNegative, Positive, PyTree, check_fields

Activation = Literal["relu", "gelu", "gelu_erf", "none"]
LastNorm = Literal["none", "plain", "affine"]

_ACTIVATIONS: Mapping[str, Callable[[Array], Array]] = {
  "relu": nn.relu,
  "gelu": nn.gelu,
  "gelu_erf": functools.partial(nn.gelu, approximate=False),
  "none": lambda x: x,
}


@dataclasses.dataclass(frozen=True)
class Head:
  """A projector or predictor MLP: hyper-parameters and pure functions.

  Without hidden layers the head is linear; with `activation="none"` it is a
  low-rank product; without hidden layers and `out_dim=0` it is the identity.

  Example:
    >>> import jax
    >>> head = Head(hidden_dims=(32,), out_dim=8)
    >>> params, state = head.init(jax.random.key(0), feature_dim=16)
    >>> z, state = head.apply(params, state, jax.numpy.ones((4, 16)))

  Attributes:
    hidden_dims: widths of the hidden layers.
    out_dim: width of the last layer; 0: no last layer.
    norm: True for a BatchNorm in hidden layers.
    activation: activation of hidden layers; "gelu" is the tanh approximation
      and "gelu_erf" the exact function (PyTorch).
    last_norm: BatchNorm after the last layer: "plain" without scale and bias,
      "affine" with both, or "none", where the last layer has a bias instead.
  """

  hidden_dims: tuple[Positive[int], ...] = ()
  out_dim: NonNegative[int] = 0
  norm: bool = True
  activation: Activation = "relu"
  last_norm: LastNorm = "none"

  def __post_init__(self) -> None:
    check_fields(self, "Head")

  def width(self, feature_dim: int) -> int:
    """Returns the width of the output."""
    return self.out_dim or (feature_dim, *self.hidden_dims)[-1]

  def init(self, key: Key, feature_dim: int) -> tuple[PyTree, PyTree]:
    """Returns `(params, state)`: parameters and batch statistics."""
    x = jnp.zeros((1, feature_dim))
    state = dict(MLP(self).init(key, x, train=False))
    return state.pop("params", {}), state

  def apply(
    self, params: PyTree, state: PyTree, x: Float[Array, "*n d"]
  ) -> tuple[Float[Array, "*n z"], PyTree]:
    """Returns projections in training mode, and the updated state."""
    z, updated = MLP(self).apply(
      {"params": params, **state}, x, train=True, mutable=[*state]
    )
    # Flax's running averages take the dtype of the features, but a step must
    # not change the dtypes of the state.
    return z, jax.tree.map(
      lambda new, old: new.astype(old.dtype), updated, dict(state)
    )

  def evaluate(
    self, params: PyTree, state: PyTree, x: Float[Array, "*n d"]
  ) -> Float[Array, "*n z"]:
    """Returns projections in evaluation mode, by the running averages."""
    variables = {"params": params, **state}
    return jnp.asarray(MLP(self).apply(variables, x, train=False))


class MLP(nn.Module):
  """Linear layers with BatchNorm and activations, as `Head` describes them.

  Batch statistics are over all leading axes: the global batch and all views.
  (The official code of BYOL, SimSiam, MoCo and VICReg runs views separately.)
  """

  head: Head

  @nn.compact
  def __call__(
    self, x: Float[Array, "*n d"], train: bool
  ) -> Float[Array, "*n z"]:
    head, dtype = self.head, jnp.promote_types(x.dtype, jnp.float32)
    # E[x²] - E[x]², the fast variance, cancels for features of a large mean.
    norm = functools.partial(
      nn.BatchNorm,
      use_running_average=not train,
      dtype=dtype,
      use_fast_variance=False,
    )
    for width in head.hidden_dims:
      # A norm that follows has its own bias.
      x = nn.Dense(width, use_bias=not head.norm, dtype=dtype)(x)
      if head.norm:
        x = norm()(x)
      x = _ACTIVATIONS[head.activation](x)
    if head.out_dim:
      biased = head.last_norm == "none"
      x = nn.Dense(head.out_dim, use_bias=biased, dtype=dtype)(x)
    if head.last_norm != "none":
      affine = head.last_norm == "affine"
      x = norm(use_scale=affine, use_bias=affine)(x)
    return x


@dataclasses.dataclass(frozen=True)
class Prototypes:
  """A layer of prototypes [k, d]: hyper-parameters and pure functions.

  Attributes:
    number: number of prototypes k.
    norm: normalisation of the rows: "weight" at each use (weight normalisation
      as in DINO), "step" after each optimizer step (SwAV), or "none".
    freeze_steps: number of initial steps without updates.
  """

  number: Positive[int]
  norm: Literal["weight", "step", "none"] = "none"
  freeze_steps: NonNegative[int] = 0

  def __post_init__(self) -> None:
    check_fields(self, "Prototypes")

  def init(self, key: Key, width: int) -> Float[Array, "k d"]:
    """Returns rows in random directions, of norm 1 (about 1 for "none")."""
    rows = jax.random.normal(key, (self.number, width))
    return rows / width**0.5 if self.norm == "none" else l2_normalize(rows)

  def rows(self, params: Float[Array, "k d"]) -> Float[Array, "k d"]:
    """Returns the prototypes to compare features with."""
    return l2_normalize(params) if self.norm == "weight" else params

  def after_step(self, params: Float[Array, "k d"]) -> Float[Array, "k d"]:
    """Returns the parameters to keep after an optimizer step."""
    return l2_normalize(params) if self.norm == "step" else params

  def schedules(self, group: str) -> dict[str, Schedule]:
    """Returns learning-rate multipliers by parameter group."""
    return {group: frozen_until(self.freeze_steps)} if self.freeze_steps else {}


def init_heads(
  key: Key, heads: Mapping[str, tuple[Head, int]]
) -> tuple[dict[str, PyTree], dict[str, PyTree]]:
  """Returns `(params, state)` of named heads, each with its input width.

  Example:
    >>> import jax
    >>> projector, predictor = Head((32,), 8), Head((16,), 8)
    >>> heads = {"projector": (projector, 64), "predictor": (predictor, 8)}
    >>> params, state = init_heads(jax.random.key(0), heads)
  """
  params, state = {}, {}
  keys = jax.random.split(key, len(heads))
  for k, (name, (head, width)) in zip(keys, heads.items(), strict=True):
    params[name], state[name] = head.init(k, width)
  return params, state
