import jax
import jax.numpy as jnp
import numpy as np
import pytest
from safetensors.numpy import load_file
from shipped import ROOT, config

import jssl
from jssl import checkpoint
from jssl.augment import center_view
from jssl.config.parse import to_dict
from jssl.models import init_variables
from jssl.runtime.workdir import claim_workdir

FIXTURES = ROOT / "tests" / "fixtures" / "weights"
SIZE = 32
RESNET = {
  "name": "resnet",
  "depth": 18,
  "small_images": True,
  "width": 8,
  "mean": (0.5,),
  "std": (0.2,),
}


def save(workdir, channels=3, steps=(1,), **overrides):
  """A workdir with checkpoints of random backbones; returns their variables."""
  small = {} if "model" in overrides else {"model.width": 16, "model.depth": 1}
  made = config(**small, **overrides)
  claim_workdir(to_dict(made), workdir)
  backbone = made.model.backbone()
  saved = {}
  with checkpoint.Checkpoints(
    workdir, keep_last=3, keep_every_steps=None
  ) as checkpoints:
    for step in steps:
      saved[step] = init_variables(step, backbone, (SIZE, SIZE, channels))
      checkpoints.save(step, {"backbone": saved[step]})
  return backbone, saved


def floats(*shape):
  return np.random.default_rng(0).random(shape, np.float32)


def test_a_step_can_be_chosen(tmp_path):
  claim_workdir(to_dict(config()), tmp_path)
  with pytest.raises(FileNotFoundError, match="no finished checkpoint"):
    jssl.load_backbone(tmp_path)
  backbone, saved = save(tmp_path / "W", steps=(1, 2))
  images = floats(4, SIZE, SIZE, 3)

  def features(step):
    apply, variables = jssl.load_backbone(tmp_path / "W", step)
    return apply(variables, images)

  expected = {
    step: backbone.apply(variables, images, train=False)[0].pooled
    for step, variables in saved.items()
  }
  near = {"rtol": 1e-5, "atol": 1e-6}
  np.testing.assert_allclose(features(None), expected[2], **near)
  np.testing.assert_allclose(features(1), expected[1], **near)
  checkpoint.pin_best(tmp_path / "W", step=1, score=0.5, features="backbone")
  np.testing.assert_allclose(features(None), expected[1], **near)
  with pytest.raises(FileNotFoundError, match=r"step 7; it has \[1, 2\]"):
    features(7)


@pytest.fixture(scope="module")
def loaded(tmp_path_factory):
  workdir = tmp_path_factory.mktemp("W")
  save(workdir)
  return jssl.load_backbone(workdir)


def test_uint8_images_have_the_features_of_their_floats(loaded):
  apply, variables = loaded
  pixels = np.random.default_rng(0).integers(0, 256, (4, 32, 32, 3), np.uint8)
  h = apply(variables, pixels)
  assert np.all(np.isfinite(h))
  scaled = apply(variables, (pixels / 255).astype(np.float32))
  np.testing.assert_allclose(h, scaled, rtol=1e-5, atol=1e-6)
  np.testing.assert_allclose(
    jax.jit(apply)(variables, pixels), h, rtol=1e-4, atol=1e-5
  )


def test_images_come_as_the_probe_sees_them(loaded):
  apply, variables = loaded
  assert apply.image_shape == (32, 32, 3)
  pixels = np.random.default_rng(0).integers(0, 256, (2, 50, 41, 3), np.uint8)
  views = apply.preprocess(pixels)
  np.testing.assert_array_equal(views, center_view(pixels, crop_size_px=32))
  assert apply(variables, views).shape == (2, 16)


def test_the_teacher_is_loaded_where_there_is_one(tmp_path):
  made = config(
    **{"model.width": 16, "model.depth": 1},
    objective={
      "name": "byol",
      "projector": {"hidden_dims": (), "out_dim": 3},
      "predictor": {"hidden_dims": (), "out_dim": 3},
    },
  )
  claim_workdir(to_dict(made), tmp_path)
  student, teacher = (
    init_variables(seed, made.model.backbone(), (SIZE, SIZE, 3))
    for seed in (1, 2)
  )
  with checkpoint.Checkpoints(
    tmp_path, keep_last=3, keep_every_steps=None
  ) as checkpoints:
    training = {"teacher": teacher, "opt_state": (jnp.ones(3),)}
    checkpoints.save(1, {"backbone": student, "training": training})
  for asked, expected in ((None, teacher), (True, teacher), (False, student)):
    _, found = jssl.load_backbone(tmp_path, teacher=asked)
    jax.tree.map(np.testing.assert_array_equal, found, expected)


