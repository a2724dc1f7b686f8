"""Layer-wise learning rates of a ViT."""

import dataclasses

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jssl.models import ResNet, ViT, init_variables
from jssl.optim import Optim, make_optimizer
from jssl.optim.layers import layer_factors

MODEL = ViT(
  patch_size_px=4,
  width=8,
  depth=3,
  num_heads=2,
  pooling="cls",
  positions="learned",
  mask_token=True,
)
SGD = Optim("sgd", 0.1, layer_decay=0.5, patch_embed_rate=0.2, momentum=0.0)


def params_of(model):
  """Ones, without compiling the initialisers."""
  shapes = jax.eval_shape(
    lambda: init_variables(0, model.backbone(), (8, 8, 3))["params"]
  )
  return jax.tree.map(lambda x: jnp.ones(x.shape, x.dtype), shapes)


def update(optim, backbone):
  """Returns the change by a gradient of ones."""
  params = {"backbone": backbone, "head": {"w": jnp.ones((2, 2))}}
  groups = {
    name: jax.tree.map(lambda _, name=name: name, part)
    for name, part in params.items()
  }
  optimizer = make_optimizer(optim, groups, {}, total_steps=10)
  ones = jax.tree.map(jnp.ones_like, params)
  return optimizer.update(ones, optimizer.init(params), params)[0]


def test_rates_decay_from_the_last_block_to_the_first():
  changes = update(SGD, params_of(MODEL))
  expected = {
    "embed": 0.2 * 0.5**4,
    "cls": 0.5**4,
    "positions": 0.5**4,
    "mask_token": 0.5**4,
    "block_0": 0.5**3,
    "block_1": 0.5**2,
    "block_2": 0.5,
    "norm": 1.0,
  }
  assert changes["backbone"].keys() == expected.keys()
  for name, factor in expected.items():
    for change in jax.tree.leaves(changes["backbone"][name]):
      np.testing.assert_allclose(change, -0.1 * factor, rtol=1e-6)
  np.testing.assert_allclose(changes["head"]["w"], -0.1, rtol=1e-6)


def test_scanned_blocks_have_the_rates_of_their_layers():
  scanned = dataclasses.replace(MODEL, scan_layers=True)
  changes = update(SGD, params_of(scanned))["backbone"]["blocks"]
  for change in jax.tree.leaves(changes):
    for layer in range(3):
      expected = -0.1 * 0.5 ** (3 - layer)
      np.testing.assert_allclose(change[layer], expected, rtol=1e-6)


def test_weight_decay_is_scaled_too():
  optim = dataclasses.replace(SGD, name="adamw", weight_decay=0.3)
  plain = dataclasses.replace(optim, layer_decay=1.0, patch_embed_rate=1.0)
  params = params_of(MODEL)
  factors = layer_factors(params, 0.5, 0.2)
  jax.tree.map(
    lambda got, whole, factor: np.testing.assert_allclose(
      got, whole * factor, rtol=1e-5
    ),
    update(optim, params)["backbone"],
    update(plain, params)["backbone"],
    factors,
  )


def test_a_model_without_blocks_is_refused():
  params = params_of(ResNet(depth=18, small_images=True, width=4))
  with pytest.raises(ValueError, match=r'layer_decay.*model\.name="vit"'):
    update(SGD, params)
