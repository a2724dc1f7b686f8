"""Every method through the train step, with what is large split over fsdp."""

import dataclasses
import math

import jax
import numpy as np
import pytest
from objectives.cases import BY_NAME, leaves
from shipped import Shapes

from jssl.augment import Augment
from jssl.config import schema
from jssl.config.build import Run, build_optimizer
from jssl.mesh import make_mesh
from jssl.models import Encoded, ViT
from jssl.models.backbone import Backbone
from jssl.models.heads import Head, Prototypes
from jssl.optim import Optim
from jssl.optim.bilevel import HeadStrategy
from jssl.train.init import Program

B, WIDTH, HIDDEN, SIZE_PX, PATCH_PX = 16, 256, 1536, 8, 4
IMAGE = (SIZE_PX, SIZE_PX, 3)
# 256 x 256, the least that is split.
LARGE = WIDTH**2

# These show the most: prototypes, averaged heads, a queue.
FAST = ("dino", "moco_v3_queue")


def widened(objective):
  """Returns a method with layers that are large enough to be split."""
  changed = {}
  for field in dataclasses.fields(objective):
    value = getattr(objective, field.name)
    if isinstance(value, Head) and (value.hidden_dims or value.out_dim):
      # W-MSE's features have to be fewer than the rows that whiten them.
      few = type(objective).__name__ == "WMSE"
      changed[field.name] = dataclasses.replace(
        value,
        hidden_dims=(WIDTH,) * len(value.hidden_dims),
        out_dim=4 if few else value.out_dim and WIDTH,
      )
    elif isinstance(value, Prototypes):
      changed[field.name] = dataclasses.replace(
        value, number=WIDTH, freeze_steps=0
      )
    elif field.name in ("queue_size", "out_dim") and value:
      changed[field.name] = WIDTH
  return dataclasses.replace(objective, **changed)


def backbone():
  """Two layers, the mean over patches between them; no norm, nothing drawn."""

  def init(key, shape):
    del shape
    keys = jax.random.split(key)
    inputs = PATCH_PX**2 * IMAGE[2]
    return {
      "params": {
        "patches": jax.random.normal(keys[0], (inputs, HIDDEN)) / inputs**0.5,
        "out": jax.random.normal(keys[1], (HIDDEN, WIDTH)) / HIDDEN**0.5,
      }
    }

  def apply(variables, images, *, train, keys=None):
    del train, keys
    b, size, _, c = images.shape
    n, params = size // PATCH_PX, variables["params"]
    x = images.reshape(b, n, PATCH_PX, n, PATCH_PX, c).swapaxes(2, 3)
    x = jax.nn.gelu(x.reshape(b * n**2, -1) @ params["patches"])
    h = x.reshape(b, n**2, -1).mean(1) @ params["out"]
    return Encoded(h), variables

  return Backbone(init, apply, WIDTH)


def program(objective, data, fsdp):
  encoder = backbone()
  optim = Optim("sgd", 1e-3, weight_decay=1e-3)
  config = schema.Config(
    data=schema.Data("cluttered_digits", batch_size=B, image_size_px=SIZE_PX),
    augment=Augment(
      crop_size_px=SIZE_PX, crop_min_area=0.3, flip_probability=0.5
    ),
    model=ViT(patch_size_px=PATCH_PX, width=WIDTH, depth=1, num_heads=1),
    objective=objective,
    optim=optim,
    train=schema.Train(10),
    log=schema.Log(diagnostics=False),
    checkpoint=schema.Checkpoint(10),
  )
  run = Run(
    config=config,
    source=Shapes(config.data),
    image_shape=IMAGE,
    backbone=encoder,
    objective=objective,
    optimizer=build_optimizer(
      optim, encoder, objective, HeadStrategy(), IMAGE, 10
    ),
    mesh=make_mesh(data, fsdp),
  )
  return Program(run)


