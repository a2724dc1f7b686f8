import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax.sharding import AxisType, NamedSharding
from jax.sharding import PartitionSpec as P

from jssl.losses.ops import layout as layouts
from jssl.losses.ops import similarity
from jssl.losses.ops.similarity import api
from jssl.losses.ops.similarity.reference import MASKED

N, M, D = 48, 40, 7
KINDS = ["both", "rows", "self"]
AXES = ("a", "b")


@pytest.fixture(autouse=True)
def small_tiles(monkeypatch):
  """Several tiles on each device, the last one not full."""
  monkeypatch.setattr(api.LogSumExp, "max_tile", (4, 8))


def arguments(n=N, m=M, seed=0):
  rng = np.random.default_rng(seed)
  x, y = rng.normal(size=(n, D)), rng.normal(size=(m, D))
  scales = rng.uniform(0.2, 2, n), rng.uniform(0.2, 2, m)
  return (x, y, *scales, rng.normal(size=n), rng.normal(size=m))


def objective(layout, x, y, r, c, p, q, *, kind, ids, shared=False):
  """A scalar that depends on every output, and not linearly."""
  n, m = len(x), len(y)
  # In manual mode arrays are a device's, ids are global all the same.
  first = layout.device_index() * n if layout.mesh is None else 0
  rows = similarity.operand(
    x, r, ids=(first + jnp.arange(n)) % 9 if ids else 0, bias=p
  )
  if kind == "self":
    rows = similarity.operand(x, r, ids=first + jnp.arange(n))
    columns = None
  else:
    column_ids = jnp.arange(m) % 5 if ids else 1
    columns = similarity.operand(y, c, ids=column_ids, bias=q)
  options = {"replicated": shared}
  if kind == "both":
    by_row, by_column = similarity.log_sum_exps(
      layout, rows, columns, **options
    )
    return layout.mean(jnp.sin(by_row)) + jnp.sum(jnp.cos(by_column)) / M
  by_row = similarity.log_sum_exp(layout, rows, columns, **options)
  return layout.mean(jnp.sin(by_row))


def run(*args, **options):
  return layouts.with_layout(objective, args[:1], args[1:], **options)


def value_and_grads(**options):
  function = functools.partial(run, **options)
  return jax.jit(jax.value_and_grad(function, argnums=range(6)))


def second_order(**options):
  gradients = jax.grad(functools.partial(run, **options), argnums=range(6))

  def length(*args):
    return sum(jnp.sum(g**2) for g in gradients(*args))

  return jax.jit(jax.grad(length, argnums=range(6)))


def assert_equal(got, expected, rtol=1e-11):
  for a, b in zip(jax.tree.leaves(got), jax.tree.leaves(expected), strict=True):
    np.testing.assert_allclose(a, b, rtol=rtol, atol=rtol)


def on_mesh(axis_type, shared):
  mesh = jax.make_mesh((2, 4), AXES, axis_types=(axis_type,) * 2)
  split, whole = NamedSharding(mesh, P(AXES)), NamedSharding(mesh, P())
  args = [
    jax.device_put(a, whole if shared and i % 2 else split)
    for i, a in enumerate(arguments())
  ]
  return mesh, args


@pytest.mark.parametrize("ids", [False, True])
def test_reference_equals_a_loop(x64, ids):
  x, y, r, c, p, q = arguments()
  rows = similarity.operand(x, r, ids=np.arange(N) % 9 if ids else 0, bias=p)
  columns = similarity.operand(y, c, ids=np.arange(M) % 5 if ids else 1, bias=q)
  by_row, by_column = similarity.log_sum_exps(
    layouts.Layout(None, (), "reference"), rows, columns
  )
  sums = np.zeros(N), np.zeros(M)
  for i, j in np.ndindex(N, M):
    if not ids or i % 9 != j % 5:
      term = np.exp(r[i] * c[j] * np.dot(x[i], y[j]) + p[i] + q[j])
      sums[0][i] += term
      sums[1][j] += term
  np.testing.assert_allclose(by_row, np.log(sums[0]), rtol=1e-12)
  np.testing.assert_allclose(by_column, np.log(sums[1]), rtol=1e-12)


