"""The step, on a mesh and off it."""

import dataclasses

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from shipped import Shapes

from jssl.augment import Augment, views
from jssl.config import schema
from jssl.config.build import Run, build_optimizer
from jssl.mesh import make_mesh
from jssl.models import ResNet, ViT
from jssl.models.backbone import Backbone
from jssl.models.heads import Head
from jssl.models.tokens import Encoded
from jssl.objectives import SimCLR
from jssl.objectives.base import Aux, Objective
from jssl.objectives.encode import encode
from jssl.optim import Optim
from jssl.optim.bilevel import HeadStrategy
from jssl.rng import per_row, stream
from jssl.train.init import (
  Program,
  checkpoint_items,
  from_checkpoint_items,
  model_flops,
)
from jssl.train.state import init_state
from jssl.train.step import make_train_step

DATA = schema.Data("cluttered_digits", batch_size=16, image_size_px=16)


@pytest.fixture(scope="module")
def batches():
  random = np.random.default_rng(0)
  return [
    {
      "image": random.integers(0, 256, (16, 16, 16, 3), np.uint8),
      "label": random.integers(0, 10, 16, np.int32),
    }
    for _ in range(20)
  ]


def make_run(model, optim, data=1, fsdp=1) -> Run:
  objective = SimCLR(temperature=0.2, projector=Head((128,), 32))
  backbone, shape = model.backbone(), (16, 16, 3)
  config = schema.Config(
    data=DATA,
    # Other augmentations have their own tests on all meshes.
    augment=Augment(crop_size_px=16, crop_min_area=0.3, flip_probability=0.5),
    model=model,
    objective=objective,
    optim=optim,
    train=schema.Train(20),
    log=schema.Log(every_steps=3),
    checkpoint=schema.Checkpoint(10),
  )
  return Run(
    config=config,
    source=Shapes(DATA),
    image_shape=shape,
    backbone=backbone,
    objective=objective,
    optimizer=build_optimizer(
      optim, backbone, objective, HeadStrategy(), shape, 20
    ),
    mesh=make_mesh(data, fsdp),
  )


def measured(run, batches, dtype, prepare=lambda x: x):
  program = Program(run)
  state = jax.tree.map(
    lambda x: (
      prepare(x.astype(dtype)).astype(dtype) if x.dtype == jnp.float32 else x
    ),
    program.init(),
  )
  rows = []
  for batch in batches:
    batch = jax.device_put(batch, program.batch_sharding)
    state, metrics = program.step(state, batch)
    rows.append([metrics[name] for name in ("loss", *program.measures)])
  return np.array(rows, float), state


VIT = {"patch_size_px": 8, "width": 128, "depth": 1, "num_heads": 2}
RESNET = {"depth": 18, "small_images": True, "width": 8, "mean": (0.5,)}


MODERN = {
  "pooling": "cls_mean",
  "num_registers": 2,
  "positions": "rope",
  "rope_rescale": 2.0,
  "mlp": "swiglu",
  "qkv_bias": "qv",
  "drop_path": 0.2,
  "drop_path_uniform": True,
  "scan_layers": True,
  "remat": "block",
}


@pytest.mark.parametrize(
  "make",
  [
    "modern",
    pytest.param("vit", marks=pytest.mark.slow),
    pytest.param("resnet", marks=pytest.mark.slow),
  ],
)
def test_meshes_give_the_same_losses_in_float64(x64, batches, make):
  model = {
    "vit": ViT(**VIT, dtype="float64"),
    "modern": ViT(**VIT, **MODERN, dtype="float64"),
    "resnet": ResNet(**RESNET, std=(0.25,), dtype="float64"),
  }[make]
  number = 20 if make == "vit" else 4
  optim = Optim("adamw", 1e-3, weight_decay=0.05, clip_norm=1.0)
  expected, _ = measured(make_run(model, optim), batches[:number], "float64")
  assert expected[-1, 0] != expected[0, 0]
  due = [step in (3, 6, 9, 12, 15, 18, 20) for step in range(1, number + 1)]
  np.testing.assert_array_equal(expected[:, 1:].all(1), due)
  np.testing.assert_array_equal(expected[:, 1:].any(1), due)
  for data, fsdp in [(8, 1), (4, 2)]:
    run = make_run(model, optim, data, fsdp)
    got, _ = measured(run, batches[:number], "float64")
    np.testing.assert_allclose(got, expected, rtol=0, atol=1e-9)


@pytest.mark.slow
def test_meshes_give_the_same_losses_in_float32(batches):
  """Meshes change losses no more than rounding the parameters does.

  Sums in another order differ by rounding, which 20 steps amplify by as much as
  the compiler and the processor have it. Parameters that differ by one unit in
  the last place measure this amplification; that nothing else differs is held
  in float64 above.
  """
  # On these images of noise larger steps amplify rounding more.
  optim = Optim("sgd", 0.003, weight_decay=1e-4)
  run = make_run(ViT(**VIT), optim)
  expected, _ = measured(run, batches, "float32")
  rounding = 0.0
  for towards in (-np.inf, np.inf):
    rounded, _ = measured(
      run, batches, "float32", lambda x, to=towards: jnp.nextafter(x, to)
    )
    differences = rounded[:, 0] / expected[:, 0] - 1
    rounding = max(rounding, np.max(np.abs(differences)))
  # Measured: 3e-7 to 7e-7 by rounding, 5e-7 by meshes.
  assert rounding < 1e-5
  for data, fsdp in [(8, 1), (4, 2)]:
    run = make_run(ViT(**VIT), optim, data, fsdp)
    got, state = measured(run, batches, "float32")
    np.testing.assert_allclose(got, expected, rtol=10 * rounding + 1e-6)
  # And the last of them really was split.
  kernel = state.backbone["params"]["block_0"]["mlp_in"]["kernel"]
  assert kernel.sharding.spec == jax.sharding.PartitionSpec(None, "fsdp")
  assert kernel.addressable_shards[0].data.shape == (128, 256)


