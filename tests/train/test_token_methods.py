"""Methods with patch tokens, on meshes and in chunks."""

import functools

import jax
import numpy as np
import pytest
from objectives.cases import BY_NAME, leaves

from jssl.augment import Augment
from jssl.config.build import build_optimizer
from jssl.mesh import batch_sharding, make_mesh, state_sharding
from jssl.models import ViT
from jssl.optim import Optim
from jssl.optim.bilevel import HeadStrategy
from jssl.train.state import init_state
from jssl.train.step import make_train_step

B, IMAGE, STEPS = 16, (8, 8, 3), 20
NAMES = [name for name, case in BY_NAME.items() if case.objective.uses_tokens]
every_method = pytest.mark.parametrize("name", NAMES)
pytestmark = [pytest.mark.slow, pytest.mark.usefixtures("x64")]


@functools.cache
def parts(name):
  """Returns backbone, objective, augmentation and optimizer."""
  objective = BY_NAME[name].objective.with_total_steps(STEPS)
  model = ViT(
    patch_size_px=2,
    width=8,
    depth=2,
    num_heads=2,
    drop_path=0.2,
    pooling="cls",
    dtype="float64",
    mask_token=objective.uses_mask_token,
  )
  small = (
    {"num_small": 1, "small_crop_size_px": 4} if objective.multi_crop else {}
  )
  augment = Augment(crop_size_px=8, crop_min_area=0.3, **small)
  backbone = model.backbone()
  optimizer = build_optimizer(
    Optim("adamw", 1e-2), backbone, objective, HeadStrategy(), IMAGE, STEPS
  )
  return backbone, objective, augment, optimizer


def losses(name, mesh, *, chunks=1, steps=STEPS):
  """Returns the losses of a run and its last state."""
  backbone, objective, augment, optimizer = parts(name)
  state = init_state(0, backbone, objective, optimizer, IMAGE)
  state = jax.tree.map(
    lambda x: x.astype("float64") if x.dtype == "float32" else x, state
  )
  shardings = state_sharding(mesh, jax.eval_shape(lambda: state))
  step = jax.jit(
    make_train_step(
      backbone, objective, augment, optimizer, chunks=chunks, shards=mesh.size
    ),
    out_shardings=(shardings, None),
    compiler_options={"xla_backend_optimization_level": 0},
  )
  state, found = jax.device_put(state, shardings), []
  for i in range(steps):
    draw = np.random.default_rng(i)
    batch = {
      "image": draw.integers(0, 256, (B, *IMAGE), np.uint8),
      "label": np.zeros(B, np.int32),
    }
    state, metrics = step(state, jax.device_put(batch, batch_sharding(mesh)))
    found.append(float(metrics["loss"]))
  return np.array(found), state


@every_method
@pytest.mark.parametrize("axes", [(8, 1), (4, 2)], ids=["data", "data_fsdp"])
def test_losses_on_eight_devices_are_those_on_one(name, axes):
  expected, _ = losses(name, make_mesh(1, 1, jax.devices()[:1]))
  assert np.isfinite(expected).all()
  assert len({*expected}) == STEPS
  got, _ = losses(name, make_mesh(*axes))
  np.testing.assert_allclose(got, expected, rtol=1e-9)


@every_method
def test_chunks_change_nothing(name):
  mesh = make_mesh(1, 1, jax.devices()[:1])
  whole, state = losses(name, mesh, steps=3)
  chunked, other = losses(name, mesh, steps=3, chunks=4)
  np.testing.assert_allclose(chunked, whole, rtol=1e-10)
  for leaf, value in leaves(other.backbone).items():
    expected = leaves(state.backbone)[leaf]
    np.testing.assert_allclose(value, expected, rtol=1e-7, atol=1e-9)


def test_the_anchor_is_the_teacher_of_some_steps():
  """From step 2 on, and anew every 5 steps."""
  mesh = make_mesh(1, 1, jax.devices()[:1])
  teachers, anchors = [], []
  for steps in range(1, 9):
    _, state = losses("dinov2_gram", mesh, steps=steps)
    teachers.append(leaves(state.teacher))
    anchors.append(leaves(state.anchor))
  assert all(
    (value == teachers[1][leaf]).all()
    for anchor in anchors[1:6]
    for leaf, value in anchor.items()
  )
  assert all((v == teachers[6][leaf]).all() for leaf, v in anchors[6].items())
  assert any((v != teachers[1][leaf]).any() for leaf, v in anchors[6].items())
  jax.tree.map(np.testing.assert_array_equal, anchors[7], anchors[6])


def test_every_part_learns():
  """The mask token and the patch head too."""
  backbone, objective, _, optimizer = parts("dinov2")
  first = init_state(0, backbone, objective, optimizer, IMAGE)
  mesh = make_mesh(1, 1, jax.devices()[:1])
  _, last = losses("dinov2", mesh, steps=5)
  for part in ("backbone", "head_params", "teacher"):
    before = leaves(getattr(first, part))
    for leaf, value in leaves(getattr(last, part)).items():
      assert np.abs(np.asarray(value) - before[leaf]).max() > 0, leaf
  assert np.abs(last.objective["patch_center"]).max() > 0
