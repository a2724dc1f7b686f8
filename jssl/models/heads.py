"""Heads: small networks that objectives own, from h to z."""

import dataclasses
from collections.abc import Mapping
from typing import Literal

import flax.linen as nn
import jax
import jax.numpy as jnp
from jaxtyping import Array, Float

from jssl.schedules import Schedule, frozen_until
from jssl.typing import Key, PyTree

Activation = Literal["relu", "gelu", "none"]
LastNorm = Literal["none", "plain", "affine"]

_ACTIVATIONS = {"relu": nn.relu, "gelu": nn.gelu, "none": lambda x: x}


class MLP(nn.Module):
  """Linear layers with BatchNorm and an activation between them.

  Statistics are over all leading axes: the global batch and all views. (The
  official code of BYOL, SimSiam, MoCo and VICReg runs each view by itself.)
  The fields are those of `Head`.
  """

  hidden_dims: tuple[int, ...]
  out_dim: int
  norm: bool = True
  activation: Activation = "relu"
  last_norm: LastNorm = "none"

  @nn.compact
  def __call__(
    self, x: Float[Array, "*n d"], train: bool
  ) -> Float[Array, "*n z"]:
    """Returns the projections."""
    dtype = jnp.promote_types(x.dtype, jnp.float32)
    for width in self.hidden_dims:
      # A norm that follows has the bias.
      x = nn.Dense(width, use_bias=not self.norm, dtype=dtype)(x)
      if self.norm:
        x = nn.BatchNorm(use_running_average=not train, dtype=dtype)(x)
      x = _ACTIVATIONS[self.activation](x)
    if self.out_dim:
      biased = self.last_norm == "none"
      x = nn.Dense(self.out_dim, use_bias=biased, dtype=dtype)(x)
    if self.last_norm != "none":
      affine = self.last_norm == "affine"
      x = nn.BatchNorm(
        use_running_average=not train,
        use_scale=affine,
        use_bias=affine,
        dtype=dtype,
      )(x)
    return x


def unit(z: Float[Array, "*n d"]) -> Float[Array, "*n d"]:
  """Returns rows of length 1; zero rows stay."""
  square = jnp.sum(z**2, axis=-1, keepdims=True)
  return z * jax.lax.rsqrt(jnp.where(square == 0, 1, square))


@dataclasses.dataclass(frozen=True)
class Head:
  """A projector or predictor: a section of an objective, and two functions.

  Without hidden layers it is linear; with `activation="none"` a product of
  low rank; with `out_dim=0` and nothing else no head at all.

  Attributes:
    hidden_dims: widths of the hidden layers.
    out_dim: width of the last layer; 0 leaves it out.
    norm: whether hidden layers have a BatchNorm.
    activation: of hidden layers; "gelu" in its tanh form, as in the ViT.
    last_norm: a BatchNorm after the last layer: "plain" without scale and
      bias, "affine" with both. "none": the last layer has a bias instead.
  """

  hidden_dims: tuple[int, ...] = ()
  out_dim: int = 0
  norm: bool = True
  activation: Activation = "relu"
  last_norm: LastNorm = "none"

  def __post_init__(self) -> None:
    if self.out_dim < 0 or min(self.hidden_dims, default=1) < 1:
      raise ValueError(
        f"a head of hidden_dims={self.hidden_dims}, out_dim={self.out_dim}: "
        "widths must be positive (out_dim=0: no last layer)"
      )

  def width(self, feature_dim: int) -> int:
    """Returns the width of what comes out."""
    return self.out_dim or (feature_dim, *self.hidden_dims)[-1]

  def _module(self) -> MLP:
    return MLP(**{**vars(self), "hidden_dims": tuple(self.hidden_dims)})

  def init(self, key: Key, feature_dim: int) -> tuple[PyTree, PyTree]:
    """Returns `(params, state)`: what is learned, and batch statistics."""
    x = jnp.zeros((1, feature_dim))
    state = dict(self._module().init(key, x, train=False))
    return state.pop("params", {}), state

  def apply(
    self, params: PyTree, state: PyTree, x: Float[Array, "*n d"]
  ) -> tuple[Float[Array, "*n z"], PyTree]:
    """Returns projections by the batch's own statistics, and the new state."""
    z, moved = self._module().apply(
      {"params": params, **state}, x, train=True, mutable=[*state]
    )
    # In its own dtypes: flax's averages take those of the features, and a state
    # would be another after a step than before.
    return z, jax.tree.map(
      lambda new, old: new.astype(old.dtype), moved, dict(state)
    )

  def evaluate(
    self, params: PyTree, state: PyTree, x: Float[Array, "*n d"]
  ) -> Float[Array, "*n z"]:
    """Returns projections by the running statistics: each row for itself."""
    variables = {"params": params, **state}
    return jnp.asarray(self._module().apply(variables, x, train=False))


@dataclasses.dataclass(frozen=True)
class Prototypes:
  """A layer of prototypes [k, d]: a section of an objective.

  Attributes:
    number: k.
    norm: of the rows: "weight", they are divided by their lengths wherever they
      are used (weight normalisation with lengths of 1, DINO's); "step", they
      are brought back to length 1 after each step (SwAV's); "none".
    freeze_steps: steps in which they don't learn.
  """

  number: int
  norm: Literal["weight", "step", "none"] = "none"
  freeze_steps: int = 0

  def __post_init__(self) -> None:
    if self.number < 1 or self.freeze_steps < 0:
      raise ValueError(
        f"objective.prototypes.number={self.number}, objective.prototypes."
        f"freeze_steps={self.freeze_steps}: expected a positive number, and at "
        "least 0 steps"
      )

  def init(self, key: Key, width: int) -> Float[Array, "k d"]:
    """Returns rows in random directions, of length 1 or about 1."""
    rows = jax.random.normal(key, (self.number, width))
    return rows / width**0.5 if self.norm == "none" else unit(rows)

  def rows(self, params: Float[Array, "k d"]) -> Float[Array, "k d"]:
    """Returns what features are compared with."""
    return unit(params) if self.norm == "weight" else params

  def after_step(self, params: Float[Array, "k d"]) -> Float[Array, "k d"]:
    """Returns the parameters after the optimizer's step."""
    return unit(params) if self.norm == "step" else params

  def schedules(self, group: str) -> dict[str, Schedule]:
    """Returns the group's learning-rate multiplier, if it has one."""
    if not self.freeze_steps:
      return {}
    return {group: frozen_until(self.freeze_steps)}


def init_heads(
  key: Key, heads: Mapping[str, tuple[Head, int]]
) -> tuple[dict[str, PyTree], dict[str, PyTree]]:
  """Returns `(params, state)` of several heads, by their names.

  Args:
    key: a part of it for each head.
    heads: each with the width of what goes in.
  """
  keys = jax.random.split(key, len(heads))
  pairs = [
    head.init(k, width)
    for k, (head, width) in zip(keys, heads.values(), strict=True)
  ]
  params, state = zip(*pairs, strict=True)
  return (
    dict(zip(heads, params, strict=True)),
    dict(zip(heads, state, strict=True)),
  )
