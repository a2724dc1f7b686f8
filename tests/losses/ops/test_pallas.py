"""The TPU kernels, interpreted; a slow test compiles them for a TPU."""

import functools
import json
import pathlib
import subprocess
import sys

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax.experimental.pallas import tpu as pltpu
from jax.sharding import AxisType, NamedSharding
from jax.sharding import PartitionSpec as P

import jssl
from jssl.losses.ops import layout as layouts
from jssl.losses.ops import pallas, prototypes, similarity
from jssl.losses.ops.prototypes import api as prototypes_api
from jssl.losses.ops.prototypes import pallas_tpu as prototypes_kernels
from jssl.losses.ops.similarity import api, pallas_tpu, tiled

ROOT = pathlib.Path(jssl.__file__).parents[1]

# Three blocks of rows and two of columns, the last ones partial.
N, M, D, E = 296, 168, 7, 5
KINDS = ["both", "rows", "self"]


@pytest.fixture(autouse=True)
def small_tiles(monkeypatch):
  """The smallest blocks that a kernel has."""
  monkeypatch.setattr(api.LogSumExp, "max_tile", (64, 64))
  monkeypatch.setattr(prototypes_api.Attend, "max_tile", (128, 128))


def arguments(n=N, m=M, d=D, dtype=jnp.float32, seed=0):
  rng = np.random.default_rng(seed)
  x, y = (jnp.asarray(rng.normal(size=(k, d)), dtype) for k in (n, m))
  numbers = (
    rng.uniform(0.2, 1, n),
    rng.uniform(0.2, 1, m),
    rng.normal(size=n),
    rng.normal(size=m),
  )
  return (x, y, *(jnp.asarray(a, jnp.float32) for a in numbers))


def similarity_loss(layout, x, y, r, c, p, q, *, kind, ids=True):
  """A scalar that depends on every log-sum-exp, and not linearly."""
  n, m = len(x), len(y)
  rows = similarity.operand(x, r, ids=jnp.arange(n) % 9 if ids else 0, bias=p)
  columns = similarity.operand(
    y, c, ids=jnp.arange(m) % 5 if ids else 1, bias=q
  )
  if kind == "self":
    rows, columns = rows._replace(ids=jnp.arange(n)), None
  if kind == "both":
    by_row, by_column = similarity.log_sum_exps(layout, rows, columns)
    return jnp.mean(jnp.sin(by_row)) + jnp.mean(jnp.cos(by_column))
  by_row = similarity.log_sum_exp(layout, rows, columns)
  return jnp.mean(jnp.sin(by_row))


def prototypes_loss(layout, x, y, r, c, p, q, values, *, ids=True):
  """The same, of the means too."""
  rows = similarity.operand(
    x, r, ids=jnp.arange(len(x)) % 9 if ids else 0, bias=p
  )
  columns = similarity.operand(
    y, c, ids=jnp.arange(len(y)) % 5 if ids else 1, bias=q
  )
  lse, mean = prototypes.attend(layout, rows, columns, values)
  return jnp.mean(jnp.sin(lse)) + jnp.mean(jnp.cos(2 * mean).sum(axis=1))


def value_and_grads(loss, implementation, *args, **options):
  def run(*args):
    return layouts.with_layout(
      loss, args[:1], args[1:], implementation=implementation, **options
    )

  return once(jax.value_and_grad(run, argnums=range(len(args))), *args)


def once(function, *args):
  """Calls it; an interpreted kernel takes longer to compile than to run."""
  options = {"xla_backend_optimization_level": 0}
  return jax.jit(function, compiler_options=options)(*args)


def assert_equal(got, expected, tolerance=1e-5):
  for a, b in zip(jax.tree.leaves(got), jax.tree.leaves(expected), strict=True):
    a, b = np.asarray(a, np.float64), np.asarray(b, np.float64)
    np.testing.assert_allclose(a, b, atol=tolerance * max(1e-3, abs(b).max()))


def assert_kernel_equals_reference(loss, *args, tolerance=1e-5, **options):
  got, expected = (
    value_and_grads(loss, name, *args, **options)
    for name in ("pallas_tpu", "reference")
  )
  assert_equal(got, expected, tolerance)


def values(m=M, dtype=jnp.float32):
  rng = np.random.default_rng(1)
  return jnp.asarray(rng.normal(size=(m, E)), dtype)


