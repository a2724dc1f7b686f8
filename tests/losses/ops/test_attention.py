"""Attention against sums over pairs in float64, on every platform and mesh."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax.experimental.pallas import tpu as pltpu
from jax.sharding import AxisType, NamedSharding
from jax.sharding import PartitionSpec as P
from jax.test_util import check_grads

from jssl.losses.ops import layout, pallas
from jssl.losses.ops.attention import api, attention, cudnn, pallas_tpu
from jssl.models import ViT
from jssl.preflight import targets
from jssl.preflight.hlo import buffers, text
from jssl.runtime.flops import inner_programs

# Tokens, width, heads and images: images that start within a tile and are whole
# in a block, that are padded, one of several parts, and heads of 80 dimensions.
SHAPES = [
  pytest.param((197, 128, 2, 16), marks=pytest.mark.slow),
  pytest.param((1370, 128, 2, 1), marks=pytest.mark.slow),
  (37, 128, 2, 16),
  (50, 256, 2, 8),
  (37, 128, 4, 3),
  (64, 128, 1, 2),
  (21, 640, 8, 2),
]


def inputs(tokens, width, images, dtype, *, masked=False, seed=0):
  random = np.random.default_rng(seed)
  rows = images * tokens
  qkv = random.normal(size=(rows, 3 * width))
  g = random.normal(size=(rows, width))
  valid = None
  if masked:
    valid = random.random((images, tokens)) < 0.6
    valid[:, 0] = True
  return jnp.asarray(qkv, dtype), jnp.asarray(g, dtype), valid


def oracle(qkv, valid, tokens, heads):
  """Computes attention one query at a time."""
  qkv = np.asarray(qkv, np.float64)
  width = qkv.shape[1] // 3
  e = width // heads
  out = np.zeros((len(qkv), width))
  for row in range(len(qkv)):
    image = row // tokens
    own = slice(image * tokens, (image + 1) * tokens)
    for head in range(heads):
      q, k, v = (
        qkv[:, part * width + head * e : part * width + (head + 1) * e]
        for part in range(3)
      )
      weights = np.exp(k[own] @ q[row] / np.sqrt(e))
      if valid is not None:
        weights = weights * valid[image]
      out[row, head * e : (head + 1) * e] = weights @ v[own] / weights.sum()
  return out


def value_and_gradient(qkv, g, valid, **options):
  function = functools.partial(attention, valid=valid, **options)
  out, pullback = jax.vjp(function, qkv)
  return out, pullback(g)[0]


H100 = "NVIDIA H100 80GB HBM3"
with_kernel = functools.partial(value_and_gradient, implementation="pallas_tpu")


def error(a, b):
  a, b = np.asarray(a, np.float64), np.asarray(b, np.float64)
  return np.linalg.norm(a - b) / np.linalg.norm(b)


@pytest.mark.parametrize("masked", [False, True])
@pytest.mark.parametrize("dtype", [jnp.float64, jnp.float32, jnp.bfloat16])
def test_the_reference_is_the_sum_over_pairs(x64, dtype, masked):
  tokens, width, heads, images = 7, 12, 3, 2
  qkv, _, valid = inputs(tokens, width, images, dtype, masked=masked)
  out = attention(qkv, tokens=tokens, num_heads=heads, valid=valid)
  assert out.dtype == dtype
  bar = {8: 1e-14, 4: 1e-6, 2: 1e-2}[qkv.dtype.itemsize]
  assert error(out, oracle(qkv, valid, tokens, heads)) < bar


def test_the_gradient_of_the_reference_is_that_of_finite_differences(x64):
  qkv, _, valid = inputs(5, 8, 2, jnp.float64, masked=True)
  function = functools.partial(attention, tokens=5, num_heads=2, valid=valid)
  check_grads(function, (qkv,), order=2, modes=["rev"])


@pytest.mark.parametrize("masked", [False, True])
@pytest.mark.parametrize("shape", SHAPES)
def test_the_kernel_is_the_reference(shape, masked):
  tokens, width, heads, images = shape
  qkv, g, valid = inputs(tokens, width, images, jnp.bfloat16, masked=masked)
  options = {"tokens": tokens, "num_heads": heads}
  ours = value_and_gradient(
    qkv, g, valid, implementation="pallas_tpu", **options
  )
  exact = value_and_gradient(
    qkv.astype(jnp.float32), g.astype(jnp.float32), valid, **options
  )
  rounded = value_and_gradient(qkv, g, valid, **options)
  assert error(ours[0], oracle(qkv, valid, tokens, heads)) < 4e-3
  for own, wide, narrow in zip(ours, exact, rounded, strict=True):
    assert own.dtype == jnp.bfloat16
    # Not further from float32 than the reference in bfloat16.
    assert error(own, wide) < max(1.2 * error(narrow, wide), 4e-3)


def test_parts_of_the_queries_add_up(monkeypatch):
  """As for images of 1,370 tokens, whose logits do not fit into VMEM."""
  tokens, width, heads, images = 70, 128, 2, 2
  qkv, g, valid = inputs(tokens, width, images, jnp.bfloat16, masked=True)
  options = {"tokens": tokens, "num_heads": heads}
  run = functools.partial(with_kernel, qkv, g, valid, **options)
  whole = run()
  monkeypatch.setattr(pallas_tpu, "_LOGITS", 2**16)
  blocks = pallas_tpu.block_sizes(images, tokens, 128, heads)
  assert [part.stop for part in blocks.queries] == [32, 64, 80]
  for a, b in zip(run(), whole, strict=True):
    assert error(a, b) < 4e-3


def test_the_kernel_has_no_races(monkeypatch):
  parameters = pltpu.InterpretParams(detect_races=True)
  monkeypatch.setattr(pallas, "_interpret", parameters)
  qkv, g, valid = inputs(21, 128, 2, jnp.bfloat16, masked=True)
  options = {"tokens": 21, "num_heads": 2}
  ours = value_and_gradient(
    qkv, g, valid, implementation="pallas_tpu", **options
  )
  theirs = value_and_gradient(qkv, g, valid, **options)
  for a, b in zip(ours, theirs, strict=True):
    assert error(a, b) < 1e-2


def test_any_mesh_is_one_device():
  tokens, heads = 21, 2
  qkv, g, valid = inputs(tokens, 128, 8, jnp.bfloat16, masked=True)
  run = functools.partial(with_kernel, tokens=tokens, num_heads=heads)
  expected = run(qkv, g, valid)
  for kind in (AxisType.Auto, AxisType.Explicit):
    mesh = jax.make_mesh((2, 4), ("data", "fsdp"), axis_types=(kind,) * 2)
    rows = NamedSharding(mesh, P(("data", "fsdp")))
    with jax.set_mesh(mesh):
      arrays = jax.device_put((qkv, g, jnp.asarray(valid)), rows)
      for a, b in zip(jax.jit(run)(*arrays), expected, strict=True):
        np.testing.assert_array_equal(a, b)


@pytest.mark.parametrize(
  ("check_vma", "implementation"),
  # JAX interprets no kernels with check_vma=True.
  [(False, "reference"), (True, "reference"), (False, "pallas_tpu")],
)
def test_inside_shard_map_a_device_attends_to_its_images(
  check_vma, implementation
):
  tokens, heads = 21, 2
  dtype = jnp.bfloat16 if implementation == "pallas_tpu" else jnp.float32
  qkv, g, _ = inputs(tokens, 128, 8, dtype)
  run = functools.partial(
    value_and_gradient,
    valid=None,
    tokens=tokens,
    num_heads=heads,
    implementation=implementation,
  )
  mesh = jax.make_mesh((8,), ("data",), axis_types=(AxisType.Auto,))
  mapped = jax.shard_map(
    run,
    mesh=mesh,
    in_specs=(P("data"), P("data")),
    out_specs=P("data"),
    check_vma=check_vma,
  )
  for a, b in zip(jax.jit(mapped)(qkv, g), run(qkv, g), strict=True):
    assert error(a, b) < 1e-6


def test_second_derivatives_are_those_of_the_reference(monkeypatch):
  """Of the kernel that the platform chooses."""
  qkv, g, _ = inputs(21, 128, 1, jnp.bfloat16)

  def of_gradient(qkv):
    def function(x):
      out = attention(x, tokens=21, num_heads=2)
      return jnp.sum(out.astype(jnp.float32) * g)

    gradient = jax.grad(function)(qkv).astype(jnp.float32)
    return jnp.sum(gradient**2)

  expected = jax.grad(of_gradient)(qkv)
  monkeypatch.setattr(layout.Layout, "platform", "tpu")
  assert error(jax.grad(of_gradient)(qkv), expected) < 5e-2


@pytest.mark.parametrize("masked", [False, True])
@pytest.mark.parametrize("tokens", [6, 7])
def test_cudnn_gets_what_it_takes(monkeypatch, tokens, masked):
  """Without a GPU, JAX's XLA implementation has the same arguments."""
  monkeypatch.setattr(layout.Layout, "device_kind", H100)

  def plain(*args, implementation, **options):
    assert implementation == "cudnn"
    assert args[0].shape[1] % 2 == 0
    return original(*args, implementation="xla", **options)

  original = jax.nn.dot_product_attention
  monkeypatch.setattr(jax.nn, "dot_product_attention", plain)
  qkv, g, valid = inputs(tokens, 32, 3, jnp.bfloat16, masked=masked)
  sizes = {"tokens": tokens, "num_heads": 2}
  ours = value_and_gradient(qkv, g, valid, implementation="cudnn", **sizes)
  theirs = value_and_gradient(
    qkv, g, valid, implementation="reference", **sizes
  )
  for a, b in zip(ours, theirs, strict=True):
    assert error(a, b) < 1e-2


