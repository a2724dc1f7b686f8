"""The optimizer of a run, made of optax's parts.

Matrices and convolutions are decayed and, under LARS, adapted; biases, norm
scales and other vectors are neither. Every parameter belongs to a group: the
backbone's to "backbone", the head's to what its objective says. A group may
have a learning-rate multiplier that varies by step, and one of 0 freezes it.
"""

import dataclasses
from collections.abc import Mapping
from typing import Literal

import jax
import optax

from jssl import schedules, tree
from jssl.schedules import Schedule
from jssl.typing import PyTree, Scalar, Step


@dataclasses.dataclass(frozen=True)
class Optim:
  """The `optim` section of a config.

  Attributes:
    name: "adamw" (Loshchilov & Hutter, ICLR 2019), "sgd" with momentum, or
      "lars" (You et al., 2017; the momentum keeps scaled updates, as in
      SimCLR's code).
    learning_rate: at its peak, of the whole batch, not of 256 images.
    warmup_steps: steps of linear warm-up; a cosine to the end follows.
    end_fraction: last learning rate over the peak.
    weight_decay: decoupled for adamw, added to the gradient for the others.
    clip_norm: largest norm of the whole gradient; 0 doesn't clip.
    momentum: of sgd and lars.
    b1: of adamw.
    b2: of adamw.
    trust_coefficient: of lars.
  """

  name: Literal["adamw", "sgd", "lars"]
  learning_rate: float
  warmup_steps: int = 0
  end_fraction: float = 0.0
  weight_decay: float = 0.0
  clip_norm: float = 0.0
  momentum: float = 0.9
  b1: float = 0.9
  b2: float = 0.999
  trust_coefficient: float = 0.001

  def __post_init__(self) -> None:
    if self.name not in ("adamw", "sgd", "lars"):
      raise ValueError(
        f"optim.name={self.name!r} is not known; use adamw, sgd or lars"
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


def matrices(params: PyTree) -> PyTree:
  """Returns a mask: True where a leaf is a matrix or a convolution."""
  return tree.mask(params, lambda _, leaf: leaf.ndim > 1)


def _group(
  optim: Optim, learning_rate: Schedule, multiplier: Schedule | None
) -> optax.GradientTransformation:
  """The chain of one group.

  The parts with a memory stand still while the multiplier is 0; the schedule
  counts on, so a thawed group is where the rest of the run is.
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

  decay = optax.add_decayed_weights(optim.weight_decay, matrices)
  scale = optax.scale_by_learning_rate(rate)
  match optim.name:
    case "adamw":
      adam = optax.scale_by_adam(b1=optim.b1, b2=optim.b2)
      return optax.chain(memory(adam), decay, scale)
    case "sgd":
      trace = optax.trace(optim.momentum)
      return optax.chain(decay, memory(trace), scale)
    case "lars":
      trust = optax.masked(
        optax.scale_by_trust_ratio(trust_coefficient=optim.trust_coefficient),
        matrices,
      )
      trace = optax.trace(optim.momentum)
      return optax.chain(decay, trust, scale, memory(trace))


def make_optimizer(
  optim: Optim,
  groups: PyTree,
  multipliers: Mapping[str, Schedule],
  *,
  total_steps: int,
) -> optax.GradientTransformation:
  """Returns the optimizer of a parameter tree.

  Args:
    optim: hyper-parameters.
    groups: the group of each parameter, a tree of str.
    multipliers: learning-rate multiplier by step, for groups that have one.
    total_steps: steps of the run, for the cosine.

  Raises:
    ValueError: a multiplier's group has no parameters, or the warm-up is
      longer than the run.
  """
  used = set(jax.tree.leaves(groups))
  if missing := set(multipliers) - used:
    raise ValueError(
      f"the objective schedules groups {sorted(missing)}, but its parameters "
      f"are in {sorted(used)}"
    )
  learning_rate = optim.schedule(total_steps)
  chains = {
    name: _group(optim, learning_rate, multipliers.get(name)) for name in used
  }
  optimizer = optax.partition(chains, groups)
  if optim.clip_norm:
    clip = optax.clip_by_global_norm(optim.clip_norm)
    optimizer = optax.chain(clip, optimizer)
  return optimizer
