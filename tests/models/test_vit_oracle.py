"""The options of a vision transformer against NumPy in float64."""

import dataclasses
import functools

import jax
import numpy as np
import pytest

from jssl.models import tokens
from jssl.models.vit_encoder import class_attention
from tests.models.test_vit import TINY, filled, images, jit, stacked
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
  "sincos_column": {"positions": "sincos_column"},
  "learned": {"positions": "learned"},
  "class_token": {"class_token": True, "num_registers": 1},
  "class_position": {
    "positions": "learned",
    "pooling": "cls",
    "class_position": True,
  },
  "norm_pooled": {"norm_pooled": True, "class_token": True},
  "rope": {"positions": "rope"},
  "swiglu": {"mlp": "swiglu", "mlp_ratio": 3},
  "swiglu_dim": {"mlp": "swiglu", "mlp_dim": 12},
  "mlp_dim": {"mlp_dim": 12},
  "rope_prefix": {
    "positions": "rope",
    "pooling": "cls",
    "num_registers": 2,
    "rope_rescale": 2.0,
  },
}


def with_qkv_bias(params):
  """Parameters of a block with the bias [3 d] that the oracle expects."""
  d = params["qkv"]["kernel"].shape[0]
  zeros = np.zeros(d)
  bias = [params.get("q_bias", zeros), zeros, params.get("v_bias", zeros)]
  return {**params, "qkv": {"bias": np.concatenate(bias), **params["qkv"]}}


def prefix(params):
  """Number of tokens before the patches."""
  return len(params.get("registers", [])) + ("cls" in params)


