"""The optimizer of a run, made of optax's parts.

Matrices and convolutions are decayed and, under LARS and LAMB, adapted; biases,
norm scales and other vectors are neither (`masks.py`). Every parameter belongs
to a group: the backbone's to "backbone", the head's to what its objective says.
A group may have a learning-rate multiplier that varies by step, and one of 0
freezes it. A group may also stay at the peak of the learning rate.
"""

import dataclasses
from collections.abc import Mapping
from typing import Literal

import jax
import optax

from jssl import schedules, tree
from jssl.optim.masks import is_stacked, matrices
from jssl.schedules import Schedule
from jssl.typing import PyTree, Scalar, Step


@dataclasses.dataclass(frozen=True)
class Optim:
  """The `optim` section of a config.

  Attributes:
    name: "adamw" (Loshchilov & Hutter, ICLR 2019), "adam" (its decay is L2,
      part of the gradient, as in torch's), "sgd" with momentum, "lars"
      (You et al., 2017; the momentum keeps scaled updates, as in SimCLR's
      code), or "lamb" (You et al., ICLR 2020, algorithm 2 with phi(x) = x; the
      moments are corrected for their bias, which BERT's code leaves out, and
      epsilon is that code's 1e-6).
    learning_rate: at its peak, of the whole batch, not of 256 images.
    warmup_steps: steps of linear warm-up; a cosine to the end follows.
    end_fraction: last learning rate over the peak.
    weight_decay: decoupled for adamw and lamb, added to the gradient for adam,
      sgd and lars.
    weight_decay_end: value that the weight decay reaches at the end of the run,
      on half a cosine from `weight_decay` (DINO: 0.04 to 0.4); negative for a
      constant decay.
    clip_norm: largest norm of the whole gradient; 0 doesn't clip.
    momentum: of sgd and lars.
    b1: of adamw, adam and lamb.
    b2: of adamw, adam and lamb.
    trust_coefficient: of lars.
  """

  name: Literal["adamw", "adam", "sgd", "lars", "lamb"]
  learning_rate: float
  warmup_steps: int = 0
  end_fraction: float = 0.0
  weight_decay: float = 0.0
  weight_decay_end: float = -1.0
  clip_norm: float = 0.0
  momentum: float = 0.9
  b1: float = 0.9
  b2: float = 0.999
  trust_coefficient: float = 0.001

  def __post_init__(self) -> None:
    if self.name not in ("adamw", "adam", "sgd", "lars", "lamb"):
      raise ValueError(
        f"optim.name={self.name!r} is not known; use adamw, adam, sgd, "
        "lars or lamb"
      )
    if self.learning_rate <= 0:
      raise ValueError(
        f"optim.learning_rate={self.learning_rate} must be positive"
      )
    for key in ("momentum", "b1", "b2"):
      if not 0 <= getattr(self, key) < 1:
        raise ValueError(f"optim.{key}={getattr(self, key)} must be in [0, 1)")
    for key in ("weight_decay", "clip_norm"):
      if getattr(self, key) < 0:
        raise ValueError(f"optim.{key}={getattr(self, key)} must not be < 0")

  def schedule(self, total_steps: int) -> Schedule:
    """Returns the learning rate by step."""
    return schedules.warmup_cosine(
      self.learning_rate,
      warmup_steps=self.warmup_steps,
      total_steps=total_steps,
      end_fraction=self.end_fraction,
    )

  def decay(self, total_steps: int) -> Schedule | float:
    """Returns the weight decay by step, or the one that holds for all."""
    if self.weight_decay_end < 0:
      return self.weight_decay
    return schedules.cosine(
      self.weight_decay, self.weight_decay_end, total_steps=total_steps
    )


def _trust_ratio(coefficient: float) -> optax.GradientTransformation:
  """Scales an update by `coefficient` |parameter| / |update|, layer by layer.

  Leaves that hold all layers at once get one ratio a layer, so that stacking
  (`model.scan_layers`) changes nothing.
  """
  whole = optax.scale_by_trust_ratio(trust_coefficient=coefficient)

  def scale(path: tuple, update: jax.Array, param: jax.Array) -> jax.Array:
    def one(update: jax.Array, param: jax.Array) -> jax.Array:
      return whole.update(update, optax.EmptyState(), param)[0]

    stacked = is_stacked(tree.path_name(path))
    return (jax.vmap(one) if stacked else one)(update, param)

  return optax.stateless(
    lambda updates, params: jax.tree_util.tree_map_with_path(
      scale, updates, params
    )
  )