@pytest.mark.parametrize(
  ("kind", "ids"), [("both", False), *((kind, True) for kind in KINDS)]
)
def test_similarity_equals_reference(kind, ids):
  args = arguments(n=N - 3, m=M - 5)
  assert_kernel_equals_reference(similarity_loss, *args, kind=kind, ids=ids)


def test_prototypes_equal_reference():
  args = *arguments(n=N - 3, m=M - 5), values(M - 5)
  assert_kernel_equals_reference(prototypes_loss, *args)


@pytest.mark.parametrize("loss", [similarity_loss, prototypes_loss])
def test_bfloat16(loss):
  """Of one side, or of both and the values."""
  x, y, *numbers = arguments(d=130, dtype=jnp.bfloat16)
  if loss is similarity_loss:
    args = x / 8, y.astype(jnp.float32) / 8, *numbers
    options = {"kind": "both"}
  else:
    args = x / 8, y / 8, *numbers, values(dtype=jnp.bfloat16)
    options = {}
  assert_kernel_equals_reference(loss, *args, tolerance=2e-2, **options)


def test_rows_that_are_all_equal_at_a_high_scale():
  x, y, *numbers = arguments(n=136, m=136)
  x, y = jnp.ones_like(x), jnp.ones_like(y)
  numbers[0] = jnp.full_like(numbers[0], 100.0)
  args = x, y, *numbers
  # Of a log-sum-exp of 700, float32 knows the fourth decimal.
  assert_kernel_equals_reference(
    similarity_loss, *args, kind="both", tolerance=1e-4
  )


@pytest.mark.parametrize("kind", KINDS)
def test_a_ring_equals_one_device(kind):
  args = arguments(n=64, m=64)
  expected = value_and_grads(similarity_loss, "reference", *args, kind=kind)
  mesh = jax.make_mesh((8,), ("a",), axis_types=(AxisType.Auto,))
  args = jax.device_put(args, NamedSharding(mesh, P("a")))
  got = value_and_grads(similarity_loss, "pallas_tpu", *args, kind=kind)
  assert_equal(got, expected)


def test_prototypes_on_a_mesh_equal_one_device():
  args = *arguments(n=64, m=24), values(24)
  expected = value_and_grads(prototypes_loss, "reference", *args)
  mesh = jax.make_mesh((8,), ("a",), axis_types=(AxisType.Auto,))
  split, whole = NamedSharding(mesh, P("a")), NamedSharding(mesh, P())
  args = [jax.device_put(a, split if len(a) == 64 else whole) for a in args]
  got = value_and_grads(prototypes_loss, "pallas_tpu", *args)
  assert_equal(got, expected)


def block(n, m):
  """Two operands with padding, and nonzero accumulators."""
  x, y, r, c, p, q = arguments(n=n, m=m)
  rows = similarity.operand(x, r, ids=jnp.arange(n) % 9, bias=p)
  columns = similarity.operand(y, c, ids=jnp.arange(m) % 5, bias=q)
  rows = rows._replace(ids=rows.ids.at[-4:].set(-1))
  columns = columns._replace(ids=columns.ids.at[-2:].set(-1))
  sums = tiled.RunningSum(p, r), tiled.RunningSum(q, c)
  weights = tiled.Cotangent(3 + r, p), tiled.Cotangent(3 + c, q)
  flows = tiled.GradientSum(x[::-1], p), tiled.GradientSum(y[::-1], q)
  return rows, columns, sums, weights, flows


@pytest.mark.parametrize("most", [2**16, 1])
def test_sums_accumulate(monkeypatch, most):
  """Also with more columns than VMEM can hold sums of."""
  monkeypatch.setattr(pallas_tpu, "_MAX_COLUMNS", most)
  rows, columns, sums, _, _ = block(N, M)
  args = rows, columns, *sums
  got, expected = (
    once(functools.partial(kind.forward, tile=(N, M)), *args)
    for kind in (pallas_tpu, tiled)
  )
  assert_equal(got, expected)


@pytest.mark.parametrize("by_column", [True, False])
def test_gradients_accumulate(by_column):
  rows, columns, _, weights, flows = block(N, M)
  args = rows, columns, weights[0], weights[1] if by_column else None, *flows
  got, expected = (
    once(functools.partial(kind.backward, tile=(N, M)), *args)
    for kind in (pallas_tpu, tiled)
  )
  assert_equal(got, expected)