@pytest.mark.parametrize("ids", [False, True])
@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("order", [value_and_grads, second_order])
def test_tiled_equals_reference(x64, order, kind, ids):
  args = arguments(n=37, m=21)
  expected = order(kind=kind, ids=ids, implementation="reference")(*args)
  got = order(kind=kind, ids=ids, implementation="tiled")(*args)
  assert_equal(got, expected)


@pytest.mark.parametrize("axis_type", [AxisType.Auto, AxisType.Explicit])
@pytest.mark.parametrize(
  ("kind", "shared"),
  [*((k, False) for k in KINDS), ("both", True), ("rows", True)],
)
@pytest.mark.parametrize(
  "order",
  # Of losses they are tested on a mesh as well.
  [value_and_grads, pytest.param(second_order, marks=pytest.mark.slow)],
)
def test_a_mesh_equals_one_device(x64, order, kind, shared, axis_type):
  expected = order(kind=kind, ids=True, implementation="reference")(
    *arguments()
  )
  mesh, args = on_mesh(axis_type, shared)
  with jax.set_mesh(mesh):
    got = order(kind=kind, ids=True, shared=shared)(*args)
  assert_equal(got, expected)


def test_rows_that_do_not_divide_are_padded(x64):
  args = arguments(n=37, m=21)
  expected = value_and_grads(kind="both", ids=True)(*args)
  mesh = jax.make_mesh((2, 4), AXES, axis_types=(AxisType.Auto,) * 2)
  args = jax.device_put(args, NamedSharding(mesh, P()))
  assert_equal(value_and_grads(kind="both", ids=True)(*args), expected)


def test_columns_rotate_in_blocks(x64, monkeypatch):
  monkeypatch.setattr("jssl.losses.ops.ring._BLOCK_BYTES", 1)
  monkeypatch.setattr(api.LogSumExp, "max_tile", (4, 4))
  args = arguments(n=64, m=128)
  expected = value_and_grads(kind="both", ids=True)(*args)
  mesh = jax.make_mesh((4,), ("a",), axis_types=(AxisType.Auto,))
  args = jax.device_put(args, NamedSharding(mesh, P("a")))
  function = value_and_grads(kind="both", ids=True)
  assert_equal(function(*args), expected)


def test_rows_without_pairs_are_masked_and_get_no_gradient():
  x = jnp.ones((3, 2))

  def by_row(x):
    rows = similarity.operand(x, 1.0, ids=jnp.array([0, 0, 1]))
    columns = similarity.operand(x, 1.0, ids=0)
    one_device = layouts.Layout(None, ())
    return similarity.log_sum_exp(one_device, rows, columns)

  np.testing.assert_allclose(by_row(x), [MASKED, MASKED, 2 + np.log(3)])
  gradient = jax.grad(lambda x: by_row(x).sum())(x)
  assert jnp.all(jnp.isfinite(gradient))
  np.testing.assert_allclose(gradient[2], [1 + 1 / 3] * 2, rtol=1e-6)


def test_no_matrix_is_ever_whole():
  """The largest array of the tiled program is an input, not the matrix."""
  n, d = 512, 4
  x = jax.ShapeDtypeStruct((n, d), jnp.float32)

  def value(x):
    return run(x, *(jnp.ones(n) for _ in range(5)), kind="self", ids=True)

  text = jax.jit(jax.grad(value)).lower(x).compile().as_text()
  assert f"[{n},{n}]" not in text


def test_second_derivatives_inside_of_shard_map_are_refused():
  mesh = jax.make_mesh((8,), ("a",), axis_types=(AxisType.Auto,))

  def local(x):
    def loss(x):
      rows = similarity.operand(x, 1.0, ids=0)
      by_row = similarity.log_sum_exp(
        layouts.Layout(None, ("a",)), rows, similarity.operand(x, 1.0, ids=1)
      )
      return by_row.sum()

    return jax.grad(lambda x: jnp.sum(jax.grad(loss)(x) ** 2))(x)

  function = jax.shard_map(
    local, mesh=mesh, in_specs=P("a"), out_specs=P("a"), check_vma=False
  )
  with pytest.raises(ValueError, match="inside `shard_map`"):
    function(jnp.ones((16, 3)))


@pytest.mark.usefixtures("unchecked")
def test_an_unknown_implementation_is_named():
  with pytest.raises(ValueError, match=r"implementation='magic'.*'tiled'"):
    value_and_grads(kind="both", ids=False, implementation="magic")(
      *arguments()
    )
