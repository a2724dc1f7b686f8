import dataclasses
import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jssl.models import resnet
from jssl.models.backbone import init_variables

# Most of the time of these tests is compilation.
jit = functools.partial(
  jax.jit, compiler_options={"xla_backend_optimization_level": 0}
)

TINY = resnet.ResNet(
  depth=18, small_images=True, width=4, mean=(0.5,), std=(0.5,)
)


def images(*shape, seed=0):
  return np.random.default_rng(seed).random(shape, np.float32)


def filled(backbone, image_shape, seed=1):
  """Random variables, without compiling the initialisers."""
  draw = np.random.default_rng(seed)

  def fill(path, leaf):
    match path[-1].key:
      case "kernel":
        value = draw.normal(0, np.prod(leaf.shape[:-1]) ** -0.5, leaf.shape)
      case "scale" | "var":
        value = draw.uniform(0.5, 1.5, leaf.shape)
      case "bias" | "mean":
        value = draw.normal(0, 0.1, leaf.shape)
    return value.astype(leaf.dtype)

  shapes = jax.eval_shape(lambda: init_variables(0, backbone, image_shape))
  return jax.tree_util.tree_map_with_path(fill, shapes)


@pytest.mark.parametrize(
  ("depth", "feature_dim", "count"),
  # torchvision's counts without the classifier.
  [
    (18, 512, 11_689_512 - 513_000),
    (34, 512, 21_797_672 - 513_000),
    (50, 2048, 25_557_032 - 2_049_000),
  ],
)
def test_parameter_counts(depth, feature_dim, count):
  backbone = resnet.ResNet(depth=depth, small_images=False).backbone()
  shapes = jax.eval_shape(lambda: init_variables(0, backbone, (224, 224, 3)))
  assert backbone.feature_dim == feature_dim
  assert sum(x.size for x in jax.tree.leaves(shapes["params"])) == count
  h = jax.eval_shape(
    lambda v, x: backbone.apply(v, x, train=False)[0].pooled,
    shapes,
    jax.ShapeDtypeStruct((2, 224, 224, 3), jnp.float32),
  )
  assert h.shape == (2, feature_dim)


@pytest.fixture
def shallow(monkeypatch):
  """A ResNet with two blocks, which compiles four times as fast."""
  monkeypatch.setitem(resnet.STAGES, 18, (1, 1))
  return TINY


def test_stem_maps_are_saved_once(shallow, monkeypatch):
  """Remat of the stem saves memory and does not change the gradient."""
  backbone = dataclasses.replace(shallow, small_images=False).backbone()
  variables = filled(backbone, (32, 32, 1))
  x = images(6, 32, 32, 1)

  def loss(params):
    of_params = {**variables, "params": params}
    return jnp.square(backbone.apply(of_params, x, train=True)[0].pooled).mean()

  def kept():
    _, pullback = jax.vjp(loss, variables["params"])
    shapes = [leaf.shape for leaf in jax.tree.leaves(pullback)]
    return shapes.count((6, 16, 16, 4))

  anew, once = jit(jax.grad(loss))(variables["params"]), kept()
  monkeypatch.setattr(resnet.nn, "remat", lambda function, policy: function)
  at_hand, more = jit(jax.grad(loss))(variables["params"]), kept()
  assert once == 1
  assert more > 1
  jax.tree.map(
    lambda a, b: np.testing.assert_allclose(a, b, rtol=1e-4, atol=1e-6),
    anew,
    at_hand,
  )


def test_training_updates_statistics_and_evaluation_uses_them(shallow):
  backbone = shallow.backbone()
  variables = filled(backbone, (8, 8, 1))
  x = images(6, 8, 8, 1)
  _, after = jit(lambda x: backbone.apply(variables, x, train=True))(x)
  before = variables["batch_stats"]["stem_norm"]["mean"]
  assert np.abs(after["batch_stats"]["stem_norm"]["mean"] - before).max() > 0
  evaluate = jit(lambda v, x: backbone.apply(v, x, train=False))
  (h, *_), same = evaluate(after, x)
  jax.tree.map(np.testing.assert_array_equal, same, after)
  (among_others, *_), _ = evaluate(after, np.concatenate([x[1:2], 1 - x[:5]]))
  np.testing.assert_allclose(among_others[0], h[1], rtol=1e-4, atol=1e-5)


def test_bfloat16_computes_with_float32_parameters(shallow):
  half = dataclasses.replace(shallow, dtype="bfloat16", expand_dim=64)
  backbone = half.backbone()
  variables = jax.eval_shape(lambda: init_variables(0, backbone, (4, 4, 1)))
  h, after = jax.eval_shape(
    lambda v, x: backbone.apply(v, x, train=True),
    variables,
    jax.ShapeDtypeStruct((4, 4, 4, 1), jnp.float32),
  )
  kinds = {leaf.dtype for leaf in jax.tree.leaves((variables, after, h))}
  assert kinds == {jnp.dtype("float32")}


