"""Every public loss: against its oracle, by finite differences, on any mesh."""

import math
import re

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax.sharding import AxisType, NamedSharding
from jax.sharding import PartitionSpec as P
from losses.cases import BY_OPERATION, CASES, B, K, fast_only

from jssl import losses
from jssl.losses.ops.characteristic import api as characteristic
from jssl.losses.ops.nearest import api as nearest
from jssl.losses.ops.prototypes import api as prototypes
from jssl.losses.ops.sigmoid import api as sigmoid
from jssl.losses.ops.similarity import api as similarity
from jssl.runtime.flops import inner_programs

every_loss = pytest.mark.parametrize("case", CASES, ids=str)


@pytest.fixture(autouse=True)
def small_tiles(monkeypatch):
  """Several tiles a device, and a last one that isn't full."""
  # Doubled on a CPU.
  monkeypatch.setattr(similarity.LogSumExp, "max_tile", (4, 4))
  for operation in (
    prototypes.Attend,
    sigmoid.Total,
    nearest.Take,
    characteristic.Sums,
  ):
    monkeypatch.setattr(operation, "max_tile", (8, 8))
  monkeypatch.setattr("jssl.losses.ops.gram.api._TILE_BYTES", 8 * 40 * 8)
  monkeypatch.setattr("jssl.losses.ops.gram.features._MAX_STRIP", 4)


def learned(case):
  every = range(len(case.shapes))
  return tuple(i for i in every if i not in case.stopped)


def value_and_grads(case, **options):
  return jax.value_and_grad(
    lambda *arrays: case.loss(*arrays, **options),
    argnums=tuple(range(len(case.shapes))),
  )


def assert_equal(got, expected, rtol=1e-10):
  leaves = zip(jax.tree.leaves(got), jax.tree.leaves(expected), strict=True)
  for a, b in leaves:
    scale = np.max(np.abs(b), initial=1e-3)
    np.testing.assert_allclose(a, b, rtol=rtol, atol=rtol * scale)


def test_the_list_is_complete():
  public = {
    name for name in losses.__all__ if name.islower() and "terms" not in name
  }
  tested = {case.name for case in CASES}
  assert {
    n for n in public if not any(t.startswith(n) for t in tested)
  } == set()


@every_loss
def test_equals_the_papers_sums(x64, case):
  arrays = case.arrays()
  got = jax.jit(case.loss)(*arrays)
  assert got.dtype == jnp.float64
  assert got.shape == ()
  np.testing.assert_allclose(got, case.oracle(*arrays), rtol=1e-11)


@every_loss
def test_float32_is_as_close_as_rounding_allows(case):
  function = jax.jit(case.loss)
  for temperature in (0.7, 0.01):
    arrays = [
      a if a.ndim else np.float32(temperature) for a in case.arrays(np.float32)
    ]
    expected = case.oracle(*(np.asarray(a, np.float64) for a in arrays))
    got = function(*arrays)
    assert got.dtype == jnp.float32
    sharpest = max(case.inverse_temperature, 1 / temperature)
    bound = 1e-6 * max(1, abs(expected), sharpest if len(arrays) > 2 else 1)
    assert abs(got - expected) <= bound


@pytest.mark.parametrize("case", fast_only(BY_OPERATION))
def test_bfloat16_is_computed_in_float32(case):
  arrays = [
    jnp.asarray(a, jnp.bfloat16 if a.ndim else jnp.float32)
    for a in case.arrays()
  ]
  value, grads = jax.jit(value_and_grads(case))(*arrays)
  assert value.dtype == jnp.float32
  assert [g.dtype for g in grads] == [a.dtype for a in arrays]
  exact = [np.asarray(a, np.float64) for a in arrays]
  # Softmax weights of bfloat16 prototypes are bfloat16 in one product.
  rounded = case.name in ("dino", "ibot", "swav", "dissl")
  rtol = 3e-3 if rounded else 1e-5
  np.testing.assert_allclose(value, case.oracle(*exact), rtol=rtol, atol=1e-5)
  wide = jax.jit(value_and_grads(case))(*(a.astype(np.float32) for a in exact))
  for g, expected in zip(grads, wide[1], strict=True):
    size = np.max(np.abs(expected), initial=1e-6)
    error = np.abs(np.asarray(g, np.float32) - np.asarray(expected))
    assert error.max() <= 0.02 * size


def test_swav_stops_its_assignments(x64):
  case = next(c for c in CASES if c.name == "swav")
  z, w, t = case.arrays()
  fixed = [
    losses.sinkhorn(z[a] @ w.T, epsilon=0.3, iterations=3) for a in (0, 1)
  ]

  def frozen(z, w):
    log_p = jax.nn.log_softmax(jnp.einsum("vbd,kd->vbk", z, w) / t)
    pairs = [(a, c) for a in (0, 1) for c in range(4) if a != c]
    return -sum(jnp.mean(jnp.sum(fixed[a] * log_p[c], 1)) for a, c in pairs) / 6

  expected = jax.value_and_grad(frozen, (0, 1))(z, w)
  value, grads = jax.jit(value_and_grads(case))(z, w, t)
  assert_equal((value, grads[:2]), expected)


