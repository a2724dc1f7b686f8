"""Defaults of the protocol, tested with SimCLR."""

import jax
import jax.numpy as jnp
import pytest
from objectives.cases import BY_NAME, D

from jssl.models.heads import Head
from jssl.models.tokens import Spec
from jssl.objectives import OBJECTIVES
from jssl.objectives.base import Objective
from jssl.objectives.simclr import SimCLR

OBJECTIVE = BY_NAME["simclr"].objective


def test_a_linear_head_without_norm_has_no_state():
  objective = SimCLR(temperature=0.5, projector=Head((), 4))
  params, state = jax.eval_shape(
    lambda key: objective.init(key, Spec(D)), jax.random.key(0)
  )
  assert state == {"projector": {}}
  assert params["projector"]["Dense_0"]["kernel"].shape == (D, 4)


def test_defaults_of_the_protocol():
  params, _ = BY_NAME["simclr"].shapes()
  assert set(jax.tree.leaves(OBJECTIVE.groups(params))) == {"projector"}
  assert OBJECTIVE.schedules() == {}
  assert OBJECTIVE.constant_rates() == frozenset()
  assert OBJECTIVE.teacher_momentum(jnp.zeros((), int)) is None
  assert OBJECTIVE.num_views == 2
  assert not OBJECTIVE.multi_crop


def test_methods_with_multi_crop():
  multi_crop = {name for name, cls in OBJECTIVES.items() if cls.multi_crop}
  assert multi_crop == {"swav", "dino", "ibot", "dinov2", "lejepa", "dissl"}


def test_default_head_is_the_papers():
  assert SimCLR().projector == Head((2048,), 128, last_norm="plain")


def test_init_and_loss_are_abstract():
  with pytest.raises(TypeError, match="abstract"):
    Objective()
