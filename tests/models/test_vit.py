import dataclasses
import functools
import re

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax.sharding import AxisType, NamedSharding
from jax.sharding import PartitionSpec as P

from jssl import rng
from jssl.models import tokens, vit, vit_layers, vit_positions
from jssl.models.backbone import init_variables

# Most of the time of these tests is compilation.
jit = functools.partial(
  jax.jit, compiler_options={"xla_backend_optimization_level": 0}
)

TINY = vit.ViT(patch_size_px=4, width=16, depth=2, num_heads=2)
# All options that add parameters or randomness.
FULL = dataclasses.replace(
  TINY,
  depth=3,
  pooling="cls",
  positions="learned",
  layer_scale=0.5,
  drop_path=0.6,
  expand_dim=32,
)
# The other ones.
MODERN = dataclasses.replace(
  TINY,
  depth=2,
  pooling="cls_mean",
  num_registers=2,
  positions="rope",
  rope_shift=0.1,
  rope_jitter=1.2,
  rope_rescale=2.0,
  mlp="swiglu",
  qkv_bias="qv",
  drop_path=0.4,
  drop_path_uniform=True,
)


def without_blocks(model):
  """A model of depth 0, which only a test needs."""
  model = dataclasses.replace(model)
  object.__setattr__(model, "depth", 0)
  return model


def images(*shape, seed=0):
  return np.random.default_rng(seed).random(shape, np.float32)


def filled(model, image_shape=(8, 8, 1), seed=1):
  """Random variables, without compiling the initialisers."""
  draw = np.random.default_rng(seed)

  def fill(path, leaf):
    if path[-1].key == "kernel":
      value = draw.normal(0, leaf.shape[-2] ** -0.5, leaf.shape)
    else:
      value = (path[-1].key == "scale") + draw.normal(0, 0.2, leaf.shape)
    return value.astype(leaf.dtype)

  backbone = model.backbone()
  shapes = jax.eval_shape(lambda: init_variables(0, backbone, image_shape))
  return jax.tree_util.tree_map_with_path(fill, shapes)


@functools.partial(jit, static_argnums=0)
def evaluate(model, variables, x):
  return model.backbone().apply(variables, x, train=False)[0].pooled


@functools.partial(jit, static_argnums=0)
def train(model, variables, x, keys):
  encoded, after = model.backbone().apply(variables, x, train=True, keys=keys)
  return encoded.pooled, after


def keys_of(n, seed=0):
  return rng.per_row(jax.random.key(seed), n)


def test_patches_hold_their_pixels():
  x = np.arange(2.0 * 8 * 12 * 3).reshape(2, 8, 12, 3)
  cut = tokens.patches(x, 4)
  assert cut.shape == (2, 6, 48)
  for n, (row, column) in enumerate(np.ndindex(2, 3)):
    expected = x[1, 4 * row : 4 * row + 4, 4 * column : 4 * column + 4]
    np.testing.assert_array_equal(cut[1, n], expected.ravel())


def test_positions_are_those_of_the_formula():
  positions = vit_positions.sincos_positions(2, 3, 8)
  for n, (y, x) in enumerate(np.ndindex(2, 3)):
    frequencies = (1.0, 10000**-0.5)
    expected = [np.sin(y * f) for f in frequencies]
    expected += [np.cos(y * f) for f in frequencies]
    expected += [np.sin(x * f) for f in frequencies]
    expected += [np.cos(x * f) for f in frequencies]
    np.testing.assert_allclose(positions[n], expected)


@pytest.mark.parametrize("channels", [1, 3])
@pytest.mark.parametrize("model", [TINY, FULL, MODERN])
@pytest.mark.parametrize("dtype", ["float32", "bfloat16"])
def test_features_have_their_shape_and_dtype(channels, model, dtype):
  backbone = dataclasses.replace(model, dtype=dtype).backbone()
  shape = (8, 8, channels)
  variables = jax.eval_shape(lambda: init_variables(0, backbone, shape))
  (h, *_), after = jax.eval_shape(
    lambda v, x: backbone.apply(v, x, train=True, keys=keys_of(3)),
    variables,
    jax.ShapeDtypeStruct((3, *shape), jnp.float32),
  )
  assert h.shape == (3, backbone.feature_dim)
  assert after == variables
  kinds = {leaf.dtype for leaf in jax.tree.leaves((variables, h))}
  assert kinds == {jnp.dtype("float32")}