@every_loss
def test_gradients_equal_finite_differences(x64, case):
  arrays = case.arrays()
  function = jax.jit(case.loss)
  _, grads = jax.jit(value_and_grads(case))(*arrays)
  for i in case.stopped:
    np.testing.assert_array_equal(grads[i], 0)
  rng = np.random.default_rng(1)
  for i in learned(case):
    if case.name == "swav" and i < 2:
      continue  # Its assignments move: see test_swav_stops_its_assignments.
    for _ in range(2):
      step = rng.normal(size=arrays[i].shape)
      moved = [
        function(*arrays[:i], arrays[i] + sign * 1e-6 * step, *arrays[i + 1 :])
        for sign in (1, -1)
      ]
      slope = (moved[0] - moved[1]) / 2e-6
      np.testing.assert_allclose(
        np.sum(grads[i] * step), slope, rtol=1e-6, atol=1e-8
      )


def on_meshes():
  """Every loss on every mesh; in the fast tests one for each operation."""
  for case in CASES:
    for shape in (2, 4), (8,):
      for axis_type in AxisType.Auto, AxisType.Explicit:
        first = shape == (2, 4) and case.name in BY_OPERATION
        yield pytest.param(
          case,
          shape,
          axis_type,
          marks=() if first else pytest.mark.slow,
          id=f"{case}-{'x'.join(map(str, shape))}-{axis_type.name}",
        )


@pytest.mark.parametrize(("case", "shape", "axis_type"), list(on_meshes()))
def test_a_mesh_equals_one_device(x64, case, shape, axis_type):
  arrays = case.arrays()
  expected = jax.jit(value_and_grads(case))(*arrays)
  axes = ("a", "b")[: len(shape)]
  mesh = jax.make_mesh(shape, axes, axis_types=(axis_type,) * len(shape))
  placed = [
    jax.device_put(a, NamedSharding(mesh, spec))
    for a, spec in zip(arrays, specs(case, axes), strict=True)
  ]
  with jax.set_mesh(mesh):
    got = jax.jit(value_and_grads(case))(*placed)
  assert_equal(got, expected)


def specs(case, axes):
  return tuple(
    P() if dim is None else P(*(None,) * dim, axes) for dim in case.batch
  )


def inside_and_checked():
  """Every loss, with and without checks; slow as above."""
  for case in CASES:
    for check_vma in True, False:
      first = check_vma and case.name in BY_OPERATION
      yield pytest.param(
        case,
        check_vma,
        marks=() if first else pytest.mark.slow,
        id=f"{case}-{check_vma}",
      )


@pytest.mark.parametrize(("case", "check_vma"), list(inside_and_checked()))
def test_inside_of_shard_map(x64, case, check_vma):
  arrays, axes = case.arrays(), ("a", "b")
  if case.name == "cissl":
    # Views are stacked on each device: pairs are 1, 2 and not 1, 1 + b.
    order = np.arange(16).reshape(8, 2).T.reshape(-1)
    alone = tuple(a[order] if a.ndim else a for a in arrays)
  else:
    alone = arrays
  expected = jax.jit(value_and_grads(case))(*alone)
  if case.name == "cissl":
    back = np.argsort(order)
    grads = tuple(g[back] if g.ndim else g for g in expected[1])
    expected = expected[0], grads
  mesh = jax.make_mesh((2, 4), axes, axis_types=(AxisType.Auto,) * 2)
  in_specs = specs(case, axes)
  everything = tuple(range(len(arrays)))

  outside = jax.shard_map(
    lambda *arrays: case.loss(*arrays, axis_name=axes),
    mesh=mesh,
    in_specs=in_specs,
    out_specs=P(),
    check_vma=check_vma,
  )
  got = jax.jit(jax.value_and_grad(outside, argnums=everything))(*arrays)
  assert_equal(got, expected)

  def local(*arrays):
    value, grads = value_and_grads(case, axis_name=axes)(*arrays)
    if not check_vma:
      grads = tuple(
        jax.lax.pmean(g, axes) if dim is None else g / 8
        for g, dim in zip(grads, case.batch, strict=True)
      )
    return value, grads

  inside = jax.shard_map(
    local,
    mesh=mesh,
    in_specs=in_specs,
    out_specs=(P(), in_specs),
    check_vma=check_vma,
  )
  assert_equal(jax.jit(inside)(*arrays), expected)