@pytest.mark.parametrize(
  ("platform", "kind", "dtype", "chosen"),
  [
    ("tpu", "TPU v5", jnp.bfloat16, "pallas_tpu"),
    ("tpu", "TPU v5", jnp.float32, "reference"),
    ("gpu", H100, jnp.bfloat16, "cudnn"),
    ("gpu", H100, jnp.float16, "cudnn"),
    ("gpu", H100, jnp.float32, "reference"),
    ("gpu", "Tesla V100-SXM2-16GB", jnp.float16, "reference"),
    ("cpu", "cpu", jnp.bfloat16, "reference"),
  ],
)
def test_the_platform_chooses(monkeypatch, platform, kind, dtype, chosen):
  found = []
  monkeypatch.setattr(
    api.SelfAttention,
    "__call__",
    lambda self, qkv, valid: found.append(self.implementation) or qkv,
  )
  monkeypatch.setattr(layout.Layout, "platform", platform)
  monkeypatch.setattr(layout.Layout, "device_kind", kind)
  attention(jnp.zeros((16 * 21, 3 * 128), dtype), tokens=21, num_heads=2)
  assert found == [chosen]


def test_what_cannot_run_is_an_error_with_the_reason():
  def run(implementation, tokens=21, width=128, heads=2, dtype=jnp.bfloat16):
    qkv = jnp.zeros((2 * tokens, 3 * width), dtype)
    attention(
      qkv, tokens=tokens, num_heads=heads, implementation=implementation
    )

  with pytest.raises(ValueError, match=r"tiled.*reference.*pallas_tpu.*cudnn"):
    run("tiled")
  with pytest.raises(ValueError, match=r"takes bfloat16.*float32"):
    run("pallas_tpu", dtype=jnp.float32)
  with pytest.raises(ValueError, match="3 heads of 64 dimensions do not fill"):
    run("pallas_tpu", width=192, heads=3)
  with pytest.raises(
    ValueError, match=r"4097 tokens .* need more than .* VMEM"
  ):
    run("pallas_tpu", tokens=4097)
  with pytest.raises(ValueError, match="multiple of 8 up to 128"):
    run("cudnn", width=256, heads=1)
  assert cudnn.unsupported(jnp.float16, 64, H100) is None
  qkv = jnp.zeros((42, 384))
  with pytest.raises(ValueError, match=r"\(42, 384\).* tokens=20 rows"):
    attention(qkv, tokens=20, num_heads=2)
  with pytest.raises(ValueError, match="num_heads=5 columns"):
    attention(qkv, tokens=21, num_heads=5)
  with pytest.raises(ValueError, match=r"valid of shape \(1, 21\)"):
    attention(qkv, tokens=21, num_heads=2, valid=jnp.ones((1, 21), bool))


