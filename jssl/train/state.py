"""The state of training, as one pytree."""

from typing import NamedTuple

import jax.numpy as jnp
import optax
from jaxtyping import Array, Int

from jssl import rng
from jssl.models.backbone import Backbone, init_variables
from jssl.objectives.base import Objective
from jssl.optim.bilevel import HeadStrategy
from jssl.typing import Key, PyTree, Variables


class TrainState(NamedTuple):
  """The state of a run between two steps.

  Attributes:
    step: number of steps done.
    rng: root key of the run, constant.
    backbone: parameters and batch statistics.
    teacher: variables of the averaged backbone; {} without one.
    anchor: frozen copy of the teacher; {} without one.
    head_params: learned parameters of the objective.
    objective: state of the objective, such as a queue or a centre.
    opt_state: state of the optimizer.
    head_opt_state: state of the head's own optimizer; () without one.
  """

  step: Int[Array, ""]
  rng: Key
  backbone: Variables
  teacher: Variables
  anchor: Variables
  head_params: PyTree
  objective: PyTree
  opt_state: PyTree
  head_opt_state: PyTree


def outer_params(
  backbone: Variables, head_params: PyTree, head: HeadStrategy
) -> PyTree:
  """Returns the parameters of the run's optimizer."""
  return {
    "backbone": backbone["params"],
    "head": head.outer_params(head_params),
  }


def init_state(
  seed: int,
  backbone: Backbone,
  objective: Objective,
  optimizer: optax.GradientTransformation,
  image_shape: tuple[int, int, int],
  head: HeadStrategy = HeadStrategy(),
  num_classes: int = 0,
) -> TrainState:
  """Returns the initial state of a run; pure, for the caller to jit."""
  root = rng.root(seed)
  variables = init_variables(seed, backbone, image_shape)
  head_params, state = objective.init(
    rng.stream(root, "head"), backbone.spec(image_shape, num_classes)
  )
  has_teacher = objective.teacher_momentum(0) is not None
  return TrainState(
    step=jnp.zeros((), jnp.int32),
    rng=root,
    backbone=variables,
    teacher=variables if has_teacher else {},
    anchor=variables if objective.anchored(0) is not None else {},
    head_params=head_params,
    objective=state,
    opt_state=optimizer.init(outer_params(variables, head_params, head)),
    head_opt_state=head.init(head_params),
  )