@every_loss
@pytest.mark.parametrize(
  "dtype", [jnp.float32, pytest.param(jnp.bfloat16, marks=pytest.mark.slow)]
)
def test_degenerate_features_have_finite_gradients(case, dtype):
  def filled(fill, a, dim):
    if dim is None:
      return a
    a = np.moveaxis(np.array(a), dim, 0)
    if fill == "zeros":
      a[:] = 0
    elif fill == "equal":
      a[:] = a[0]
    elif fill == "one zero row":
      a[3] = 0
    else:
      a[1::2] = a[::2]
    return np.moveaxis(a, 0, dim)

  function = jax.jit(value_and_grads(case))
  for fill in ("zeros", "equal", "one zero row", "twice"):
    arrays = [
      # The sharpest temperature that is in use.
      jnp.asarray(filled(fill, a, dim), dtype) if a.ndim else jnp.float32(0.01)
      for a, dim in zip(case.arrays(np.float32), case.batch, strict=True)
    ]
    value, grads = function(*arrays)
    assert jnp.isfinite(value), fill
    for g in grads:
      assert jnp.all(jnp.isfinite(g)), fill


@every_loss
def test_two_images_are_enough(x64, case):
  def cut(a, dim):
    return a if dim is None else np.take(a, [0, 1], axis=dim)

  arrays = [
    cut(a, dim) for a, dim in zip(case.arrays(), case.batch, strict=True)
  ]
  value, grads = jax.jit(value_and_grads(case))(*arrays)
  np.testing.assert_allclose(value, case.oracle(*arrays), rtol=1e-9)
  for g in grads:
    assert jnp.all(jnp.isfinite(g))


fused_losses = pytest.mark.parametrize(
  "case", [case for case in CASES if case.fused], ids=str
)


@pytest.mark.slow
@fused_losses
def test_implementations_agree(x64, case):
  arrays = case.arrays()
  reference = value_and_grads(case, implementation="reference")
  tiled = value_and_grads(case, implementation="tiled")
  assert_equal(jax.jit(tiled)(*arrays), jax.jit(reference)(*arrays))


def sizes(jaxpr):
  """Yields the elements of all arrays of a program, inner ones included."""
  for equation in jaxpr.eqns:
    yield from (math.prod(v.aval.shape) for v in equation.outvars)
    for inner in inner_programs(equation):
      yield from sizes(inner)


@fused_losses
def test_nothing_is_as_large_as_all_pairs(case):
  """A hundred times the rows: only what is as long as the inputs may grow."""
  large = {B: 100 * B, K: 100 * K, 40: 4000}
  arrays = [
    jax.ShapeDtypeStruct(tuple(large.get(n, n) for n in shape), jnp.float32)
    for shape in case.shapes
  ]
  program = jax.make_jaxpr(value_and_grads(case, implementation="tiled"))
  longest = max(math.prod(a.shape) for a in arrays)
  # Both views together, or the prototypes of both sides.
  assert max(sizes(program(*arrays).jaxpr)) <= 3 * longest


def test_ibot_compiles_to_no_array_of_tokens_by_prototypes(monkeypatch):
  monkeypatch.undo()  # The tiles of users.
  case = next(c for c in CASES if c.name == "ibot")
  shapes = (16, 256, 16), (16, 256, 16), (8192, 16), (8192, 16)
  arrays = [
    jax.ShapeDtypeStruct(shape, jnp.float32)
    for shape in (*shapes, (8192,), (16, 256), ())
  ]
  text = jax.jit(value_and_grads(case)).lower(*arrays).compile().as_text()
  found = re.findall(r"\b[a-z]+[0-9]+\[([0-9,]+)\]", text)
  sizes = {math.prod(map(int, shape.split(","))) for shape in found}
  assert max(sizes) < 4096 * 8192 / 4


@fused_losses
def test_an_unknown_implementation_is_named(case):
  with pytest.raises(ValueError, match=r"implementation='magic'.*'tiled'"):
    case.loss(*case.arrays(np.float32), implementation="magic")


@every_loss
def test_shard_map_needs_an_axis_name(case):
  mesh = jax.make_mesh((8,), ("a",), axis_types=(AxisType.Auto,))
  arrays, in_specs = case.arrays(np.float32), specs(case, ("a",))

  def call(loss, arrays, in_specs=in_specs, check_vma=True):
    jax.eval_shape(
      jax.shard_map(
        loss,
        mesh=mesh,
        in_specs=in_specs,
        out_specs=P(),
        check_vma=check_vma,
      ),
      *arrays,
    )

  with pytest.raises(ValueError, match=r"pass axis_name=\('a',\)"):
    call(case.loss, arrays)
  if case.name == "supervised_contrastive":
    return  # Its case cuts labels by the axis, and would be told by JAX.
  with pytest.raises(ValueError, match=r"no axis 'z' is bound"):
    call(lambda *a: case.loss(*a, axis_name="z"), arrays)
  with pytest.raises(ValueError, match=r"are replicated over \['a'\]"):
    call(lambda *a: case.loss(*a, axis_name="a"), arrays, P())
  with pytest.raises(ValueError, match=r"no axis 'a' is bound"):
    case.loss(*arrays, axis_name="a")