def test_jax_names_the_calls_of_cudnn_as_expected():
  """The policy of remat="dots" and the count of FLOPs look for these names."""
  from jax._src.cudnn import fused_attention_stablehlo as calls

  forward = calls._dot_product_attention_fwd_p_wrapper.name
  backward = calls._dot_product_attention_bwd_p_wrapper.name
  assert forward == "dot_product_attention_fwd_wrapper"
  assert backward == "dot_product_attention_bwd_wrapper"


def test_rematerialised_blocks_run_the_kernel_once(monkeypatch):
  monkeypatch.setattr(layout.Layout, "platform", "tpu")

  def kernels(remat):
    model = ViT(8, 128, 1, 2, dtype="bfloat16", remat=remat)
    backbone = model.backbone()
    images = jnp.zeros((2, 32, 32, 3))
    variables = jax.eval_shape(
      lambda: backbone.init(jax.random.key(0), (32, 32, 3))
    )

    def loss(params):
      found, _ = backbone.apply({"params": params}, images, train=True)
      return found.pooled.sum()

    return count(jax.make_jaxpr(jax.grad(loss))(variables["params"]).jaxpr)

  def count(jaxpr):
    total = 0
    for equation in jaxpr.eqns:
      if equation.primitive.name == "pallas_call":
        names = [v for k, v in equation.params.items() if k.startswith("name")]
        total += "attention_forward" in str(names)
      else:
        total += sum(map(count, inner_programs(equation)))
    return total

  assert kernels("dots") == kernels("none") > 0
  assert kernels("block") > kernels("none")