def test_features_do_not_depend_on_the_batch():
  x, variables = images(4, 8, 8, 1), filled(TINY)
  h = evaluate(TINY, variables, x)
  among_others = evaluate(TINY, variables, np.stack([x[2], *(1 - x[:3])]))
  np.testing.assert_allclose(among_others[0], h[2], rtol=1e-5, atol=1e-6)


def test_positions_matter():
  x = images(4, 8, 8, 1)
  x[1] = np.concatenate([x[0, 4:], x[0, :4]])
  h = evaluate(TINY, filled(TINY), x)
  assert np.abs(h[0] - h[1]).max() > 1e-3


def test_zero_initialised_residuals_start_as_the_identity():
  model = dataclasses.replace(TINY, zero_init_residual=True)
  backbone = model.backbone()
  variables = jit(lambda: init_variables(0, backbone, (8, 8, 1)))()
  for i in range(2):
    for name in ("attention_out", "mlp_out"):
      last = variables["params"][f"block_{i}"][name]["kernel"]
      np.testing.assert_array_equal(last, np.zeros_like(last))
  x = images(4, 8, 8, 1)
  kept = {k: v for k, v in variables["params"].items() if "block" not in k}
  np.testing.assert_allclose(
    evaluate(TINY, variables, x),
    evaluate(without_blocks(TINY), {"params": kept}, x),
    atol=1e-6,
  )


def test_bfloat16_computes_with_float32_parameters():
  half = dataclasses.replace(TINY, dtype="bfloat16")
  x, variables = images(4, 8, 8, 1), filled(TINY)
  h = evaluate(half, variables, x)
  assert h.dtype == jnp.float32
  np.testing.assert_allclose(h, evaluate(TINY, variables, x), atol=0.1)
  assert "bf16" in evaluate.lower(half, variables, x).as_text()


def test_default_parameter_names_are_stable():
  shapes = jax.eval_shape(lambda: init_variables(0, TINY.backbone(), (8, 8, 1)))
  assert shapes.keys() == {"params"}
  assert shapes["params"].keys() == {"embed", "block_0", "block_1", "norm"}
  assert shapes["params"]["block_0"].keys() == {
    "attention_norm",
    "qkv",
    "attention_out",
    "mlp_norm",
    "mlp_in",
    "mlp_out",
  }


def stacked(variables, depth):
  """Stacks the parameters of an unrolled model for a scanned one."""
  params = dict(variables["params"])
  blocks = [params.pop(f"block_{i}") for i in range(depth)]
  params["blocks"] = jax.tree.map(lambda *leaves: np.stack(leaves), *blocks)
  return {"params": params}


@pytest.mark.parametrize(
  "model",
  [dataclasses.replace(FULL, depth=2, expand_dim=0), MODERN],
  ids=["full", "modern"],
)
def test_scanned_and_recomputed_blocks_are_the_same_function(model):
  variables = filled(model)
  x, keys = images(4, 8, 8, 1), keys_of(4)

  def value_and_gradient(variables, **changed):
    def loss(variables):
      same = dataclasses.replace(model, **changed)
      (h, *_), _ = same.backbone().apply(variables, x, train=True, keys=keys)
      return jnp.sin(h).sum()

    return jit(jax.value_and_grad(loss))(variables)

  value, gradient = value_and_gradient(variables)
  for scan, remat in [(False, "block"), (True, "dots")]:
    own, expected = variables, gradient
    if scan:
      own, expected = (stacked(v, model.depth) for v in (own, expected))
    jax.tree.map(
      lambda a, b: np.testing.assert_allclose(a, b, rtol=1e-4, atol=1e-5),
      value_and_gradient(own, scan_layers=scan, remat=remat),
      (value, expected),
    )


def test_remat_is_in_the_program():
  """Recomputed in the backward pass: nothing, everything, or all but dots."""
  x = images(2, 8, 8, 1)
  variables = jax.eval_shape(
    lambda: init_variables(0, TINY.backbone(), (8, 8, 1))
  )

  def products(remat):
    model = dataclasses.replace(TINY, remat=remat).backbone()

    def loss(params):
      return model.apply({"params": params}, x, train=True)[0].pooled.sum()

    text = jax.jit(jax.grad(loss)).lower(variables["params"]).as_text()
    return text.count("dot_general")

  none, dots, everything = (products(r) for r in ("none", "dots", "block"))
  # Two of the six products of a block, those of attention, have batch
  # dimensions; the last product is not needed again.
  assert none < dots < everything