def encode(model, params, image, visible=None, valid=None):
  """Normalised tokens [n, w] of one image after each block.

  Tokens are not normalised with `norm_pooled`.
  """
  grid = model.grid(image.shape)
  image = (image - model.mean[0]) / model.std[0]
  x = oracle.patchify(image, model.patch_size_px)
  x = x @ params["embed"]["kernel"] + params["embed"]["bias"]
  by_column = oracle.sincos(grid.rows, grid.columns, model.width)
  x = (
    x
    + {
      "sincos": np.roll(by_column, model.width // 2, axis=1),
      "sincos_column": by_column,
      "learned": np.resize(params.get("positions", 0), by_column.shape),
      "rope": 0,
    }[model.positions]
  )
  head_dim = model.width // model.num_heads
  angles = oracle.rope_angles(grid.rows, grid.columns, head_dim)
  if visible is not None:
    x, angles = x[visible], angles[visible]
  if "registers" in params:
    x = np.concatenate([params["registers"], x])
  if "cls" in params:
    cls = params["cls"] + params.get("cls_position", 0)
    x = np.concatenate([cls[None], x])
  if valid is not None:
    valid = np.pad(valid, (len(x) - len(valid), 0), constant_values=True)
  angles = np.pad(angles, ((len(x) - len(angles), 0), (0, 0)))
  outputs = []
  for i in range(model.depth):
    x = oracle.block(
      x,
      with_qkv_bias(params[f"block_{i}"]),
      model.num_heads,
      approximate=model.gelu == "tanh",
      eps=model.norm_epsilon,
      valid=valid,
      swiglu=model.mlp == "swiglu",
      angles=angles if model.positions == "rope" else None,
    )
    outputs.append(x if model.norm_pooled else normalised(model, params, x))
  return outputs


def normalised(model, params, x):
  norm = params["norm"]
  return oracle.layer_norm(x, norm["scale"], norm["bias"], model.norm_epsilon)


def feature(model, params, x, visible=None, valid=None):
  """Pooled feature of the tokens of one image."""
  x, patches = x[:1], x[prefix(params) :]
  mean = patches[slice(None) if valid is None else valid].mean(0)
  if model.norm_pooled:
    (mean,) = normalised(model, params, mean[None])
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
  visible = np.array([[4, 0, 3], [1, 2, 5]])
  valid = np.array([[True, False, True], [True, True, True]])
  mask = tokens.Drop(visible, valid) if drop else None
  masks = list(zip(visible, valid, strict=True)) if drop else [(), ()]
  backbone = model.backbone()
  encoded, _ = jit(
    lambda params, x, mask: backbone.apply(
      {"params": params}, x, train=False, mask=mask, tokens=True, blocks=2
    )
  )(params, x, mask)
  near = functools.partial(np.testing.assert_allclose, rtol=1e-9, atol=1e-12)
  outputs = [
    encode(model, params, image, *of)
    for image, of in zip(x, masks, strict=True)
  ]
  expected = [
    feature(model, params, y[-1], *of)
    for y, of in zip(outputs, masks, strict=True)
  ]
  near(encoded.pooled, expected)
  assert encoded.pooled.shape[1] == backbone.feature_dim
  near(encoded.tokens, [y[-1][prefix(params) :] for y in outputs])
  expected = [
    [feature(model, params, block, *of)[: model.width] for block in y[-2:]]
    for y, of in zip(outputs, masks, strict=True)
  ]
  near(encoded.blocks, expected)


@pytest.mark.parametrize("changed", [{}, {"pooling": "cls"}])
def test_scanned_blocks_give_the_same_features(changed):
  model = dataclasses.replace(TINY, depth=3, num_registers=1, **changed)
  variables, x = filled(model), images(2, 8, 8, 1)

  def blocks(model, variables):
    encoded, _ = model.backbone().apply(variables, x, train=False, blocks=2)
    return encoded

  whole = jit(functools.partial(blocks, model))(variables)
  scanned = dataclasses.replace(model, scan_layers=True)
  jax.tree.map(
    functools.partial(np.testing.assert_allclose, rtol=1e-4, atol=1e-5),
    jit(functools.partial(blocks, scanned))(stacked(variables, 3)),
    whole,
  )
  assert whole.blocks.shape == (2, 2, 16)
  np.testing.assert_allclose(whole.blocks[:, -1], whole.pooled, rtol=1e-4)


@pytest.mark.parametrize("blocks", [-1, 3])
def test_as_many_blocks_as_there_are(blocks):
  with pytest.raises(ValueError, match=rf"blocks={blocks}.*model.depth=2"):
    TINY.backbone().apply(
      filled(TINY), images(1, 8, 8, 1), train=False, blocks=blocks
    )


@pytest.mark.usefixtures("x64")
def test_attention_of_the_class_token_is_its_softmax():
  model = dataclasses.replace(MODEL, depth=1, pooling="cls", num_registers=2)
  variables, x = filled(model), images(2, 8, 8, 1).astype(float)
  found = jit(functools.partial(class_attention, model))(variables, x)
  assert found.shape == (2, model.num_heads, 4)
  params = jax.tree.map(np.float64, variables["params"])
  block, width = params["block_0"], model.width // model.num_heads
  for image, heads in zip(x, found, strict=True):
    patches = oracle.patchify((image - model.mean[0]) / model.std[0], 4)
    patches = patches @ params["embed"]["kernel"] + params["embed"]["bias"]
    positions = oracle.sincos(2, 2, model.width)
    patches += np.roll(positions, model.width // 2, axis=1)
    t = np.concatenate([params["cls"][None], params["registers"], patches])
    norm = block["attention_norm"]
    t = oracle.layer_norm(t, norm["scale"], norm["bias"], model.norm_epsilon)
    q, k, _ = np.split(
      t @ block["qkv"]["kernel"] + block["qkv"]["bias"], 3, axis=1
    )
    for head, weights in enumerate(heads):
      own = slice(head * width, (head + 1) * width)
      expected = np.exp(k[:, own] @ q[0, own] / width**0.5)
      expected /= expected.sum()
      np.testing.assert_allclose(weights, expected[3:], rtol=1e-9)


@pytest.mark.usefixtures("x64")
def test_attention_of_scanned_blocks_is_that_of_the_last():
  model = dataclasses.replace(MODEL, **OPTIONS["rope_prefix"])
  variables, x = filled(model), images(2, 8, 8, 1).astype(float)
  scanned = dataclasses.replace(model, scan_layers=True)
  np.testing.assert_allclose(
    class_attention(scanned, stacked(variables, model.depth), x),
    class_attention(model, variables, x),
    rtol=1e-9,
  )
  with pytest.raises(ValueError, match="no class token: expected"):
    class_attention(MODEL, filled(MODEL), x)
