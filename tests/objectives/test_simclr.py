import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jssl import losses
from jssl.objectives.base import Features
from jssl.objectives.simclr import SimCLR

OBJECTIVE = SimCLR(temperature=0.5, hidden_dims=(8,), out_dim=4)
H = np.random.default_rng(0).normal(size=(2, 6, 5)).astype(np.float32)


def call(objective, params, state, h=H):
  return objective.loss(
    params, state, Features((h,)), key=jax.random.key(0), step=0
  )


def test_is_nt_xent_of_the_projections():
  """Statistics are over both views; the last norm has no parameters."""
  params, state = OBJECTIVE.init(jax.random.key(0), 5)
  loss, _ = call(OBJECTIVE, params, state)

  def norm(x):
    return (x - x.mean(0)) / np.sqrt(x.var(0) + 1e-5)

  first, second = (
    np.asarray(params[name]["kernel"]) for name in ("Dense_0", "Dense_1")
  )
  hidden = norm(H.reshape(12, 5) @ first)
  z = norm(np.maximum(hidden, 0) @ second)
  expected = losses.nt_xent(z[:6], z[6:], temperature=0.5)
  np.testing.assert_allclose(loss, expected, rtol=1e-5)
  assert "BatchNorm_1" not in params


def test_carries_the_batch_statistics():
  params, state = OBJECTIVE.init(jax.random.key(0), 5)
  _, aux = call(OBJECTIVE, params, state)
  same, after = OBJECTIVE.update(params, state, aux.carry, step=0)
  assert same is params
  assert jax.tree.structure(after) == jax.tree.structure(state)
  mean = (H.reshape(12, 5) @ params["Dense_0"]["kernel"]).mean(0)
  np.testing.assert_allclose(
    after["batch_stats"]["BatchNorm_0"]["mean"], 0.01 * mean, rtol=1e-3
  )


def test_a_linear_head_without_norm_has_no_state():
  objective = SimCLR(0.5, hidden_dims=(), out_dim=4, last_norm=False)
  params, state = objective.init(jax.random.key(0), 5)
  assert state == {}
  loss, _ = call(objective, params, state)
  z = H @ params["Dense_0"]["kernel"]
  np.testing.assert_allclose(
    loss, losses.nt_xent(z[0], z[1], temperature=0.5), rtol=1e-5
  )


def test_one_group_no_schedule_no_teacher():
  params, _ = OBJECTIVE.init(jax.random.key(0), 5)
  assert set(jax.tree.leaves(OBJECTIVE.groups(params))) == {"head"}
  assert OBJECTIVE.schedules() == {}
  assert OBJECTIVE.teacher_momentum(jnp.zeros((), int)) is None


def test_temperature_must_be_positive():
  with pytest.raises(ValueError, match=r"objective.temperature=0"):
    SimCLR(0.0, hidden_dims=(), out_dim=4)
