"""Fine-tuning: mixed images in chunks and on meshes, and a frozen backbone."""

import functools

import jax
import numpy as np
import pytest
from objectives.cases import leaves
from shipped import Shapes, config

from jssl import checkpoint
from jssl.augment import Augment
from jssl.config.build import build
from jssl.mesh import batch_sharding, make_mesh
from jssl.models.backbone import Backbone
from jssl.models.tokens import Encoded
from jssl.objectives import Supervised
from jssl.objectives.encode import make_encoder, rows_of
from jssl.train.chunked import encode_with_pullback
from jssl.train.init import Program, checkpoint_items, initial_state

B, STEPS = 16, 3
UNMIXED = (("augment.mixup_alpha", 0.0), ("augment.cutmix_alpha", 0.0))


def sections(model):
  """Returns a small run that mixes and erases, by section."""
  models = {
    "vit": {
      **{"patch_size_px": 4, "width": 8, "depth": 1, "num_heads": 2},
      "drop_path": 0.2,
    },
    "resnet": {"depth": 18, "small_images": True, "width": 4},
  }
  return {
    "data.batch_size": B,
    "data.image_size_px": 8,
    "augment": {
      **{"crop_size_px": 8, "crop_min_area": 0.5, "erase_probability": 0.5},
      **{"mixup_alpha": 0.8, "cutmix_alpha": 1.0},
    },
    "model": {"name": model, "dtype": "float64", **models[model]},
    "objective": {"name": "supervised"},
    "optim": {"name": "adamw", "learning_rate": 1e-2, "weight_decay": 0.1},
    "train.steps": STEPS,
    "log.diagnostics": False,
  }


def batch_of(step):
  draw = np.random.default_rng(step)
  return {
    "image": draw.integers(0, 256, (B, 8, 8, 3), np.uint8),
    "label": draw.integers(-1, 10, B).astype(np.int32),
  }


@functools.cache
def trained(*changes, axes=(1, 1), model="vit"):
  """Returns the losses of some steps, and the first and the last state."""
  made = config(**sections(model) | dict(changes))
  devices = jax.devices()[: axes[0] * axes[1]]
  run = build(made, source=Shapes(made.data), devices=devices[:1])
  run = run._replace(mesh=make_mesh(*axes, devices))
  program = Program(run)
  step = jax.jit(
    program.step, compiler_options={"xla_backend_optimization_level": 0}
  )
  first, state, losses = *(initial_state(run, program) for _ in "12"), []
  for i in range(STEPS):
    batch = jax.device_put(batch_of(i), program.batch_sharding)
    state, metrics = step(state, batch)
    losses.append(float(metrics["loss"]))
  assert np.isfinite(losses).all()
  return losses, first, state


def test_partners_are_in_other_chunks_of_other_devices():
  augment = Augment(8, 0.5, mixup_alpha=0.8, cutmix_alpha=1.0)
  w = np.random.default_rng(0).normal(size=(192, 5)).astype(np.float32)

  def apply(variables, images, *, train, keys):
    return Encoded(images.reshape(len(images), -1) @ w), variables

  backbone = Backbone(lambda *_: {"params": {}}, apply, 5)
  encoder = make_encoder(backbone, augment, Supervised(num_views=2))

  def encode(images, chunks, shards):
    rows = rows_of(images, jax.random.key(0), 0, mixed=True)
    encoded, _ = encode_with_pullback(
      encoder, {"params": {}}, (), rows, chunks=chunks, shards=shards
    )
    return encoded.features.pooled[0], encoded.features.own_weight

  encode = jax.jit(encode, static_argnums=(1, 2))
  images = batch_of(0)["image"]
  on_eight = jax.device_put(images, batch_sharding(make_mesh(4, 2)))
  for got, expected in zip(
    encode(on_eight, 2, 8), encode(images, 1, 1), strict=True
  ):
    assert len(got.devices()) == 8
    np.testing.assert_allclose(got, expected, rtol=1e-4, atol=1e-4)


@pytest.mark.slow
@pytest.mark.usefixtures("x64")
def test_chunks_on_eight_devices_change_nothing():
  """The partner of an image is in another chunk of another device."""
  got, _, _ = trained(("train.chunks", 2), axes=(4, 2))
  np.testing.assert_allclose(got, trained()[0], rtol=1e-9)


@pytest.mark.slow
@pytest.mark.usefixtures("x64")
def test_mixing_changes_the_loss():
  got = np.subtract(trained(*UNMIXED)[0], trained()[0])
  assert np.abs(got).max() > 1e-4


def changes(before, after):
  """Returns the names of leaves that differ."""
  before, after = leaves(before), leaves(after)
  return {
    name for name, x in before.items() if not np.array_equal(after[name], x)
  }


@pytest.mark.usefixtures("x64")
@pytest.mark.parametrize(
  ("model", "chunks"),
  [("vit", 1), pytest.param("resnet", 4, marks=pytest.mark.slow)],
)
def test_a_frozen_backbone_keeps_every_bit(model, chunks):
  """Parameters and batch statistics, in spite of weight decay."""
  _, before, after = trained(
    ("optim.backbone_rate", 0.0), ("train.chunks", chunks), model=model
  )
  assert not changes(before.backbone, after.backbone)
  assert len(changes(before.head_params, after.head_params)) == 2
  sizes = {x.size for x in jax.tree.leaves(after.opt_state)}
  assert sizes <= {1, 10, before.head_params["classifier"]["kernel"].size}


@pytest.mark.slow
@pytest.mark.usefixtures("x64")
def test_the_backbone_of_a_run_is_fine_tuned_on_any_mesh(tmp_path):
  _, _, pretrained = trained(("seed", 7))
  with checkpoint.Checkpoints(
    tmp_path, keep_last=2, keep_every_steps=None
  ) as checkpoints:
    checkpoints.save(STEPS, checkpoint_items(pretrained))
  start = ("init_from.workdir", str(tmp_path))
  expected, first, _ = trained(start)
  assert not changes(pretrained.backbone, first.backbone)
  assert not changes(trained()[1].head_params, first.head_params)
  got, on_eight, _ = trained(start, axes=(4, 2))
  assert not changes(first.backbone, on_eight.backbone)
  np.testing.assert_allclose(got, expected, rtol=1e-9)


def test_a_set_without_labels_is_refused():
  made = config(**sections("vit"))
  source = Shapes(made.data)
  source.num_classes = 0
  with pytest.raises(ValueError, match=r"data\.name=.*no labels.*Supervised"):
    build(made, source=source, devices=jax.devices()[:1])