def test_a_method_without_a_teacher_has_none(tmp_path):
  _, saved = save(tmp_path)
  with pytest.raises(ValueError, match=r"teacher=True: .*SimCLR .*=False"):
    jssl.load_backbone(tmp_path, teacher=True)
  _, found = jssl.load_backbone(tmp_path, teacher=False)
  jax.tree.map(np.testing.assert_array_equal, found, saved[1])


def test_patch_tokens_come_beside_the_pooled_features(loaded):
  apply, variables = loaded
  images = floats(2, 32, 32, 3)
  encoded = apply(variables, images, tokens=True)
  grid = apply.backbone.grid((32, 32, 3))
  assert encoded.tokens.shape == (2, grid.patches, 16)
  np.testing.assert_allclose(
    encoded.pooled, apply(variables, images), rtol=1e-5, atol=1e-6
  )


def test_a_resnet_has_no_patch_tokens(tmp_path):
  save(tmp_path, model=RESNET)
  apply, variables = jssl.load_backbone(tmp_path)
  with pytest.raises(ValueError, match=r"tokens=True: .*model\.name=\"vit\""):
    apply(variables, floats(2, SIZE, SIZE, 3), tokens=True)


@pytest.mark.parametrize(
  ("images", "error", "match"),
  [
    (
      255 * floats(2, 32, 32, 3),
      ValueError,
      r"values from .* floats in \[0, 1\]",
    ),
    (floats(2, 32, 32, 3) - 0.5, ValueError, r"image values from -0\.5"),
    (floats(2, 32, 32, 3) * np.nan, ValueError, "values from nan"),
    (
      floats(2, 32, 32, 1),
      ValueError,
      r"\[2, 32, 32, 1\]: expected .*w, 3\]",
    ),
    (
      floats(2, 32, 32, 4),
      ValueError,
      r"\[2, 32, 32, 4\]: expected .*w, 3\]",
    ),
    (floats(32, 32, 3), ValueError, r"\[32, 32, 3\]: expected \[b, h, w, 3"),
    (np.ones((2, 32, 32, 3), np.int32), TypeError, "dtype int32.*uint8"),
    (np.ones((2, 32, 32, 3), bool), TypeError, "dtype bool.*uint8"),
  ],
)
@pytest.mark.usefixtures("unchecked")
def test_other_images_are_refused(loaded, images, error, match):
  apply, variables = loaded
  with pytest.raises(error, match=match):
    apply(variables, images)


def test_values_just_outside_are_rounding(loaded):
  apply, variables = loaded
  images = jnp.asarray([-0.001, 1.001]).reshape(2, 1, 1, 1)
  apply(variables, jnp.broadcast_to(images, (2, 32, 32, 3)))


@pytest.mark.parametrize(
  ("channels", "overrides"),
  [
    (1, {}),
    (4, {}),
    (7, {}),
    (5, {"model": RESNET}),
    (3, {"model.mean": (0.5, 0.4, 0.3)}),
    (1, {"model": RESNET}),
  ],
)
def test_channels_are_those_of_the_run(tmp_path, channels, overrides):
  save(tmp_path, channels, **overrides)
  apply, _ = jssl.load_backbone(tmp_path)
  assert apply.image_shape == (32, 32, channels)


@pytest.mark.parametrize("as_folder", [True, False])
def test_published_weights(as_folder, tmp_path):
  folder = FIXTURES / "hf_dinov2"
  path = folder if as_folder else folder / "model.safetensors"
  apply, variables = jssl.load_backbone(path)
  truth = load_file(folder / "outputs.safetensors")
  images = truth["images_native"].transpose(0, 2, 3, 1)
  assert apply.image_shape == images.shape[1:]
  expected = truth["native/cls"]
  near = 2e-5 * np.abs(expected).max()
  np.testing.assert_allclose(apply(variables, images), expected, atol=near)
  tokens = apply(variables, images, tokens=True).tokens
  expected = truth["native/tokens"]
  near = 2e-5 * np.abs(expected).max()
  np.testing.assert_allclose(tokens, expected, atol=near)
  pixels = np.zeros((2, 40, 50, 3), np.uint8)
  assert apply.preprocess(pixels).shape == (2, *apply.image_shape)
  for argument in ({"step": 1}, {"teacher": False}):
    with pytest.raises(ValueError, match=r"expected None, because .*hf_dinov2"):
      jssl.load_backbone(path, **argument)


def test_published_weights_that_do_not_exist(tmp_path):
  with pytest.raises(
    FileNotFoundError, match=r"none\.safetensors does not exi"
  ):
    jssl.load_backbone(tmp_path / "none.safetensors")
  (tmp_path / "model.pth").write_bytes(b"PK")
  with pytest.raises(ValueError, match="expected a safetensors file"):
    jssl.load_backbone(tmp_path / "model.pth")
