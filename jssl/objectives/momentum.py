"""What methods with a momentum encoder share: a teacher that is an average.

The step averages the backbone. Here is the projector's average, which is not
learned: it is part of the objective's state.
"""

import dataclasses
from typing import Self

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float

from jssl import schedules, tree
from jssl.models.heads import Head
from jssl.objectives.base import (
  Features,
  Objective,
  check_range,
  check_same_width,
)
from jssl.typing import Key, PyTree, Scalar, Step


@dataclasses.dataclass(frozen=True, kw_only=True)
class MomentumObjective(Objective):
  """A method whose targets come from an average of itself.

  State: batch statistics of the heads; `teacher`, averages of parts of the head
  by their names; the averaged projector's own batch statistics.

  Attributes:
    projector: of the student and, averaged, of the teacher.
    momentum_start: of the average, at step 0,
    momentum_end: and at the last step, along half a cosine.
    total_steps: steps of the run; 0 takes train.steps.
  """

  projector: Head
  momentum_start: float
  momentum_end: float = 1.0
  total_steps: int = 0

  def __post_init__(self) -> None:
    check_range("momentum_start", self.momentum_start, 0, 1)
    check_range("momentum_end", self.momentum_end, self.momentum_start, 1)
    check_range("total_steps", self.total_steps, 0)

  def with_total_steps(self, total_steps: int) -> Self:
    """Sets `total_steps`, unless the config does."""
    if self.total_steps:
      return self
    return dataclasses.replace(self, total_steps=total_steps)

  def teacher_momentum(self, step: Step) -> Scalar | float:
    """Of the averaged backbone and of the averaged projector.

    Raises:
      ValueError: `total_steps` is 0 and the momentum should change.
    """
    if self.momentum_start == self.momentum_end:
      return self.momentum_start
    if not self.total_steps:
      raise ValueError(
        "objective.total_steps=0: a momentum that ends with the run needs its "
        "steps; configs get them from train.steps"
      )
    return schedules.cosine(
      self.momentum_start, self.momentum_end, total_steps=self.total_steps
    )(step)

  def init(self, key: Key, feature_dim: int) -> tuple[dict, dict]:
    """Returns the projector's parameters, and state with an average of them."""
    params, state = self.projector.init(key, feature_dim)
    # Other buffers of the same numbers: the step donates both.
    teacher = {"projector": jax.tree.map(jnp.copy, params)}
    return {"projector": params}, {
      "projector": state,
      "teacher": teacher,
      "teacher_projector": jax.tree.map(jnp.copy, state),
    }

  def project(
    self, head_params: dict, state: dict, h: Float[Array, "v b d"]
  ) -> tuple[Float[Array, "v b z"], dict]:
    """Returns the student's projections, and the state after them."""
    z, moved = self.projector.apply(
      head_params["projector"], state["projector"], h
    )
    return z, {**state, "projector": moved}

  def targets(
    self, state: dict, features: Features
  ) -> tuple[Float[Array, "u b z"], dict]:
    """Returns the teacher's projections, stopped, and the state after them."""
    (h,) = features.teacher
    z, moved = self.projector.apply(
      state["teacher"]["projector"], state["teacher_projector"], h
    )
    return jax.lax.stop_gradient(z), {**state, "teacher_projector": moved}

  def update(
    self, head_params: dict, state: dict, carry: dict, *, step: Step
  ) -> tuple[PyTree, PyTree]:
    """Moves the averages of whatever parts of the head have one."""
    del state
    teacher = carry["teacher"]
    learned = {name: head_params[name] for name in teacher}
    teacher = tree.ema(teacher, learned, self.teacher_momentum(step))
    return head_params, {**carry, "teacher": teacher}


@dataclasses.dataclass(frozen=True, kw_only=True)
class PredictorObjective(MomentumObjective):
  """One whose student has a predictor besides, which isn't averaged.

  Attributes:
    predictor: as wide as the projector; without layers there is none.
  """

  predictor: Head

  def init(self, key: Key, feature_dim: int) -> tuple[dict, dict]:
    """Returns both heads' parameters, and state with an average of one."""
    first, second = jax.random.split(key)
    params, state = super().init(first, feature_dim)
    width = self.projector.width(feature_dim)
    check_same_width(projector=width, predictor=self.predictor.width(width))
    params["predictor"], state["predictor"] = self.predictor.init(second, width)
    return params, state

  def predict(
    self, head_params: dict, state: dict, features: Features
  ) -> tuple[Float[Array, "v b z"], dict]:
    """Returns the student's predictions, and the state after them."""
    (h,) = features.student
    z, state = self.project(head_params, state, h)
    p, moved = self.predictor.apply(
      head_params["predictor"], state["predictor"], z
    )
    return p, {**state, "predictor": moved}