@pytest.mark.parametrize(("depth", "narrow"), [(18, 512), (50, 2048)])
def test_expansions_of_the_paper(depth, narrow):
  model = resnet.ResNet(depth, small_images=False)
  wide = dataclasses.replace(model, expand_dim=4 * narrow).backbone()
  shapes = jax.eval_shape(lambda: init_variables(0, wide, (64, 64, 3)))
  count = sum(x.size for x in jax.tree.leaves(shapes["params"]["expansion"]))
  convolutions = narrow * 512 + 512 * 512 * 9 + 512 * 4 * narrow
  assert count == convolutions + 2 * (512 + 512 + 4 * narrow)
  h = jax.eval_shape(
    lambda v, x: wide.apply(v, x, train=False)[0].pooled,
    shapes,
    jax.ShapeDtypeStruct((2, 64, 64, 3), jnp.float32),
  )
  assert h.shape == (2, wide.feature_dim) == (2, 4 * narrow)


def convolution(x, kernel):
  """Convolution as a sum over windows with zero padding."""
  size = len(kernel)
  padded = np.pad(x, [(0, 0), *[(size // 2, size // 2)] * 2, (0, 0)])
  out = np.zeros((*x.shape[:3], kernel.shape[-1]))
  for n, i, j in np.ndindex(x.shape[:3]):
    window = padded[n, i : i + size, j : j + size]
    out[n, i, j] = np.einsum("ijc,ijcd->d", window, kernel)
  return out


@pytest.mark.usefixtures("x64")
def test_expansion_is_its_formula():
  draw = np.random.default_rng(0)
  x = draw.random((2, 3, 4, 2))
  model = dataclasses.replace(TINY, dtype="float64")
  object.__setattr__(model, "expand_dim", 6)  # No multiple of 8 * width.
  module = resnet.Expansion(model)
  shapes = jax.eval_shape(lambda: module.init(jax.random.key(0), x, False))
  variables = jax.tree.map(lambda leaf: draw.random(leaf.shape) - 0.3, shapes)
  variables["batch_stats"] = jax.tree.map(
    lambda leaf: leaf + 0.5, variables["batch_stats"]
  )
  y = x
  for i in range(3):
    y = convolution(y, variables["params"][f"Conv_{i}"]["kernel"])
    affine = variables["params"][f"BatchNorm_{i}"]
    saved = variables["batch_stats"][f"BatchNorm_{i}"]
    y = (y - saved["mean"]) / np.sqrt(saved["var"] + 1e-5)
    y = y * affine["scale"] + affine["bias"]
    y = y if i == 2 else np.maximum(y, 0)
  tiled = np.concatenate([x, x, x], axis=-1)
  out = jit(lambda x: module.apply(variables, x, False))(x)
  np.testing.assert_allclose(out, np.maximum(y + tiled, 0), rtol=1e-9)


def test_groups_reach_every_norm(shallow):
  """One call with two groups equals two calls, including the expansion."""
  model = dataclasses.replace(shallow, expand_dim=64)
  variables = filled(model.backbone(), (4, 4, 1))
  x = images(8, 4, 4, 1)

  @jit
  def whole(x):
    grouped = dataclasses.replace(model, norm_groups=2).backbone()
    return grouped.apply(variables, x, train=True)

  @jit
  def part(x):
    return model.backbone().apply(variables, x, train=True)

  (h, *_), after = whole(x)
  parts = [part(x[:4]), part(x[4:])]
  expected = np.concatenate([h.pooled for h, _ in parts])
  assert h.shape == (8, 64)
  np.testing.assert_allclose(h, expected, rtol=1e-3, atol=1e-4)
  averages = jax.tree.map(
    lambda a, b: (a + b) / 2, *[v["batch_stats"] for _, v in parts]
  )
  jax.tree.map(
    lambda a, b: np.testing.assert_allclose(a, b, rtol=1e-4, atol=1e-5),
    after["batch_stats"],
    averages,
  )


def test_blocks_start_as_the_identity():
  block = resnet.Block(TINY, width=4, stride=1)
  x = images(2, 6, 6, 4)
  variables = jit(lambda: block.init(jax.random.key(0), x, train=False))()
  y = jit(lambda x: block.apply(variables, x, train=False))(x)
  np.testing.assert_allclose(y, x)


@pytest.mark.parametrize(
  ("changed", "match"),
  [
    ({"depth": 19}, r"model.depth=19.*18, 34, 50"),
    ({"norm_groups": 0}, r"model.norm_groups=0 must be positive"),
    ({"width": 10**6}, r"model.width=1000000 must be in \[1, 65536\]"),
    ({"std": (0.0,)}, r"model.std\[0\]=0.0 must be positive"),
    ({"dtype": "float33"}, r"model.dtype='float33': expected one of float32"),
    ({"expand_dim": 48}, r"model.expand_dim=48 .* 32 features"),
    ({"depth": 50, "expand_dim": 64}, r"model.expand_dim=64 .* 128 features"),
  ],
)
def test_errors_name_the_option_out_of_range(changed, match):
  with pytest.raises(ValueError, match=match):
    dataclasses.replace(TINY, **changed)
