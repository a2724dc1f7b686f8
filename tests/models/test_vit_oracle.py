"""The options of a vision transformer against NumPy in float64."""

import dataclasses

import jax
import numpy as np
import pytest

from jssl.models import tokens
from tests.models.test_vit import TINY, filled, jit
from tests.oracles import patches as oracle

MODEL = dataclasses.replace(TINY, dtype="float64")
# Each option that changes the function of the images.
OPTIONS = {
  "default": {},
  "cls": {"pooling": "cls"},
  "cls_mean": {"pooling": "cls_mean"},
  "registers": {"num_registers": 3},
  "cls_registers": {"pooling": "cls_mean", "num_registers": 2},
  "erf": {"gelu": "erf"},
  "epsilon": {"norm_epsilon": 0.3},
  "qv_bias": {"qkv_bias": "qv"},
  "no_bias": {"qkv_bias": "none"},
}


def with_qkv_bias(params):
  """Parameters of a block with the bias [3 d] that the oracle expects."""
  d = params["qkv"]["kernel"].shape[0]
  zeros = np.zeros(d)
  bias = [params.get("q_bias", zeros), zeros, params.get("v_bias", zeros)]
  return {**params, "qkv": {"bias": np.concatenate(bias), **params["qkv"]}}


def encode(model, params, image, visible=None):
  """Normalised tokens [n, w] of one image after each block."""
  grid = model.grid(image.shape)
  image = (image - model.mean[0]) / model.std[0]
  x = oracle.patchify(image, model.patch_size_px)
  x = x @ params["embed"]["kernel"] + params["embed"]["bias"]
  # The oracle's positions are column first.
  table = oracle.sincos(grid.rows, grid.columns, model.width)
  x = x + np.roll(table, model.width // 2, axis=1)
  if visible is not None:
    x = x[visible]
  if "registers" in params:
    x = np.concatenate([params["registers"], x])
  if "cls" in params:
    x = np.concatenate([params["cls"][None], x])
  outputs, norm = [], params["norm"]
  for i in range(model.depth):
    x = oracle.block(
      x,
      with_qkv_bias(params[f"block_{i}"]),
      model.num_heads,
      approximate=model.gelu == "tanh",
      eps=model.norm_epsilon,
    )
    outputs.append(
      oracle.layer_norm(x, norm["scale"], norm["bias"], model.norm_epsilon)
    )
  return outputs


def feature(model, x):
  """Pooled feature of the tokens of one image."""
  cls = model.pooling != "mean"
  mean = x[cls + model.num_registers :].mean(0)
  parts = {"mean": [mean], "cls": [x[0]], "cls_mean": [x[0], mean]}
  return np.concatenate(parts[model.pooling])


@pytest.mark.usefixtures("x64")
@pytest.mark.parametrize("drop", [False, True])
@pytest.mark.parametrize("changed", OPTIONS.values(), ids=OPTIONS)
def test_features_and_tokens_equal_the_oracle(changed, drop):
  model = dataclasses.replace(MODEL, **changed)
  shape = (8, 12, 1)
  params = jax.tree.map(np.float64, filled(model, shape)["params"])
  x = np.random.default_rng(2).random((2, *shape))
  visible = np.array([[4, 0, 3], [1, 2, 5]]) if drop else [None, None]
  mask = tokens.Drop(visible) if drop else None
  backbone = model.backbone()
  encoded, _ = jit(
    lambda params, x, mask: backbone.apply(
      {"params": params}, x, train=False, mask=mask, tokens=True
    )
  )(params, x, mask)
  last = [encode(model, params, *of)[-1] for of in zip(x, visible, strict=True)]
  expected = np.stack([feature(model, y) for y in last])
  assert expected.shape[1] == backbone.feature_dim
  np.testing.assert_allclose(encoded.pooled, expected, rtol=1e-9, atol=1e-12)
  prefix = (model.pooling != "mean") + model.num_registers
  expected = np.stack([y[prefix:] for y in last])
  np.testing.assert_allclose(encoded.tokens, expected, rtol=1e-9, atol=1e-12)
