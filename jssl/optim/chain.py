"""The optimizer of a run, an optax chain per parameter group.

Weight decay and the trust ratios of LARS and LAMB apply to matrices and
convolutions, not to vectors (see `matrices`). Parameters of the backbone are in
group "backbone", those of the head in groups of their objective. A group may
have a learning-rate multiplier by step (0 freezes it), or a constant rate.
"""

import dataclasses
from collections.abc import Mapping
from typing import Annotated, Literal

import jax
import optax

from jssl import schedules, tree
from jssl.optim.layers import STACKED, scale_by_layer
from jssl.schedules import Schedule
from jssl.typing import (
  Decay,
  Fraction,
  Interval,
  NonNegative,
  Positive,
  PyTree,
  Scalar,
  Step,
  check_fields,
)

_VECTORS = frozenset({"bias", "scale", "positions", "cls", "registers"})


def is_stacked(name: str) -> bool:
  """True if a leaf of this path name holds all layers."""
  return STACKED in name.split("/")


def is_matrix(name: str, leaf: jax.Array | jax.ShapeDtypeStruct) -> bool:
  """True if a leaf is a matrix or a convolution, or a stack of them.

  Biases, norm scales, learned positions, class and register tokens are not,
  whatever their shape. SimCLR's LARS and BERT's LAMB exclude biases and norms.
  For ViTs, timm and MAE's fine-tuning exclude positions and tokens too, while
  DINO decays them; here they are excluded, because they are offsets, as biases
  are.
  """
  if name.split("/")[-1] in _VECTORS:
    return False
  return leaf.ndim - is_stacked(name) > 1


def matrices(params: PyTree) -> PyTree:
  """Returns a mask: True where a leaf is a matrix (see `is_matrix`)."""
  return tree.mask(params, is_matrix)


_Factor = Annotated[float, Interval(0, 1, low_open=True)]


@dataclasses.dataclass(frozen=True)
class Optim:
  """The `optim` section of a config.

  Attributes:
    name: "adamw" (Loshchilov & Hutter, ICLR 2019), "adam" (with L2 in the
      gradient, as in torch), "sgd" with momentum, "lars" (You et al., 2017; the
      momentum accumulates scaled updates, as in SimCLR's code) or "lamb" (You
      et al., ICLR 2020, algorithm 2 with phi(x) = x; with bias correction,
      which BERT's code omits, and epsilon 1e-6 as there).
    learning_rate: peak learning rate, for the whole batch (not per 256 images).
    warmup_steps: steps of linear warm-up, before a cosine to the end.
    end_fraction: last learning rate divided by the peak.
    weight_decay: decoupled for adamw and lamb, added to the gradient for adam,
      sgd and lars.
    weight_decay_end: weight decay at the end of the run, on half a cosine from
      `weight_decay` (DINO: 0.04 to 0.4); negative for a constant decay.
    clip_norm: largest global norm of the gradient; 0 disables clipping.
    momentum: momentum of sgd and lars.
    b1: decay of the first moment of adamw, adam and lamb.
    b2: decay of the second moment of adamw, adam and lamb.
    trust_coefficient: trust coefficient of lars.
    layer_decay: factor of the learning rate from one block of a ViT to the one
      before; 1: none (Bao et al., ICLR 2022; DINOv2: 0.9).
    patch_embed_rate: further factor of the patch embedding (DINOv2: 0.2).
    backbone_rate: factor of the learning rate of the backbone. 0 freezes it:
      its parameters and batch statistics stay as they start, and it is
      evaluated instead of trained, without stochastic depth.
  """

  name: Literal["adamw", "adam", "sgd", "lars", "lamb"]
  learning_rate: Positive[float]
  warmup_steps: NonNegative[int] = 0
  end_fraction: Fraction = 0.0
  weight_decay: NonNegative[float] = 0.0
  weight_decay_end: float = -1.0
  clip_norm: NonNegative[float] = 0.0
  momentum: Decay = 0.9
  b1: Decay = 0.9
  b2: Decay = 0.999
  trust_coefficient: Positive[float] = 0.001
  layer_decay: _Factor = 1.0
  patch_embed_rate: _Factor = 1.0
  backbone_rate: Fraction = 1.0

  def __post_init__(self) -> None:
    check_fields(self, "optim")

  def schedule(self, total_steps: int) -> Schedule:
    """Returns the learning rate by step."""
    return schedules.warmup_cosine(
      self.learning_rate,
      warmup_steps=self.warmup_steps,
      total_steps=total_steps,
      end_fraction=self.end_fraction,
    )

  def decay(self, total_steps: int) -> Schedule | float:
    """Returns the weight decay by step, or a constant."""
    if self.weight_decay_end < 0:
      return self.weight_decay
    return schedules.cosine(
      self.weight_decay, self.weight_decay_end, total_steps=total_steps
    )