def test_scanned_blocks_start_differently():
  backbone = dataclasses.replace(TINY, scan_layers=True).backbone()
  params = jit(lambda: init_variables(0, backbone, (8, 8, 1)))()["params"]
  assert params.keys() == {"embed", "blocks", "norm"}
  kernel = params["blocks"]["qkv"]["kernel"]
  assert kernel.shape == (2, 16, 48)
  assert np.abs(kernel[0] - kernel[1]).max() > 0.1
  np.testing.assert_allclose(kernel.std((1, 2)), 16**-0.5, rtol=0.1)


@pytest.mark.parametrize("uniform", [False, True])
def test_drop_path_drops_at_its_rate_and_keeps_the_mean(uniform):
  n, depth, rate = 4000, 4, 0.6
  draw = jit(
    lambda: vit_layers.drop_path_factors(
      keys_of(n), depth, rate, uniform=uniform
    )
  )
  factors = np.asarray(draw())
  assert factors.shape == (depth, 2, n)
  for i, (dropped, of_block) in enumerate(
    zip(np.linspace(rate * uniform, rate, depth), factors, strict=True)
  ):
    np.testing.assert_allclose(
      np.unique(of_block),
      np.unique([0, 1 / (1 - dropped)])[-1 - (i > 0 or uniform) :],
    )
    # Five standard errors of the mean of n draws.
    tolerance = 5 * np.sqrt(dropped * (1 - dropped) / n) + 1e-6
    np.testing.assert_allclose((of_block == 0).mean(1), dropped, atol=tolerance)
    np.testing.assert_allclose(
      of_block.mean(1), 1, atol=tolerance / (1 - dropped)
    )
  # Branches and blocks are independent.
  flat = (factors[1:].reshape(-1, n) == 0).astype(float)
  correlation = np.corrcoef(flat) - np.eye(len(flat))
  assert np.abs(correlation).max() < 5 / np.sqrt(n)


def test_a_draw_depends_on_the_key_not_the_position():
  keys = keys_of(16)
  draw = jit(lambda keys: vit_layers.drop_path_factors(keys, 3, 0.5))
  factors = draw(keys)
  order = np.random.default_rng(0).permutation(16)
  np.testing.assert_array_equal(draw(keys[order]), factors[..., order])
  mesh = jax.make_mesh((8,), ("data",), axis_types=(AxisType.Auto,))
  rows = NamedSharding(mesh, P("data"))
  np.testing.assert_array_equal(draw(jax.device_put(keys, rows)), factors)


def test_factors_scale_the_branches_of_their_image():
  part = vit_layers.Block(4, 2, 32, False, 0.0, jnp.dtype("float32"))
  x = images(3 * 4, 16)
  variables = jit(part.init)(jax.random.key(0), x)
  apply = jit(lambda *factors: part.apply(variables, x, *factors))

  def weighted(attention, mlp):
    out = apply(jnp.array([attention, mlp], jnp.float32))
    return np.asarray(out).reshape(3, 4, 16)

  whole = np.asarray(apply()).reshape(3, 4, 16)
  np.testing.assert_allclose(weighted([1, 1, 1], [1, 1, 1]), whole, atol=1e-6)
  mixed = weighted([0, 1, 0], [0, 1, 1])
  tokens_in = x.reshape(3, 4, 16)
  np.testing.assert_array_equal(mixed[0], tokens_in[0])
  np.testing.assert_allclose(mixed[1], whole[1], atol=1e-6)
  # Each branch is scaled by its factor.
  once = weighted([1, 0, 0], [0, 1, 0]) - tokens_in
  twice = weighted([2, 0, 0], [0, 2, 0]) - tokens_in
  np.testing.assert_allclose(twice, 2 * once, atol=1e-5)


@pytest.mark.parametrize("model", [FULL, MODERN], ids=["full", "modern"])
def test_draws_follow_the_keys_of_images(model):
  x, keys, variables = images(4, 8, 8, 1), keys_of(4), filled(model)
  h, _ = train(model, variables, x, keys)
  order = np.array([2, 0, 3, 1])
  shuffled, _ = train(model, variables, x[order], keys[order])
  np.testing.assert_allclose(shuffled, h[order], rtol=1e-5, atol=1e-5)
  other, _ = train(model, variables, x, keys_of(4, seed=1))
  assert np.abs(other - h).max() > 1e-2