def test_nothing_races(monkeypatch, capfd):
  """Blocks that are said to be independent are, on two cores at once."""
  params = pltpu.InterpretParams(detect_races=True, num_cores_or_threads=2)
  monkeypatch.setattr(pallas, "_interpret", params)
  # Whole blocks: this interpreter refuses partial blocks.
  args = arguments(n=256, m=256)
  assert_kernel_equals_reference(similarity_loss, *args, kind="both")
  assert_kernel_equals_reference(prototypes_loss, *args, values(256))
  assert "RACE" not in capfd.readouterr().out


def test_what_a_tpu_cannot_multiply_is_refused(x64):
  args = [jnp.asarray(a, jnp.float64) for a in arguments(16, 16)]
  for loss, more, options in (
    (similarity_loss, [], {"kind": "both"}),
    (prototypes_loss, [values(16)], {}),
  ):
    with pytest.raises(ValueError, match=r"'pallas_tpu'.*float64"):
      value_and_grads(loss, "pallas_tpu", *args, *more, **options)


def test_float32_runs_beside_float64(x64):
  args = arguments(n=16, m=16)
  assert_kernel_equals_reference(similarity_loss, *args, kind="both")


def test_features_that_are_too_wide_are_refused():
  assert pallas_tpu.unsupported(jnp.dtype("bfloat16"), 2048) is None
  assert "too wide" in pallas_tpu.unsupported(jnp.dtype("bfloat16"), 2**14)
  assert (
    prototypes_kernels.unsupported(jnp.dtype("bfloat16"), 1024, 1024) is None
  )
  assert "too wide" in prototypes_kernels.unsupported(
    jnp.dtype("float32"), 8, 2**14
  )


def test_there_are_no_second_derivatives():
  x, *others = arguments(n=16, m=16)

  def length(x):
    by_x = jax.grad(similarity_loss, argnums=1)(
      layouts.Layout(None, (), "pallas_tpu"), x, *others, kind="both"
    )
    return jnp.sum(by_x**2)

  with pytest.raises(ValueError, match="pallas_tpu"):
    jax.eval_shape(jax.grad(length), x)


COMPILE = """
from jssl.preflight import targets
of = targets.target("v5e:2x4")
of.prepare()
import json
import jax, jax.numpy as jnp
from jax.sharding import AxisType, Mesh, NamedSharding, PartitionSpec as P
from jssl.losses.ops import layout as layouts, prototypes, similarity

def infonce(layout, x, y):
  rows = similarity.operand(x, 0.1, ids=0)
  columns = similarity.operand(y, 1.0, ids=1)
  by_row, by_column = similarity.log_sum_exps(layout, rows, columns)
  return layout.sum(by_row.sum() + by_column.sum())

def attended(layout, x, w):
  w = layout.as_varying(w)
  rows = similarity.operand(x, 1.0, ids=0)
  columns = similarity.operand(w, 1.0, ids=1)
  lse, mean = prototypes.attend(layout, rows, columns, w)
  return layout.sum(lse.sum() + jnp.sum(mean**2))

mesh = Mesh(of.devices(), ("data",), axis_types=(AxisType.Auto,))

def compiled(loss, split, dtype, width, check_vma):
  def run(x, y):
    return layouts.with_layout(
      loss,
      (x,),
      (y,),
      axis_name=None if check_vma is None else "data",
      implementation="pallas_tpu",
    )
  specs = P("data"), P("data") if split else P()
  args = [
    jax.ShapeDtypeStruct((n, width), dtype, sharding=NamedSharding(mesh, s))
    for n, s in zip((8192, 8192 if split else 3000), specs)
  ]
  if check_vma is not None:
    run = jax.shard_map(
      run, mesh=mesh, in_specs=specs, out_specs=P(), check_vma=check_vma
    )
  step = jax.value_and_grad(run, argnums=(0, 1))
  return jax.jit(step).lower(*args).compile().as_text()

counts = []
for dtype, width in (("bfloat16", 768), ("float32", 100)):
  for loss, split in ((infonce, True), (attended, False)):
    for check_vma in (None, True):
      text = compiled(loss, split, dtype, width, check_vma)
      counts.append(text.count('custom_call_target="tpu_custom_call"'))
print(json.dumps(counts))
"""


@pytest.mark.slow
def test_a_tpu_program_has_the_kernels():
  done = subprocess.run(
    [sys.executable, "-c", COMPILE],
    cwd=ROOT,
    capture_output=True,
    text=True,
    check=False,
  )
  assert done.returncode == 0, done.stderr
  # One forward pass over the streamed blocks, and two backward.
  assert json.loads(done.stdout.splitlines()[-1]) == [3] * 8