def _trust_ratio(coefficient: float) -> optax.GradientTransformation:
  """Scales each layer's update by `coefficient` |parameter| / |update|.

  Stacked leaves (`model.scan_layers`) have one ratio per layer.
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
  """Returns the chain of one group; a multiplier of 0 freezes moments."""

  def unless_frozen(
    moments: optax.GradientTransformation,
  ) -> optax.GradientTransformation:
    if multiplier is None:
      return moments
    return optax.transforms.conditionally_mask(
      moments, lambda step: multiplier(step) > 0
    )

  def rate(step: Step) -> Scalar | float:
    scale = 1.0 if multiplier is None else multiplier(step)
    return learning_rate(step) * scale

  decay = optax.add_decayed_weights(weight_decay, matrices)
  scale = optax.scale_by_learning_rate(rate)
  # BERT's LAMB has epsilon 1e-6.
  eps = 1e-6 if optim.name == "lamb" else 1e-8
  adam = unless_frozen(optax.scale_by_adam(b1=optim.b1, b2=optim.b2, eps=eps))
  trace = unless_frozen(optax.trace(optim.momentum))
  coefficient = optim.trust_coefficient if optim.name == "lars" else 1.0
  trust = optax.masked(_trust_ratio(coefficient), matrices)
  match optim.name:
    case "adamw":
      return optax.chain(adam, decay, scale)
    case "adam":
      # L2 as in torch's Adam: the decay enters the moments.
      return optax.chain(decay, adam, scale)
    case "sgd":
      return optax.chain(decay, trace, scale)
    case "lars":
      return optax.chain(decay, trust, scale, trace)
    case "lamb":
      return optax.chain(adam, decay, trust, scale)


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
    multipliers: learning-rate multiplier by step, by group.
    total_steps: steps of the run.
    constant: groups whose learning rate is `optim.learning_rate` at every step
      (SimSiam's predictor), times their multiplier.

  Raises:
    ValueError: if a group of `multipliers` or `constant` has no parameters, or
      the warm-up is longer than the run; from `init`, if lars or lamb has no
      matrix to adapt.
  """
  used = set(jax.tree.leaves(groups))
  if missing := (set(multipliers) | constant) - used:
    raise ValueError(
      f"the objective has learning rates for groups {sorted(missing)}, but "
      f"parameters in {sorted(used)} only"
    )
  learning_rate = optim.schedule(total_steps)
  weight_decay = optim.decay(total_steps)

  def peak(_: Step) -> float:
    return optim.learning_rate

  def of_backbone(step: Step) -> Scalar | float:
    return learning_rate(step) * optim.backbone_rate

  rates: dict[str, Schedule] = dict.fromkeys(constant, peak)
  if optim.backbone_rate < 1:
    rates["backbone"] = of_backbone
  chains = {
    name: _group(
      optim,
      rates.get(name, learning_rate),
      weight_decay,
      multipliers.get(name),
    )
    for name in used
  }
  if not optim.backbone_rate:
    chains["backbone"] = optax.set_to_zero()
  optimizer = optax.partition(chains, groups)
  if not optim.layer_decay == optim.patch_embed_rate == 1:
    by_layer = scale_by_layer(optim.layer_decay, optim.patch_embed_rate)
    optimizer = optax.chain(optimizer, by_layer)
  if optim.clip_norm:
    clip = optax.clip_by_global_norm(optim.clip_norm)
    optimizer = optax.chain(clip, optimizer)

  def init(params: PyTree) -> PyTree:
    adapts = optim.name in ("lars", "lamb")
    if adapts and not any(jax.tree.leaves(matrices(params))):
      raise ValueError(
        f"optim.name={optim.name!r} adapts matrices, but the parameters "
        f"{tree.names(params)} have none; use sgd or adamw"
      )
    return optimizer.init(params)

  # Not a link of the chain: that would rename the state in checkpoints.
  return optimizer._replace(init=init)