@pytest.mark.parametrize("scan", [False, True])
def test_only_training_with_keys_draws(scan):
  model = dataclasses.replace(FULL, scan_layers=scan)
  x, variables = images(4, 8, 8, 1), filled(model)

  def draws(**how):
    program = jax.make_jaxpr(
      lambda x: model.backbone().apply(variables, x, **how)[0].pooled
    )(x)
    return "random_bits" in str(program)

  assert draws(train=True, keys=keys_of(4))
  assert not draws(train=True)
  assert not draws(train=False, keys=keys_of(4))


def test_layer_scale_scales_both_branches():
  """Equals folding the scales into the preceding layers."""
  model = dataclasses.replace(TINY, layer_scale=0.1)
  params = filled(model)["params"]
  folded = {name: dict(part) for name, part in params.items()}
  for i in range(2):
    for branch in ("attention", "mlp"):
      scale = folded[f"block_{i}"].pop(f"{branch}_scale")
      last = folded[f"block_{i}"][f"{branch}_out"]
      folded[f"block_{i}"][f"{branch}_out"] = {
        "kernel": last["kernel"] * scale[None],
        "bias": last["bias"] * scale,
      }
  x = images(4, 8, 8, 1)
  h = evaluate(model, {"params": params}, x)
  expected = evaluate(TINY, {"params": folded}, x)
  np.testing.assert_allclose(h, expected, rtol=1e-4, atol=1e-5)


def test_layer_scale_starts_at_its_value():
  part = vit_layers.Block(4, 2, 32, False, 0.1, jnp.dtype("float32"))
  params = jit(part.init)(jax.random.key(0), images(4, 16))["params"]
  for name in ("attention_scale", "mlp_scale"):
    np.testing.assert_array_equal(params[name], np.full(16, np.float32(0.1)))


def keys_kernel(x, a=-0.5):
  """Cubic convolution kernel of Keys (1981), equation 4."""
  x = abs(x)
  if x <= 1:
    return (a + 2) * x**3 - (a + 3) * x**2 + 1
  return a * (x**3 - 5 * x**2 + 8 * x - 4) if x < 2 else 0.0


def bicubic(old, new):
  """Interpolation weights [new, old] of one axis, renormalised at edges."""
  weights = np.zeros((new, old))
  for i, j in np.ndindex(new, old):
    weights[i, j] = keys_kernel((i + 0.5) * old / new - 0.5 - j)
  return weights / weights.sum(1, keepdims=True)


@pytest.mark.parametrize(("rows", "columns"), [(2, 3), (7, 4), (3, 5)])
def test_learned_positions_are_interpolated_for_other_grids(rows, columns):
  learned = images(5, 4, 3)
  expected = np.einsum(
    "ih,jw,hwd->ijd", bicubic(5, rows), bicubic(4, columns), learned
  )
  np.testing.assert_allclose(
    vit_positions.resized_positions(jnp.asarray(learned), rows, columns),
    expected.reshape(-1, 3),
    rtol=1e-5,
    atol=1e-5,
  )


def test_learned_positions_are_unchanged_on_their_grid():
  model = dataclasses.replace(TINY, positions="learned")
  params = dict(filled(model)["params"])
  assert params["positions"].shape == (2, 2, 16)
  table = vit_positions.sincos_positions(2, 2, 16).astype(np.float32)
  params["positions"] = table.reshape(2, 2, 16)
  x = images(4, 8, 8, 1)
  h = evaluate(model, {"params": params}, x)
  del params["positions"]
  np.testing.assert_array_equal(h, evaluate(TINY, {"params": params}, x))


@pytest.mark.parametrize("positions", ["sincos", "learned", "rope"])
def test_small_crops_run_on_the_same_variables(positions):
  model = dataclasses.replace(TINY, positions=positions, depth=1)
  variables = filled(model, (12, 12, 1))
  h, after = train(model, variables, images(4, 8, 8, 1), keys_of(4))
  assert h.shape == (4, 16)
  assert np.isfinite(h).all()
  jax.tree.map(np.testing.assert_array_equal, after, variables)