def assert_split(state):
  """No device has more than half of what is large; returns its names."""
  large = {
    name: leaf
    for name, leaf in leaves(state).items()
    if math.prod(leaf.shape) >= LARGE
  }
  for name, leaf in large.items():
    assert "fsdp" in leaf.sharding.spec, name
    assert len(leaf.addressable_shards) == 8
    for shard in leaf.addressable_shards:
      assert 2 * shard.data.size == leaf.size, name
  return {*large}


def assert_parts_are_split(state, objective):
  """Of each part of the state, and all that belongs to a parameter alike."""
  split = assert_split(state._asdict())
  learned = {
    *(name for name in split if name.startswith("backbone/params/")),
    *(name for name in split if name.startswith("head_params/")),
  }
  assert {f"backbone/params/{n}" for n in ("patches", "out")} < learned
  assert any(name.startswith("head_params/") for name in learned)
  moments = {name for name in split if name.startswith("opt_state/")}
  for name in learned:
    own = name.replace("backbone/params", "backbone").replace("_params", "")
    assert any(moment.endswith(own) for moment in moments), (own, moments)
  if objective.teacher_momentum(0) is not None:
    assert {f"teacher/params/{n}" for n in ("patches", "out")} < split
    assert any(name.startswith("objective/") for name in split)
  if hasattr(objective, "prototypes"):
    assert any("prototypes" in name for name in learned)
  if getattr(objective, "queue_size", 0):
    assert "objective/queue/rows" in split


def trained(objective, data, fsdp, first=None):
  """Losses of three steps and what they leave, in float64."""
  made = program(objective, data, fsdp)
  born = None
  if first is None:
    init = made.init.lower().compile()
    # Nor is it made whole on the way.
    text = init.as_text()
    for whole in (f"[{HIDDEN},{WIDTH}]", f"[{PATCH_PX**2 * 3},{HIDDEN}]"):
      assert whole not in text
    born = init()
    assert_parts_are_split(born, objective)
    first = jax.tree.map(np.asarray, born._replace(rng=None))
    first = jax.tree.map(
      lambda x: x.astype(np.float64) if x.dtype == np.float32 else x, first
    )
  state = jax.tree.map(
    lambda leaf, like: jax.device_put(leaf, like.sharding),
    first._replace(rng=jax.random.key(0)),
    made.abstract_state,
  )
  losses = []
  for step in range(3):
    random = np.random.default_rng(step)
    batch = {
      "image": random.integers(0, 256, (B, *IMAGE), np.uint8),
      "label": random.integers(0, 4, B, np.int32),
    }
    batch = jax.device_put(batch, made.batch_sharding)
    state, metrics = made.step(state, batch)
    losses.append(metrics["loss"])
  return first, np.array(losses), state


@pytest.mark.usefixtures("x64")
@pytest.mark.parametrize(
  "name",
  [
    name if name in FAST else pytest.param(name, marks=pytest.mark.slow)
    for name, case in BY_NAME.items()
    # Others are in test_token_methods.py.
    if not case.objective.uses_tokens
  ],
)
def test_split_parameters_learn_as_whole_ones(name):
  objective = widened(BY_NAME[name].objective)
  first, got, state = trained(objective, 4, 2)
  assert_parts_are_split(state, objective)
  _, expected, whole = trained(objective, 1, 1, first)
  assert got.dtype == np.float64
  # A run that diverges on both would compare equal.
  assert np.all(np.isfinite(expected))
  assert len({*expected}) == 3
  np.testing.assert_allclose(got, expected, rtol=1e-10)
  state, whole = (leaves(s._replace(rng=())) for s in (state, whole))
  assert state.keys() == whole.keys()
  for leaf, value in whole.items():
    got, expected = np.asarray(state[leaf]), np.asarray(value)
    # What a norm takes out again has no gradient but rounding.
    atol = max(1e-9 * np.max(np.abs(expected)), 1e-14)
    np.testing.assert_allclose(
      got, expected, rtol=1e-8, atol=atol, err_msg=leaf
    )
  # All that is learned has moved.
  for leaf, value in leaves(first.backbone).items():
    assert np.any(value != np.asarray(state[f"backbone/{leaf}"]))
