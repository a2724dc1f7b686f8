import dataclasses

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from jssl.optim import Optim, make_optimizer

PARAMS = {
  "backbone": {"w": jnp.full((2, 2), 2.0), "b": jnp.full(2, 2.0)},
  "head": {"w": jnp.full((2, 2), 2.0)},
}
GROUPS = {
  "backbone": {"w": "backbone", "b": "backbone"},
  "head": {"w": "head"},
}
STEPS = 8


def run(optim, grads, multipliers=None, steps=STEPS):
  """Returns the parameters before and after each step."""
  optimizer = make_optimizer(
    optim, GROUPS, multipliers or {}, total_steps=STEPS
  )
  params, state, history = PARAMS, optimizer.init(PARAMS), [PARAMS]
  for _ in range(steps):
    updates, state = optimizer.update(grads, state, params)
    params = optax.apply_updates(params, updates)
    history.append(params)
  return history


def rates(optim):
  schedule = optim.schedule(STEPS)
  return [float(schedule(s)) for s in range(STEPS)]


def test_sgd_by_hand():
  optim = Optim("sgd", 0.1, warmup_steps=2, weight_decay=0.5, momentum=0.9)
  history = run(optim, jax.tree.map(jnp.ones_like, PARAMS))
  w = b = 2.0
  trace_w = trace_b = 0.0
  for rate, params in zip(rates(optim), history[1:], strict=True):
    trace_w = 0.9 * trace_w + 1 + 0.5 * w
    trace_b = 0.9 * trace_b + 1  # Vectors aren't decayed.
    w, b = w - rate * trace_w, b - rate * trace_b
    np.testing.assert_allclose(params["backbone"]["w"], w, rtol=1e-5)
    np.testing.assert_allclose(params["backbone"]["b"], b, rtol=1e-5)


def test_adamw_by_hand():
  optim = Optim("adamw", 0.1, weight_decay=0.5, b1=0.9, b2=0.99)
  history = run(optim, jax.tree.map(jnp.ones_like, PARAMS))
  w = b = 2.0
  for rate, params in zip(rates(optim), history[1:], strict=True):
    # With a constant gradient of one, both corrected moments are one.
    w, b = w - rate * (1 + 0.5 * w), b - rate
    np.testing.assert_allclose(params["backbone"]["w"], w, rtol=1e-5)
    np.testing.assert_allclose(params["backbone"]["b"], b, rtol=1e-5)


def test_lars_by_hand():
  optim = Optim(
    "lars", 0.1, weight_decay=0.5, momentum=0.9, trust_coefficient=0.01
  )
  history = run(optim, jax.tree.map(jnp.ones_like, PARAMS))
  w = b = 2.0
  trace_w = trace_b = 0.0
  for rate, params in zip(rates(optim), history[1:], strict=True):
    update = 1 + 0.5 * w
    trust = 0.01 * abs(w) / abs(update)
    trace_w = 0.9 * trace_w + rate * trust * update
    trace_b = 0.9 * trace_b + rate  # Vectors are neither decayed nor adapted.
    w, b = w - trace_w, b - trace_b
    np.testing.assert_allclose(params["backbone"]["w"], w, rtol=1e-5)
    np.testing.assert_allclose(params["backbone"]["b"], b, rtol=1e-5)


def test_clipping_is_over_all_groups():
  optim = Optim("sgd", 1.0, momentum=0.0, clip_norm=1.0)
  grads = jax.tree.map(jnp.ones_like, PARAMS)  # 10 ones: norm sqrt(10).
  first = run(optim, grads, steps=1)[1]
  for leaf in jax.tree.leaves(first):
    np.testing.assert_allclose(leaf, 2 - 1 / np.sqrt(10), rtol=1e-5)


@pytest.mark.parametrize("name", ["sgd", "adamw", "lars"])
def test_a_frozen_group_stands_still_and_then_starts_afresh(name):
  optim = Optim(name, 0.1, weight_decay=0.1)
  grads = jax.tree.map(jnp.ones_like, PARAMS)
  thaw = {"head": lambda step: jnp.where(step < 3, 0.0, 1.0)}
  history = run(optim, grads, thaw)
  for params in history[:4]:
    np.testing.assert_array_equal(params["head"]["w"], PARAMS["head"]["w"])
  # Thawed at step 3 it takes the step of a fresh optimizer at that rate.
  rate = rates(optim)[3]
  fresh = dataclasses.replace(optim, learning_rate=rate)
  expected = run(fresh, grads, steps=1)[1]["head"]["w"]
  np.testing.assert_allclose(history[4]["head"]["w"], expected, rtol=1e-5)
  # Nobody else notices.
  free = run(optim, grads)
  for a, b in zip(history, free, strict=True):
    np.testing.assert_array_equal(a["backbone"]["w"], b["backbone"]["w"])


@pytest.mark.parametrize(
  ("values", "match"),
  [
    ({"name": "adam"}, "optim.name='adam'"),
    ({"learning_rate": 0.0}, "optim.learning_rate=0.0"),
    ({"momentum": 1.0}, r"optim.momentum=1.0 must be in \[0, 1\)"),
    ({"weight_decay": -1.0}, "optim.weight_decay=-1.0"),
  ],
)
def test_bad_values_are_named(values, match):
  with pytest.raises(ValueError, match=match):
    dataclasses.replace(Optim("sgd", 0.1), **values)


def test_a_schedule_without_parameters():
  with pytest.raises(ValueError, match=r"\['prototypes'\].*backbone.*head"):
    run(Optim("sgd", 0.1), PARAMS, {"prototypes": lambda step: 0.0})