def test_views_of_an_image_stay_together():
  seen = []

  def apply(variables, images, *, train, keys):
    seen.append((images, keys))
    return Encoded(images.mean(axis=(1, 2))), variables

  backbone = Backbone(lambda *_: {}, apply, 3)
  random = np.random.default_rng(0)
  x = random.random((2, 5, 4, 4, 3), np.float32)
  small = random.random((3, 5, 2, 2, 3), np.float32)
  keys = per_row(jax.random.key(0), 5)
  features, _ = encode(backbone, {}, (x, small), keys)
  for (h, *_), images in zip(features, (x, small), strict=True):
    np.testing.assert_allclose(h, images.mean(axis=(2, 3)), rtol=1e-6)
  np.testing.assert_array_equal(seen[0][0][:2], x[:, 0])
  np.testing.assert_array_equal(seen[1][0][:3], small[:, 0])
  drawn = np.concatenate([jax.random.key_data(keys) for _, keys in seen])
  assert len(np.unique(drawn, axis=0)) == 25


def test_the_step_donates_its_state(batches):
  program = Program(make_run(ViT(**VIT), Optim("sgd", 0.1)))
  state = program.init()
  program.step(state, jax.device_put(batches[0], program.batch_sharding))
  assert all(leaf.is_deleted() for leaf in jax.tree.leaves(state))


def test_a_state_is_taken_apart_and_put_together():
  program = Program(make_run(ViT(**VIT), Optim("adamw", 0.1)))
  state = program.init()
  again = from_checkpoint_items(checkpoint_items(state))
  assert again._fields == state._fields
  for a, b in zip(again, state, strict=True):
    leaves = zip(jax.tree.leaves(a), jax.tree.leaves(b), strict=True)
    assert all(x is y for x, y in leaves)


class Averaging(Objective):
  """An objective with a teacher: the loss is its distance from the student."""

  def init(self, key, feature_dim):
    return {}, {"calls": jnp.zeros((), int)}

  def teacher_momentum(self, step):
    return jnp.where(step < 1, 0.5, 0.75)

  def loss(self, head_params, state, features, *, key, step):
    (student,), (teacher,) = features.pooled, features.teacher_pooled
    loss = jnp.mean((student - teacher[::-1]) ** 2)
    return loss, Aux({"views": jnp.asarray(len(student))}, state["calls"] + 1)

  def update(self, head_params, state, carry, *, step):
    return head_params, {"calls": carry}


def test_the_averaged_backbone_follows_with_its_momentum(batches):
  """And the objective's state and metrics are carried."""
  run = make_run(ViT(**VIT), Optim("sgd", 0.5))
  backbone, objective = run.backbone, Averaging()
  chain = build_optimizer(
    run.config.optim, backbone, objective, HeadStrategy(), (16, 16, 3), 20
  )
  state = init_state(0, backbone, objective, chain, (16, 16, 3))
  step = jax.jit(
    make_train_step(backbone, objective, run.config.augment, chain)
  )
  average = state.backbone["params"]
  for batch, momentum in zip(batches[:3], [0.5, 0.75, 0.75], strict=True):
    state, metrics = step(state, batch)
    average = jax.tree.map(
      lambda a, n, m=momentum: m * a + (1 - m) * n,
      average,
      state.backbone["params"],
    )
  assert metrics["views"] == 2
  assert state.objective["calls"] == 3
  for a, b in zip(
    jax.tree.leaves(state.teacher["params"]),
    jax.tree.leaves(average),
    strict=True,
  ):
    np.testing.assert_allclose(a, b, rtol=1e-5, atol=1e-7)
    assert np.all(np.isfinite(a))


def test_steps_see_different_views(batches):
  """One key per step and row, from the run's root key."""
  run = make_run(ViT(**VIT), Optim("sgd", 0.1))
  root = jax.random.key(0)
  image = batches[0]["image"]
  one, two = (
    views(
      run.config.augment, per_row(stream(root, "augment", s), 16), image, 2
    )[0]
    for s in (0, 1)
  )
  assert np.abs(one - two).max() > 0.1
  assert np.abs(one[0] - one[1]).max() > 0.1


def test_model_flops_leave_out_what_is_computed_twice():
  vit = ViT(patch_size_px=8, width=32, depth=2, num_heads=2)
  plain = make_run(vit, Optim("sgd", 0.1))
  twice = make_run(dataclasses.replace(vit, remat="block"), Optim("sgd", 0.1))
  chunked = dataclasses.replace(twice.config, train=schema.Train(10, chunks=2))
  twice = twice._replace(config=chunked)
  program = Program(twice)
  assert program.product_flops > 1.3 * Program(plain).product_flops
  assert model_flops(twice, program) == Program(plain).product_flops
