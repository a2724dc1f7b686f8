"""The head's own loop inside of the step, by hand."""

import dataclasses
import functools

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from objectives.cases import BY_NAME

from jssl import rng, tree
from jssl.augment import Augment
from jssl.config.build import build_optimizer
from jssl.models.backbone import Backbone
from jssl.models.heads import Head
from jssl.models.tokens import Encoded
from jssl.objectives.base import Features
from jssl.objectives.encode import make_encoder, rows_of
from jssl.objectives.simclr import SimCLR
from jssl.optim import Optim
from jssl.optim.bilevel import HeadStrategy
from jssl.train.state import init_state
from jssl.train.step import make_train_step

B, D, RATE = 8, 6, 0.05
AUGMENT = Augment(crop_size_px=4, crop_min_area=0.3)
OBJECTIVE = SimCLR(temperature=0.5, projector=Head((), 4))
HOW = HeadStrategy("alternating", steps=3, learning_rate=0.2, l2=0.01)
BATCH = {
  "image": np.random.default_rng(0).integers(0, 256, (B, 4, 4, 1), np.uint8),
  "label": np.zeros(B, np.int32),
}


def linear() -> Backbone:
  def init(key, image_shape):
    return {"params": {"w": jax.random.normal(key, (16, D)) / 4}}

  def apply(variables, images, *, train, keys=None):
    x = images.reshape(len(images), -1)
    return Encoded(x @ variables["params"]["w"]), variables

  return Backbone(init, apply, D)


@functools.cache
def one_step(how):
  backbone = linear()
  optimizer = build_optimizer(
    Optim("sgd", RATE), backbone, OBJECTIVE, how, (4, 4, 1), 10
  )
  state = init_state(0, backbone, OBJECTIVE, optimizer, (4, 4, 1), how)
  step = make_train_step(backbone, OBJECTIVE, AUGMENT, optimizer, head=how)
  after, metrics = jax.jit(step)(state, BATCH)
  return state, after, metrics


def expected(state, how):
  """Backbone and head after the step, and the inner gradient's norm."""
  encoder = make_encoder(linear(), AUGMENT, OBJECTIVE)
  rows = rows_of(BATCH["image"], state.rng, 0)
  key = rng.stream(state.rng, "objective", 0)
  half = B // 2 if how.batch == "fresh" else B
  sgd = optax.sgd(how.learning_rate, how.momentum)

  def loss(phi, h):
    return OBJECTIVE.loss(
      phi, state.objective, Features((Encoded(h),)), key=key, step=0
    )[0]

  def inner(phi, h):
    squares = sum(jnp.sum(x**2) for x in jax.tree.leaves(phi))
    return loss(phi, h) + how.l2 / 2 * squares

  def respond(h):
    phi, memory = state.head_params, sgd.init(state.head_params)
    for _ in range(how.steps):
      updates, memory = sgd.update(jax.grad(inner)(phi, h), memory)
      phi = optax.apply_updates(phi, updates)
    return phi

  def total(params):
    (h,) = encoder({"params": params}, (), rows).features.pooled
    answer = respond(h[:, :half])
    if how.strategy == "alternating":
      answer = jax.lax.stop_gradient(answer)
    return loss(answer, h[:, -half:])

  params = state.backbone["params"]
  gradient = jax.grad(total)(params)
  (h,) = encoder({"params": params}, (), rows).features.pooled
  answer = respond(h[:, :half])
  rest = tree.norm(jax.grad(inner)(answer, h[:, :half]))
  return {"w": params["w"] - RATE * gradient["w"]}, answer, rest


@pytest.mark.parametrize(
  "how",
  [
    pytest.param(HOW, marks=pytest.mark.slow),
    dataclasses.replace(HOW, batch="fresh"),
    pytest.param(
      dataclasses.replace(HOW, strategy="unrolled", batch="fresh"),
      marks=pytest.mark.slow,
    ),
  ],
  ids=["alternating", "fresh", "unrolled"],
)
def test_the_step_is_inner_steps_and_one_of_the_backbone(how):
  state, after, metrics = one_step(how)
  params, head, rest = expected(state, how)
  near = functools.partial(
    jax.tree.map,
    functools.partial(np.testing.assert_allclose, rtol=1e-4, atol=1e-6),
  )
  near(after.backbone["params"], params)
  near(after.head_params["projector"], head["projector"])
  near(metrics["head_gradient_norm"], rest)
  assert after.head_opt_state


def test_the_three_ways_part():
  """And the implicit one is the step's too."""
  fresh = dataclasses.replace(HOW, batch="fresh")
  steps = {
    strategy: one_step(dataclasses.replace(fresh, strategy=strategy))[1]
    for strategy in ("alternating", "unrolled", "implicit")
  }
  w = {name: after.backbone["params"]["w"] for name, after in steps.items()}
  for one, other in (
    ("alternating", "unrolled"),
    ("alternating", "implicit"),
    ("unrolled", "implicit"),
  ):
    assert np.abs(w[one] - w[other]).max() > 1e-6
  # The inner loop is the same: only what its answer is worth differs.
  heads = [jax.tree.leaves(after.head_params) for after in steps.values()]
  for leaves in zip(*heads, strict=True):
    np.testing.assert_allclose(leaves[0], leaves[1], rtol=1e-5)
    np.testing.assert_allclose(leaves[0], leaves[2], rtol=1e-5)


CONTRASTIVE = (
  *("simclr", "dcl", "supcon", "spectral", "nnclr", "cissl"),
  *("moco_v3", "moco_v3_queue"),
)


@pytest.mark.parametrize(
  ("name", "strategy"),
  [
    pytest.param(
      name,
      strategy,
      marks=()
      if (name, strategy) == ("moco_v3_queue", "implicit")
      else pytest.mark.slow,
    )
    for name in CONTRASTIVE
    for strategy in ("alternating", "unrolled", "implicit")
  ],
)
def test_every_contrastive_method_has_it(name, strategy):
  """Traced: shapes, dtypes and what is carried fit from step to step."""
  objective, backbone = BY_NAME[name].objective, linear()
  how = HeadStrategy(
    strategy, steps=2, optimizer="adam", batch="fresh", damping=1.0
  )
  optimizer = build_optimizer(
    Optim("sgd", RATE), backbone, objective, how, (4, 4, 1), 10
  )
  state = jax.eval_shape(
    lambda: init_state(0, backbone, objective, optimizer, (4, 4, 1), how)
  )
  b = 48  # Halves of it fill a queue of 24.
  batch = {
    "image": jax.ShapeDtypeStruct((b, 4, 4, 1), jnp.uint8),
    "label": jax.ShapeDtypeStruct((b,), jnp.int32),
  }
  step = make_train_step(backbone, objective, AUGMENT, optimizer, head=how)
  after, metrics = jax.eval_shape(step, state, batch)
  assert "head_gradient_norm" in metrics
  assert jax.tree.structure(after) == jax.tree.structure(state)
  for old, new in zip(
    jax.tree.leaves(state), jax.tree.leaves(after), strict=True
  ):
    assert (old.shape, old.dtype) == (new.shape, new.dtype)
