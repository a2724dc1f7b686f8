"""Patch tokens and masks of a ViT."""

import dataclasses
import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jssl.models import Drop, Replace, ResNet, ViT, init_variables

jit = functools.partial(
  jax.jit, compiler_options={"xla_backend_optimization_level": 0}
)

MODEL = ViT(
  patch_size_px=2, width=16, depth=2, num_heads=2, dtype="float64", std=(0.3,)
)
MODELS = {
  "mean": MODEL,
  "cls": dataclasses.replace(MODEL, pooling="cls"),
  "scan": dataclasses.replace(MODEL, scan_layers=True, remat="block"),
  "expanded": dataclasses.replace(MODEL, expand_dim=32),
  "modern": dataclasses.replace(
    MODEL,
    pooling="cls_mean",
    num_registers=2,
    positions="rope",
    mlp="swiglu",
    qkv_bias="qv",
    scan_layers=True,
  ),
}
IMAGES = np.random.default_rng(0).random((3, 6, 8, 1))
N = 12
every_model = pytest.mark.parametrize("model", MODELS.values(), ids=MODELS)
pytestmark = pytest.mark.usefixtures("x64")


def variables_of(model):
  """Random variables, also where the initialisers give zeros."""
  draw = np.random.default_rng(1)
  shapes = jax.eval_shape(
    lambda: init_variables(0, model.backbone(), IMAGES.shape[1:])
  )
  return jax.tree.map(lambda x: draw.normal(0, 0.3, x.shape), shapes)


def encode(model, images=IMAGES, *, tokens=True, mask=None):
  backbone, variables = model.backbone(), variables_of(model)
  apply = jit(
    lambda images, mask: backbone.apply(
      variables, images, train=False, tokens=tokens, mask=mask
    )[0]
  )
  return apply(jnp.asarray(images), mask)


def assert_close(got, expected):
  np.testing.assert_allclose(got, expected, rtol=1e-10, atol=1e-12)


def indices(*rows):
  return jnp.asarray(rows)


@every_model
def test_tokens_are_those_of_the_patches(model):
  whole = encode(model)
  assert whole.tokens.shape == (3, N, 16)
  assert_close(encode(model, tokens=False).pooled, whole.pooled)
  if model.pooling == "mean" and not model.expand_dim:
    assert_close(whole.pooled, whole.tokens.mean(1))
  if model.pooling == "cls":
    assert np.abs(whole.pooled[:, None] - whole.tokens).min(-1).max() > 1e-3


@every_model
def test_visible_patches_in_any_order(model):
  rows = np.tile(np.arange(N), (3, 1))
  order = np.random.default_rng(2).permuted(rows, axis=1)
  got, whole = encode(model, mask=Drop(jnp.asarray(order))), encode(model)
  assert_close(got.pooled, whole.pooled)
  assert_close(
    got.tokens, np.take_along_axis(whole.tokens, order[..., None], 1)
  )


@every_model
def test_dropped_patches_have_no_effect(model):
  visible = indices([0, 1, 5], [2, 3, 4], [9, 10, 11])
  changed = IMAGES.copy()
  changed[0, 4:] = 0.5  # patches 8 to 11
  changed[1, :2, :4] = 0.5  # patches 0 and 1
  changed[2, :2] = 0.5
  mask = Drop(visible)
  jax.tree.map(
    assert_close, encode(model, mask=mask), encode(model, changed, mask=mask)
  )
  assert (
    np.abs(encode(model).pooled - encode(model, changed).pooled).max() > 0.01
  )


@every_model
def test_padding_has_no_effect(model):
  visible = indices([0, 1, 5], [2, 3, 4], [9, 10, 11])
  padded = jnp.pad(visible, ((0, 0), (0, 2)), constant_values=7)
  valid = jnp.asarray([True] * 3 + [False] * 2)[None].repeat(3, 0)
  got = encode(model, mask=Drop(padded, valid))
  expected = encode(model, mask=Drop(visible))
  assert_close(got.pooled, expected.pooled)
  assert_close(got.tokens[:, :3], expected.tokens)


@every_model
def test_replaced_patches_have_no_effect(model):
  model = dataclasses.replace(model, mask_token=True)
  hidden = jnp.zeros((3, N), bool).at[:, 4:8].set(True)
  changed = IMAGES.copy()
  changed[:, 2:4] = 0.5  # the second row of patches
  mask = Replace(hidden)
  got = encode(model, mask=mask)
  assert got.tokens.shape == (3, N, 16)
  jax.tree.map(assert_close, got, encode(model, changed, mask=mask))
  none = encode(model, mask=Replace(jnp.zeros((3, N), bool)))
  jax.tree.map(assert_close, none, encode(model))
  assert np.abs(none.pooled - got.pooled).max() > 0.01


def test_no_other_model_has_a_mask_token():
  hidden = Replace(jnp.zeros((3, N), bool))
  with pytest.raises(ValueError, match=r"set model\.mask_token"):
    encode(MODEL, mask=hidden)
  resnet = ResNet(depth=18, small_images=True, width=4).backbone()
  assert resnet.grid((8, 8, 1)) is None
  for asked in ({"tokens": True}, {"mask": hidden}):
    with pytest.raises(ValueError, match=r'no patch tokens.*model\.name="vit"'):
      resnet.apply({}, IMAGES, train=False, **asked)


def test_dropped_patches_cost_nothing():
  """A ViT-B with the 49 of 196 patches that MAE keeps, by XLA's count."""
  model = ViT(patch_size_px=16, width=768, depth=12, num_heads=12)
  backbone = model.backbone()
  images = jax.ShapeDtypeStruct((1, 224, 224, 3), jnp.float32)
  variables = jax.eval_shape(lambda: init_variables(0, backbone, (224, 224, 3)))

  def flops(mask, *, tokens=True):
    function = jax.jit(
      lambda variables, images, mask: backbone.apply(
        variables, images, train=True, tokens=tokens, mask=mask
      )[0]
    )
    lowered = function.lower(variables, images, mask)
    return lowered.cost_analysis()["flops"]

  masked = flops(Drop(jax.ShapeDtypeStruct((1, 49), jnp.int32)))
  assert masked / flops(None) < 0.30
  model = dataclasses.replace(model, pooling="cls")
  backbone = model.backbone()
  variables = jax.eval_shape(lambda: init_variables(0, backbone, (224, 224, 3)))
  # The norm of the patch tokens is not computed unless they are asked for.
  assert flops(None, tokens=False) < flops(None)