@pytest.mark.parametrize("tokens", [37, 50, 145, 197, 201, 257, 261, 577, 1370])
@pytest.mark.parametrize(("width", "heads"), [(384, 12), (768, 12), (1024, 8)])
def test_all_lengths_of_vits_have_a_kernel(tokens, width, heads):
  for images in (1, 6, 16):
    found = pallas_tpu.block_sizes(images, tokens, width, heads)
    assert isinstance(found, pallas_tpu.Blocks)
    assert images % found.images == 0
    assert found.images * found.rows % 16 == 0


@pytest.mark.slow
@pytest.mark.parametrize(
  ("tokens", "width", "heads", "images"),
  [
    (37, 1024, 16, 32),
    (197, 384, 12, 16),
    (197, 768, 12, 16),
    (257, 1280, 16, 4),
    (785, 1024, 8, 2),
    (1370, 1024, 16, 2),
  ],
)
def test_tpu_programs_keep_logits_on_chip(tokens, width, heads, images):
  """Compiled for a v5e, forward and backward."""
  target = targets.target("v5e:2x4")
  target.prepare()
  mesh = jax.sharding.Mesh(
    np.array(target.devices()), ("data",), axis_types=(AxisType.Auto,)
  )
  rows = NamedSharding(mesh, P("data"))
  total = 8 * images * tokens

  def arrays(*shape, dtype=jnp.bfloat16):
    return jax.ShapeDtypeStruct(shape, dtype, sharding=rows)

  run = functools.partial(value_and_gradient, tokens=tokens, num_heads=heads)
  compiled = (
    jax.jit(run, out_shardings=rows)
    .lower(
      arrays(total, 3 * width),
      arrays(total, width),
      arrays(8 * images, tokens, dtype=bool),
    )
    .compile()
  )
  program = compiled.as_text()
  assert "attention_forward" in program
  assert "attention_backward" in program
  # Reads qkv twice, writes its gradient; no matrix of logits in temporaries.
  least = 11 * images * tokens * width * 2
  assert buffers.hbm_bytes(text.parse(program)) < 1.6 * least
  logits = 4 * images * heads * tokens**2
  assert compiled.memory_analysis().temp_size_in_bytes < max(logits / 4, 2**20)