def _group(
  optim: Optim,
  learning_rate: Schedule,
  weight_decay: Schedule | float,
  multiplier: Schedule | None,
) -> optax.GradientTransformation:
  """The chain of one group.

  The parts with a memory stand still while the multiplier is 0; the schedules
  count on, so a thawed group is where the rest of the run is.
  """

  def memory(
    part: optax.GradientTransformation,
  ) -> optax.GradientTransformation:
    if multiplier is None:
      return part
    return optax.transforms.conditionally_mask(
      part, lambda step: multiplier(step) > 0
    )

  def rate(step: Step) -> Scalar | float:
    scale = 1.0 if multiplier is None else multiplier(step)
    return learning_rate(step) * scale

  decay = optax.add_decayed_weights(weight_decay, matrices)
  scale = optax.scale_by_learning_rate(rate)
  match optim.name:
    case "adamw":
      adam = optax.scale_by_adam(b1=optim.b1, b2=optim.b2)
      return optax.chain(memory(adam), decay, scale)
    case "adam":
      # The decay goes through the moments: L2, as in torch's Adam.
      adam = optax.scale_by_adam(b1=optim.b1, b2=optim.b2)
      return optax.chain(decay, memory(adam), scale)
    case "sgd":
      trace = optax.trace(optim.momentum)
      return optax.chain(decay, memory(trace), scale)
    case "lars":
      trust = optax.masked(_trust_ratio(optim.trust_coefficient), matrices)
      trace = optax.trace(optim.momentum)
      return optax.chain(decay, trust, scale, memory(trace))
    case "lamb":
      adam = optax.scale_by_adam(b1=optim.b1, b2=optim.b2, eps=1e-6)
      trust = optax.masked(_trust_ratio(1.0), matrices)
      return optax.chain(memory(adam), decay, trust, scale)


def _adapting(
  name: str, optimizer: optax.GradientTransformation
) -> optax.GradientTransformation:
  """The same optimizer; its `init` wants something to adapt."""

  def init(params: PyTree) -> PyTree:
    if not any(jax.tree.leaves(matrices(params))):
      raise ValueError(
        f"optim.name={name!r} adapts the steps of matrices, and none of the "
        f"trained parameters {tree.names(params)} is one; use sgd or adamw"
      )
    return optimizer.init(params)

  # Not a link of the chain: that would change the names in checkpoints.
  return optimizer._replace(init=init)


def make_optimizer(
  optim: Optim,
  groups: PyTree,
  multipliers: Mapping[str, Schedule],
  *,
  total_steps: int,
  constant: frozenset[str] = frozenset(),
) -> optax.GradientTransformation:
  """Returns the optimizer of a parameter tree.

  Args:
    optim: hyper-parameters.
    groups: the group of each parameter, a tree of str.
    multipliers: learning-rate multiplier by step, for groups that have one.
    total_steps: steps of the run, for the cosines.
    constant: groups whose learning rate is `optim.learning_rate` at each step,
      with neither warm-up nor cosine (SimSiam's predictor). Multipliers hold
      for them too.

  Raises:
    ValueError: a group of `multipliers` or `constant` has no parameters, or
      the warm-up is longer than the run. From `init`: lars or lamb has no
      matrix to adapt.
  """
  used = set(jax.tree.leaves(groups))
  if missing := (set(multipliers) | constant) - used:
    raise ValueError(
      f"the objective schedules groups {sorted(missing)}, but its parameters "
      f"are in {sorted(used)}"
    )
  learning_rate = optim.schedule(total_steps)
  weight_decay = optim.decay(total_steps)

  def peak(_: Step) -> float:
    return optim.learning_rate

  chains = {
    name: _group(
      optim,
      peak if name in constant else learning_rate,
      weight_decay,
      multipliers.get(name),
    )
    for name in used
  }
  optimizer = optax.partition(chains, groups)
  if optim.clip_norm:
    clip = optax.clip_by_global_norm(optim.clip_norm)
    optimizer = optax.chain(clip, optimizer)
  if optim.name in ("lars", "lamb"):
    optimizer = _adapting(optim.name, optimizer)
  return optimizer