def test_class_token_is_the_feature():
  model = without_blocks(dataclasses.replace(TINY, pooling="cls"))
  params = filled(model)["params"]
  x = images(4, 8, 8, 1)
  token = np.asarray(params["cls"], np.float64)
  unit = (token - token.mean()) / np.sqrt(token.var() + 1e-6)
  unit = unit * params["norm"]["scale"] + params["norm"]["bias"]
  h = evaluate(model, {"params": params}, x)
  np.testing.assert_allclose(h, np.stack([unit] * 4), rtol=1e-4, atol=1e-5)
  # The class token depends on the image only through the blocks.
  seeing = dataclasses.replace(TINY, pooling="cls", depth=1)
  h = evaluate(seeing, filled(seeing), x)
  assert np.abs(h[0] - h[1]).max() > 1e-3


@pytest.mark.usefixtures("x64")
def test_expansion_is_its_formula():
  draw = np.random.default_rng(0)
  x = draw.normal(size=(2 * 3, 4))
  module = vit_layers.Expansion(12, 3, jnp.dtype("float64"))
  shapes = jax.eval_shape(lambda: module.init(jax.random.key(0), x))
  variables = jax.tree.map(
    lambda leaf: 0.1 * draw.normal(size=leaf.shape), shapes
  )
  params = variables["params"]

  def dense(y, name):
    return y @ params[name]["kernel"] + params[name]["bias"]

  y = x
  for i in range(2):
    y = dense(y, f"dense_{i}")
    y = y - y.mean(1, keepdims=True)
    y = y / np.sqrt((y**2).mean(1, keepdims=True) + 1e-6)
    y = y * params[f"norm_{i}"]["scale"] + params[f"norm_{i}"]["bias"]
    # The tanh approximation of GELU.
    y = y / 2 * (1 + np.tanh(np.sqrt(2 / np.pi) * (y + 0.044715 * y**3)))
  y = dense(y, "out") + np.concatenate([x, x, x], axis=1)
  expected = y.reshape(2, 3, 12).mean(1)
  h = jit(module.apply)(variables, x)
  np.testing.assert_allclose(h, expected, rtol=1e-9)


@pytest.mark.parametrize(
  ("changed", "match"),
  [
    ({"width": 18, "num_heads": 4}, r"model.width=18.*model.num_heads=4"),
    ({"num_heads": 0}, r"model.num_heads=0 must be positive"),
    ({"depth": 0}, r"model.depth=0 must be positive"),
    ({"mlp_dim": -1}, r"model.mlp_dim=-1 must be at least 0"),
    ({"mlp": "glu"}, r"model.mlp='glu'.*gelu, swiglu"),
    ({"depth": -1}, r"model.depth=-1 must be positive"),
    ({"layer_scale": -0.1}, r"model.layer_scale=-0.1 must be at least 0"),
    ({"drop_path": 1.0}, r"model.drop_path=1.0 must be in \[0, 1\)"),
    ({"drop_path": -0.1}, r"model.drop_path=-0.1 must be in \[0, 1\)"),
    ({"std": (0.5, 0.0)}, r"model.std\[1\]=0.0 must be positive"),
    ({"mean": (float("nan"),)}, r"model.mean\[0\]=nan must be a finite"),
    ({"width": 10**6}, r"model.width=1000000 must be in \[1, 65536\]"),
    ({"std": (0.0,)}, r"model.std\[0\]=0.0 must be positive"),
    ({"dtype": "float33"}, r"model.dtype='float33': expected one of float32"),
    ({"expand_dim": 24}, r"model.expand_dim=24 .* model.width=16"),
    ({"pooling": "max"}, r"model.pooling='max'.*mean, cls"),
    ({"pooling": "cls_mean", "expand_dim": 32}, r"model.expand_dim=32.*cls_me"),
    ({"num_registers": -1}, r"model.num_registers=-1 must be at least 0"),
    ({"norm_epsilon": 0.0}, r"model.norm_epsilon=0.0 must be positive"),
    ({"qkv_bias": "k"}, r"model.qkv_bias='k'.*qkv, qv, none"),
    ({"gelu": "exact"}, r"model.gelu='exact'.*tanh, erf"),
    ({"positions": "none"}, r"model.positions='none'.*sincos, sincos_column"),
    ({"interpolation": "nearest"}, r"model.interpolation='nearest'.*bicubic"),
    ({"positions": "rope", "num_heads": 8}, r"model.num_heads=8"),
    ({"rope_rescale": 2.0}, r"rope_rescale need model.positions=.rope."),
    ({"rope_jitter": 0.5}, r"model.rope_jitter=0.5 must be at least 1"),
    ({"remat": "full"}, r"model.remat='full'.*none, block, dots"),
  ],
)
def test_errors_name_the_option_out_of_range(changed, match):
  with pytest.raises(ValueError, match=match):
    dataclasses.replace(TINY, **changed)


