import dataclasses

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jssl.models import vit
from jssl.models.backbone import init_variables

TINY = vit.ViT(patch_size_px=4, width=16, depth=2, num_heads=2)


def images(*shape, seed=0):
  return np.random.default_rng(seed).random(shape, np.float32)


def test_patches_hold_their_pixels():
  x = np.arange(2 * 8 * 12 * 3).reshape(2, 8, 12, 3)
  cut = vit.patches(x, 4)
  assert cut.shape == (2, 6, 48)
  for n, (row, column) in enumerate(np.ndindex(2, 3)):
    expected = x[1, 4 * row : 4 * row + 4, 4 * column : 4 * column + 4]
    np.testing.assert_array_equal(cut[1, n], expected.ravel())


def test_positions_are_those_of_the_formula():
  positions = vit.sincos_positions(2, 3, 8)
  for n, (y, x) in enumerate(np.ndindex(2, 3)):
    frequencies = (1.0, 10000**-0.5)
    expected = [np.sin(y * f) for f in frequencies]
    expected += [np.cos(y * f) for f in frequencies]
    expected += [np.sin(x * f) for f in frequencies]
    expected += [np.cos(x * f) for f in frequencies]
    np.testing.assert_allclose(positions[n], expected)


@pytest.mark.parametrize("channels", [1, 3])
def test_features_have_their_shape_and_dtype(channels):
  backbone = TINY.backbone()
  variables = init_variables(0, backbone, (8, 8, channels))
  h, after = backbone.apply(variables, images(5, 8, 8, channels), train=True)
  assert h.shape == (5, 16)
  assert h.dtype == jnp.float32
  assert jax.tree.structure(after) == jax.tree.structure(variables)


def test_an_image_does_not_see_its_batch():
  backbone = TINY.backbone()
  variables = init_variables(0, backbone, (8, 8, 1))
  x = images(4, 8, 8, 1)
  h, _ = backbone.apply(variables, x, train=False)
  alone, _ = backbone.apply(variables, x[2:3], train=False)
  np.testing.assert_allclose(alone[0], h[2], rtol=1e-5, atol=1e-6)


def test_positions_matter():
  backbone = TINY.backbone()
  variables = init_variables(0, backbone, (8, 8, 1))
  x = images(1, 8, 8, 1)
  swapped = np.concatenate([x[:, 4:], x[:, :4]], axis=1)
  h, _ = backbone.apply(variables, np.concatenate([x, swapped]), train=False)
  assert np.abs(h[0] - h[1]).max() > 1e-3


def test_zero_initialised_residuals_start_as_the_identity():
  x = images(4, 8, 8, 1)

  def start(**changed):
    model = dataclasses.replace(TINY, **changed).backbone()
    variables = init_variables(0, model, (8, 8, 1))
    return model.apply(variables, x, train=False)[0]

  without_blocks = start(depth=0)
  zero = start(zero_init_residual=True)
  np.testing.assert_allclose(zero, without_blocks, atol=1e-6)
  assert np.abs(start() - without_blocks).max() > 1e-2


def test_bfloat16_computes_with_float32_parameters():
  exact = TINY.backbone()
  half = dataclasses.replace(TINY, dtype="bfloat16").backbone()
  variables = init_variables(0, half, (8, 8, 1))
  assert {x.dtype for x in jax.tree.leaves(variables)} == {jnp.dtype("float32")}
  x = images(4, 8, 8, 1)
  h, _ = half.apply(variables, x, train=False)
  expected, _ = exact.apply(variables, x, train=False)
  assert h.dtype == jnp.float32
  np.testing.assert_allclose(h, expected, atol=0.1)
  text = jax.jit(lambda v, x: half.apply(v, x, train=False)[0])
  assert "bf16" in text.lower(variables, x).as_text()


def test_sizes_that_do_not_fit_are_refused():
  with pytest.raises(ValueError, match=r"model.width=18.*model.num_heads=4"):
    vit.ViT(patch_size_px=4, width=18, depth=1, num_heads=4)
  with pytest.raises(ValueError, match=r"10 x 10 px.*model.patch_size_px=4"):
    init_variables(0, TINY.backbone(), (10, 10, 1))
  with pytest.raises(ValueError, match=r"model.width=6"):
    vit.sincos_positions(2, 2, 6)


def test_usual_sizes_have_their_parameter_counts():
  """Counts of timm's vit_*_patch16_224, less class token and positions."""
  for width, depth, heads, millions in [(192, 12, 3, 5.5), (384, 12, 6, 21.6)]:
    model = vit.ViT(16, width, depth, heads).backbone()
    shapes = jax.eval_shape(lambda m=model: init_variables(0, m, (224, 224, 3)))
    count = sum(x.size for x in jax.tree.leaves(shapes))
    np.testing.assert_allclose(count / 1e6, millions, atol=0.1)
