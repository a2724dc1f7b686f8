"""Published weights for models of another resolution, patch or channels."""

import dataclasses
import weakref

import jax
import numpy as np
import pytest
from safetensors.numpy import save_file

from jssl import weights
from jssl.models import ViT
from tests.models.test_vit import jit
from tests.weights.test_published import FIXTURES, load, outputs, trees_equal

# One of each rule of interpolation, and one without positions.
FAMILIES = ["timm_dinov2", "hf_dinov2", "hf_dinov2_registers", "timm_dinov3"]


def features(model, variables, images):
  return jit(lambda v, x: model.backbone().apply(v, x, train=False)[0].pooled)(
    variables, images
  )


@pytest.mark.parametrize("name", FAMILIES)
def test_positions_are_resized_by_the_rule_of_the_library(name):
  model, _ = load(name)
  images = outputs(name)["images_other"].transpose(0, 2, 3, 1)
  variables = weights.load_for(model, images.shape[1:], FIXTURES / name)
  if model.positions == "learned":
    grid = model.grid(images.shape[1:])
    table = variables["params"]["positions"]
    assert table.shape == (grid.rows, grid.columns, model.width)
  wanted = outputs(name)["other/pooled"]
  near = np.abs(wanted).max() * 5e-6
  found = features(model, variables, images)
  np.testing.assert_allclose(found, wanted, atol=near)


def test_scanned_blocks_have_the_same_features():
  model, variables = load("timm_dinov2")
  scanned = dataclasses.replace(model, scan_layers=True)
  again, stacked = load("timm_dinov2", scan_layers=True)
  assert again == scanned
  images = outputs("timm_dinov2")["images_native"].transpose(0, 2, 3, 1)
  same = weights.load_for(scanned, images.shape[1:], FIXTURES / "timm_dinov2")
  trees_equal(stacked, same)
  np.testing.assert_allclose(
    features(scanned, stacked, images),
    features(model, variables, images),
    rtol=1e-4,
    atol=1e-5,
  )


def test_patches_give_the_same_products_with_enlarged_images():
  """With kernels of the pseudo-inverse, <kernel', B x> = <kernel, x>."""
  model, variables = load("timm_vit")
  old, new = model.patch_size_px, model.patch_size_px + 3
  larger = dataclasses.replace(model, patch_size_px=new)
  found = weights.load_for(larger, (4 * new, 4 * new, 3), FIXTURES / "timm_vit")
  x = np.random.default_rng(0).random((5, old, old, 3), np.float32)
  enlarged = jax.image.resize(x, (5, new, new, 3), "cubic")
  np.testing.assert_allclose(
    enlarged.reshape(5, -1) @ found["params"]["embed"]["kernel"],
    x.reshape(5, -1) @ variables["params"]["embed"]["kernel"],
    rtol=1e-3,
    atol=1e-4,
  )


@pytest.mark.parametrize("channels", [1, 5, 6])
def test_equal_channels_give_the_same_features(channels):
  model, variables = load("timm_vit")
  model = dataclasses.replace(model, mean=(0.5,), std=(0.5,))
  size = outputs("timm_vit")["images_native"].shape[-1]
  gray = np.random.default_rng(0).random((2, size, size, 1), np.float32)
  shape = (size, size, channels)
  found = weights.load_for(model, shape, FIXTURES / "timm_vit")
  kernel = found["params"]["embed"]["kernel"]
  assert kernel.shape == (model.patch_size_px**2 * channels, model.width)
  if channels == 5:  # The first two of three are repeated.
    kernel = kernel.reshape(-1, 5, model.width)
    np.testing.assert_array_equal(kernel[:, 0], kernel[:, 3])
    return
  np.testing.assert_allclose(
    features(model, found, np.repeat(gray, channels, axis=-1)),
    features(model, variables, np.repeat(gray, 3, axis=-1)),
    rtol=1e-3,
    atol=1e-5,
  )


def test_a_class_position_is_added_to_the_class_token():
  model, variables = load("timm_vit")
  folded = dataclasses.replace(model, class_position=False)
  images = outputs("timm_vit")["images_native"].transpose(0, 2, 3, 1)
  found = weights.load_for(folded, images.shape[1:], FIXTURES / "timm_vit")
  np.testing.assert_allclose(
    features(folded, found, images),
    features(model, variables, images),
    rtol=1e-4,
    atol=1e-6,
  )


@pytest.mark.parametrize(
  ("changes", "match"),
  [
    ({"num_registers": 2}, r"model.num_registers=2, 0 in the file"),
    ({"depth": 3}, r"model.depth=3, 2 in the file"),
    ({"num_heads": 1}, r"model.num_heads=1, 3 in the file"),
    ({"gelu": "tanh"}, r"model.gelu='tanh', 'erf' in the file"),
    (
      {"positions": "sincos", "class_position": False},
      r"model.positions='sincos': the file has 'learned'",
    ),
  ],
)
def test_another_model_is_refused(changes, match):
  model, _ = load("timm_vit")
  other = dataclasses.replace(model, **changes)
  with pytest.raises(ValueError, match=match):
    weights.load_for(other, (32, 32, 3), FIXTURES / "timm_vit")


def test_one_stack_of_blocks_is_in_memory_at_a_time():
  model, _ = load("timm_dinov2", scan_layers=True)
  stacks = []

  def place(name, array):
    assert not any(earlier() is not None for earlier in stacks)
    if "/blocks/" in name:
      stacks.append(weakref.ref(array))
    return array.copy()

  weights.load_for(model, (16, 16, 3), FIXTURES / "timm_dinov2", place=place)
  assert len(stacks) == 14


@pytest.mark.parametrize("positions", ["sincos", "learned"])
def test_rope_is_not_another_rule(positions):
  model, _ = load("timm_dinov3")
  other = dataclasses.replace(model, positions=positions)
  with pytest.raises(ValueError, match=r"model.has_rope=False, True in"):
    weights.load_for(other, (16, 16, 3), FIXTURES / "timm_dinov3")


def test_heads_of_a_published_width_are_checked(tmp_path, caplog):
  """Only files with the names of timm may have other numbers."""
  model = ViT(**{**ViT.presets["dinov2_vits14"], "depth": 1}, mask_token=True)
  variables = model.backbone().init(jax.random.key(0), (14, 14, 3))
  for layout in ("dinov2", "timm"):
    leaves = variables["params"]
    if layout == "timm":
      leaves = {k: v for k, v in leaves.items() if k != "mask_token"}
    values = weights.to_tensors(model, {"params": leaves}, layout)
    save_file(values, tmp_path / f"{layout}.safetensors")
  other = dataclasses.replace(model, num_heads=12)
  with pytest.raises(ValueError, match=r"model.num_heads=12, 6 in the publish"):
    weights.load_for(other, (14, 14, 3), tmp_path / "dinov2.safetensors")
  weights.load_for(other, (14, 14, 3), tmp_path / "timm.safetensors")
  assert "model.num_heads=12, 6 in the published" in caplog.text