def test_indivisible_sizes_are_errors():
  with pytest.raises(ValueError, match=r"10 x 10 px.*model.patch_size_px=4"):
    init_variables(0, TINY.backbone(), (10, 10, 1))
  with pytest.raises(ValueError, match=r"model.width=6"):
    vit_positions.sincos_positions(2, 2, 6)


# Counts of timm's vit_*_patch16_224 without the classifier.
@pytest.mark.parametrize(
  ("width", "depth", "heads", "count"),
  [
    (192, 12, 3, 5_717_416 - 193_000),
    (384, 12, 6, 22_050_664 - 385_000),
    (768, 12, 12, 86_567_656 - 769_000),
  ],
)
def test_usual_sizes_have_their_parameter_counts(width, depth, heads, count):
  model = vit.ViT(16, width, depth, heads, scan_layers=True)
  tokens = {"pooling": "cls", "positions": "learned"}
  # In timm the class token has a position embedding in addition.
  learned = dataclasses.replace(model, **tokens)
  assert parameters(learned, 224) == count - width
  assert parameters(model, 224) == count - (1 + 1 + 14 * 14) * width


# DINOv2's g and DINOv3's S+, H+ and 7B.
@pytest.mark.parametrize(
  ("width", "ratio", "hidden"),
  [(1536, 4, 4096), (384, 6, 1536), (1280, 6, 5120), (4096, 3, 8192)],
)
def test_swiglu_has_the_hidden_width_of_dinov2(width, ratio, hidden):
  model = vit.ViT(14, width, 1, 1, mlp="swiglu", mlp_ratio=ratio)
  assert model.mlp_hidden_dim == hidden
  # int(16 * 2 / 3) = 10.
  assert dataclasses.replace(model, width=16, mlp_ratio=1).mlp_hidden_dim == 16


def parameters(model, image_px):
  backbone, shape = model.backbone(), (image_px, image_px, 3)
  shapes = jax.eval_shape(lambda: init_variables(0, backbone, shape))
  return sum(x.size for x in jax.tree.leaves(shapes))


@pytest.mark.parametrize(
  ("preset", "count"),
  [
    ("dinov2_vits14", 22_056_576),
    ("dinov2_vitb14", 86_580_480),
    ("dinov2_vitl14", 304_368_640),
    ("dinov2_vitg14", 1_136_480_768),
  ],
)
def test_dinov2_presets_have_the_published_parameters(preset, count):
  fields = vit.ViT.presets[preset]
  model = vit.ViT(**fields, scan_layers=True, mask_token=True)
  assert parameters(model, 518) == count


@pytest.mark.parametrize(
  ("preset", "millions"),
  [
    ("dinov3_vits16", 21.6),
    ("dinov3_vits16plus", 28.7),
    ("dinov3_vitb16", 85.7),
    ("dinov3_vitl16", 303),
    ("dinov3_vith16plus", 840),
    ("dinov3_vit7b16", 6716),
  ],
)
def test_dinov3_presets_have_the_published_size(preset, millions):
  model = vit.ViT(**vit.ViT.presets[preset], scan_layers=True)
  assert parameters(model, 224) == pytest.approx(1e6 * millions, rel=2e-3)


@pytest.mark.parametrize("preset", vit.ViT.presets)
def test_presets_are_models(preset):
  model = vit.ViT(**vit.ViT.presets[preset])
  assert model.patch_size_px == int(re.findall("14|16", preset)[-1])
  assert model.num_registers == 4 * ("_reg" in preset or "dinov3" in preset)


def test_layer_norm_of_a_large_mean_does_not_cancel():
  x = np.random.default_rng(0).normal(100, 0.1, (64, 512)).astype(np.float32)
  norm = vit_layers.LayerNorm(epsilon=1e-12)
  y = np.asarray(norm.apply(norm.init(jax.random.key(0), x), x), np.float64)
  np.testing.assert_allclose(y.std(1), 1, rtol=0.02)
