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


def run(optim, grads, multipliers=None, steps=STEPS, constant=frozenset()):
  """Returns the parameters before and after each step."""
  optimizer = make_optimizer(
    optim, GROUPS, multipliers or {}, total_steps=STEPS, constant=constant
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


def follow(optim, params, grads):
  """Returns the parameters of one group after each of some gradients."""
  groups = jax.tree.map(lambda _: "backbone", params)
  optimizer = make_optimizer(optim, groups, {}, total_steps=STEPS)

  @jax.jit
  def step(params, state, grads):
    updates, state = optimizer.update(grads, state, params)
    return optax.apply_updates(params, updates), state

  state, history = optimizer.init(params), []
  for grad in grads:
    params, state = step(params, state, grad)
    history.append(params)
  return history


def oracle(optim, p, grads, decays, matrix):
  """Returns one layer's leaf after each step, float64, from the papers."""
  history, trace, first, second = [], 0.0, 0.0, 0.0

  def trust(update, coefficient):
    norms = np.sqrt((p**2).sum()), np.sqrt((update**2).sum())
    adapted = matrix and min(norms) > 0
    return coefficient * norms[0] / norms[1] if adapted else 1.0

  for t, g in enumerate(grads):
    rate = optim.learning_rate * (1 + np.cos(np.pi * t / STEPS)) / 2
    decay = decays[t] if matrix else 0.0
    g = g + decay * p if optim.name == "adam" else g
    first = optim.b1 * first + (1 - optim.b1) * g
    second = optim.b2 * second + (1 - optim.b2) * g**2
    mean = first / (1 - optim.b1 ** (t + 1))
    root = np.sqrt(second / (1 - optim.b2 ** (t + 1)))
    match optim.name:
      case "sgd":
        trace = optim.momentum * trace + g + decay * p
        p = p - rate * trace
      case "lars":
        update = g + decay * p
        scale = rate * trust(update, optim.trust_coefficient)
        trace = optim.momentum * trace + scale * update
        p = p - trace
      case "adamw":
        p = p - rate * (mean / (root + 1e-8) + decay * p)
      case "adam":
        p = p - rate * mean / (root + 1e-8)
      case "lamb":
        update = mean / (root + 1e-6) + decay * p
        p = p - rate * trust(update, 1.0) * update
    history.append(p)
  return history


def stacked_and_unrolled(draw):
  """Returns a ViT's names with stacked blocks, and with three of them."""
  layers = [
    {
      "qkv": {"kernel": draw(2, 4), "bias": draw(4)},
      "attention_norm": {"scale": draw(2)},
    }
    for _ in range(3)
  ]
  rest = {"norm": {"scale": draw(2)}, "positions": draw(1, 3, 2)}
  stacked = {"blocks": jax.tree.map(lambda *x: np.stack(x), *layers), **rest}
  unrolled = {**{f"block_{i}": layer for i, layer in enumerate(layers)}, **rest}
  return stacked, unrolled


def as_unrolled(params):
  """Returns a stacked tree with the names of the unrolled one."""
  rest = {name: leaf for name, leaf in params.items() if name != "blocks"}
  layers = {
    f"block_{i}": jax.tree.map(lambda leaf, i=i: leaf[i], params["blocks"])
    for i in range(3)
  }
  return {**layers, **rest}


@pytest.mark.parametrize("name", ["sgd", "adamw", "adam", "lars", "lamb"])
def test_stacked_and_unrolled_layers_against_loops(name, x64):
  """Also says who is decayed, with a decay that grows, and adapted."""
  optim = Optim(
    name, 0.1, weight_decay=0.04, weight_decay_end=0.4, trust_coefficient=0.02
  )
  rng = np.random.default_rng(0)
  steps = 3
  stacked, unrolled = stacked_and_unrolled(
    lambda *shape: rng.normal(size=shape)
  )
  # As `zero_init_residual` starts: no ratio in one layer, and others have one.
  stacked["blocks"]["qkv"]["kernel"][1] = 0.0
  unrolled["block_1"]["qkv"]["kernel"][:] = 0.0
  draws = [
    stacked_and_unrolled(lambda *shape: rng.normal(size=shape))
    for _ in range(steps)
  ]
  one = follow(optim, stacked, [grads for grads, _ in draws])
  other = follow(optim, unrolled, [grads for _, grads in draws])
  k = np.arange(steps)
  decays = 0.4 - (0.4 - 0.04) * (np.cos(np.pi * k / STEPS) + 1) / 2
  paths = jax.tree_util.tree_leaves_with_path(unrolled)
  grads = [jax.tree.leaves(grads) for _, grads in draws]
  for j, (path, leaf) in enumerate(paths):
    matrix = "kernel" in str(path)
    expected = oracle(optim, leaf, [g[j] for g in grads], decays, matrix)
    for t in range(steps):
      a = jax.tree.leaves(as_unrolled(one[t]))[j]
      b = jax.tree.leaves(other[t])[j]
      assert a.dtype == b.dtype == np.float64
      np.testing.assert_allclose(a, expected[t], rtol=1e-10, err_msg=str(path))
      np.testing.assert_allclose(b, expected[t], rtol=1e-10, err_msg=str(path))


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


@pytest.mark.parametrize("name", ["sgd", "adamw", "lars", "lamb"])
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


def test_the_decay_of_a_frozen_group_counts_on():
  optim = Optim(
    "sgd", 0.1, momentum=0.0, weight_decay=0.0, weight_decay_end=0.8
  )
  thaw = {"head": lambda step: jnp.where(step < 3, 0.0, 1.0)}
  history = run(optim, jax.tree.map(jnp.zeros_like, PARAMS), thaw, steps=5)
  w = 2.0
  for step in (3, 4):
    decay = 0.8 - 0.8 * (np.cos(np.pi * step / STEPS) + 1) / 2
    w *= 1 - rates(optim)[step] * decay
    np.testing.assert_allclose(history[step + 1]["head"]["w"], w, rtol=1e-5)


def test_a_constant_group_stays_at_the_peak():
  optim = Optim("sgd", 0.1, warmup_steps=2, momentum=0.0)
  grads = jax.tree.map(jnp.ones_like, PARAMS)
  half = {"head": lambda step: jnp.where(step < 4, 1.0, 0.5)}
  history = run(optim, grads, half, constant=frozenset({"head"}))
  head = 2.0 - 0.1 * np.cumsum([1.0] * 4 + [0.5] * 4)
  backbone = 2.0 - np.cumsum(rates(optim))
  for step, params in enumerate(history[1:]):
    np.testing.assert_allclose(params["head"]["w"], head[step], rtol=1e-5)
    np.testing.assert_allclose(
      params["backbone"]["w"], backbone[step], rtol=1e-5
    )


@pytest.mark.parametrize("name", ["lars", "lamb"])
def test_nothing_to_adapt(name):
  params = {"blocks": {"bias": jnp.ones((3, 2))}}
  with pytest.raises(ValueError, match=rf"optim.name='{name}'.*blocks/bias"):
    follow(Optim(name, 0.1), params, [params])


@pytest.mark.parametrize(
  ("values", "match"),
  [
    ({"name": "adagrad"}, "optim.name='adagrad'"),
    ({"learning_rate": 0.0}, "optim.learning_rate=0.0"),
    ({"momentum": 1.0}, r"optim.momentum=1.0 must be in \[0, 1\)"),
    ({"weight_decay": -1.0}, "optim.weight_decay=-1.0"),
  ],
)
def test_bad_values_are_named(values, match):
  with pytest.raises(ValueError, match=match):
    dataclasses.replace(Optim("sgd", 0.1), **values)


def test_a_group_without_parameters():
  match = r"\['prototypes'\].*backbone.*head"
  with pytest.raises(ValueError, match=match):
    run(Optim("sgd", 0.1), PARAMS, {"prototypes": lambda step: 0.0})
  with pytest.raises(ValueError, match=match):
    run(Optim("sgd", 0.1), PARAMS, constant=frozenset({"prototypes"}))
