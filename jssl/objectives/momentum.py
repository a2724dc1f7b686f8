"""Base of methods with a momentum encoder as teacher.

The train step averages the backbone. The objective averages the heads; their
averages are part of its state.
"""

import dataclasses
from typing import Self

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float

from jssl import schedules, tree
from jssl.models.tokens import Spec
from jssl.objectives.base import Features, Objective
from jssl.objectives.projector import ProjectorObjective
from jssl.typing import Fraction, Key, NonNegative, PyTree, Scalar, Step


@dataclasses.dataclass(frozen=True, kw_only=True)
class TeacherObjective(Objective):
  """Base of methods with an averaged backbone.

  Attributes:
    momentum_start: momentum of the averages at step 0.
    momentum_end: momentum at the last step, reached along a half cosine.
    total_steps: number of steps of the run; 0 in a config uses `train.steps`.
  """

  momentum_start: Fraction
  momentum_end: Fraction = 1.0
  total_steps: NonNegative[int] = 0

  def __post_init__(self) -> None:
    super().__post_init__()
    if self.momentum_end < self.momentum_start:
      raise ValueError(
        f"objective.momentum_end={self.momentum_end} must be at least "
        f"objective.momentum_start={self.momentum_start}"
      )

  def with_total_steps(self, total_steps: int) -> Self:
    """Sets `total_steps` if it is 0."""
    if self.total_steps:
      return self
    return dataclasses.replace(self, total_steps=total_steps)

  def teacher_momentum(self, step: Step) -> Scalar | float:
    """Returns the momentum of the averaged backbone and heads."""
    if self.momentum_start == self.momentum_end:
      return self.momentum_start
    if not self.total_steps:
      raise ValueError(
        "objective.total_steps=0: a momentum schedule requires the number of "
        "steps; call objective.with_total_steps"
      )
    return schedules.cosine(
      self.momentum_start, self.momentum_end, total_steps=self.total_steps
    )(step)


@dataclasses.dataclass(frozen=True, kw_only=True)
class MomentumObjective(TeacherObjective, ProjectorObjective):
  """Base of methods whose targets come from an averaged projector.

  State: batch statistics of the student's heads; `teacher`, averages of head
  parameters by name; `teacher_projector`, batch statistics of the teacher.
  """

  def init(self, key: Key, spec: Spec) -> tuple[dict, dict]:
    """Returns projector parameters; state with their average."""
    params, state = super().init(key, spec)
    # Copies, because the step donates the buffers of parameters and state.
    state["teacher"] = jax.tree.map(jnp.copy, params)
    state["teacher_projector"] = jax.tree.map(jnp.copy, state["projector"])
    return params, state

  def targets(
    self, state: dict, features: Features
  ) -> tuple[Float[Array, "u b z"], dict]:
    """Returns the teacher's embeddings (stop-gradient) and the new state."""
    h = features.teacher_pooled[0]
    z, new = self.projector.apply(
      state["teacher"]["projector"], state["teacher_projector"], h
    )
    return jax.lax.stop_gradient(z), {**state, "teacher_projector": new}

  def update(
    self, head_params: dict, state: dict, carry: dict, *, step: Step
  ) -> tuple[PyTree, PyTree]:
    """Updates the averages in `teacher`."""
    teacher = carry["teacher"]
    learned = {name: head_params[name] for name in teacher}
    teacher = tree.ema(teacher, learned, self.teacher_momentum(step))
    return head_params, {**carry, "teacher": teacher}
