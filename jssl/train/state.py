"""Everything that training remembers, as one pytree."""

from typing import NamedTuple

import jax
import jax.numpy as jnp
import optax
from jaxtyping import Array, Int

from jssl import rng
from jssl.models.backbone import Backbone, init_variables
from jssl.objectives.base import Objective
from jssl.optim.bilevel import HeadUpdate
from jssl.typing import Key, PyTree, Variables


class TrainState(NamedTuple):
  """The state of a run between two steps.

  Attributes:
    step: steps done.
    rng: the root key, the same for the whole run.
    backbone: parameters and batch statistics; what is probed and exported.
    teacher: the averaged backbone; {} for objectives without one.
    head_params: what the objective learns.
    objective: what the objective remembers.
    opt_state: the optimizer's moments.
    head_opt_state: those of the head's own optimizer; () without one.
  """

  step: Int[Array, ""]
  rng: Key
  backbone: Variables
  teacher: Variables
  head_params: PyTree
  objective: PyTree
  opt_state: PyTree
  head_opt_state: PyTree


def trained(backbone: Variables, head_params: PyTree) -> PyTree:
  """Returns the tree that the optimizer sees; no head where it has its own."""
  return {"backbone": backbone["params"], "head": head_params}


def init_state(
  seed: int,
  backbone: Backbone,
  objective: Objective,
  optimizer: optax.GradientTransformation,
  image_shape: tuple[int, int, int],
  head: HeadUpdate = HeadUpdate(),
) -> TrainState:
  """Returns the first state of a run; pure, to be jitted onto a mesh."""
  root = jax.random.key(seed)
  variables = init_variables(seed, backbone, image_shape)
  head_params, state = objective.init(
    rng.stream(root, "head"), backbone.feature_dim
  )
  joint = head.update == "joint"
  has_teacher = objective.teacher_momentum(0) is not None
  return TrainState(
    step=jnp.zeros((), jnp.int32),
    rng=root,
    backbone=variables,
    teacher=variables if has_teacher else {},
    head_params=head_params,
    objective=state,
    opt_state=optimizer.init(trained(variables, head_params if joint else {})),
    head_opt_state=() if joint else head.inner_optimizer().init(head_params),
  )
