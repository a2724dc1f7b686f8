"""Shardings and second derivatives, beyond those in test_every_loss."""

import dataclasses
import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax.sharding import AxisType, NamedSharding
from jax.sharding import PartitionSpec as P
from losses.cases import BY_OPERATION, CASES, B, fast_only
from losses.test_every_loss import assert_equal, small_tiles, specs
from oracles import losses as oracles

from jssl import losses

__all__ = ["small_tiles"]  # A fixture.

AXES = ("a", "b")


def auto_mesh():
  return jax.make_mesh((2, 4), AXES, axis_types=(AxisType.Auto,) * 2)


def nt_xent(**options):
  return jax.jit(
    jax.value_and_grad(
      lambda *z: losses.nt_xent(*z, temperature=0.1, **options), (0, 1)
    )
  )


def projections(b=16):
  return tuple(np.random.default_rng(0).normal(size=(2, b, 6)))


@pytest.mark.parametrize(
  ("spec", "batch_axes"),
  [
    (P("a"), None),
    (P("a"), "a"),
    (P(("b", "a")), ("a", "b")),
    (P(None, "a"), ()),
  ],
)
def test_where_the_work_is_done_changes_nothing(x64, spec, batch_axes):
  z = projections()
  placed = jax.device_put(z, NamedSharding(auto_mesh(), spec))
  assert_equal(nt_xent(batch_axes=batch_axes)(*placed), nt_xent()(*z))


@pytest.mark.parametrize("spec", [P("a"), P("b", "a"), P()])
def test_an_explicit_array_says_how_it_is_split(x64, spec):
  z = projections()
  mesh = jax.make_mesh((2, 4), AXES, axis_types=(AxisType.Explicit,) * 2)
  placed = jax.device_put(z, NamedSharding(mesh, spec))
  assert_equal(nt_xent()(*placed), nt_xent()(*z))


@pytest.mark.parametrize("b", [3, 11, 17])
def test_a_batch_that_does_not_divide_is_filled_up(x64, b):
  z = projections(b)
  expected = nt_xent()(*z)
  assert_equal(
    nt_xent()(*jax.device_put(z, NamedSharding(auto_mesh(), P()))), expected
  )


def test_an_empty_axis_name_is_the_loss_of_these_rows(x64):
  z1, z2 = projections()
  mesh = auto_mesh()
  local = jax.shard_map(
    lambda *z: losses.nt_xent(*z, temperature=0.1, axis_name=())[None],
    mesh=mesh,
    in_specs=P(AXES),
    out_specs=P(AXES),
  )
  expected = [
    losses.nt_xent(z1[i : i + 2], z2[i : i + 2], temperature=0.1)
    for i in range(0, 16, 2)
  ]
  np.testing.assert_allclose(jax.jit(local)(z1, z2), expected, rtol=1e-12)


def second_order(case, **options):
  every = tuple(range(len(case.shapes)))
  gradients = jax.grad(lambda *a: case.loss(*a, **options), every)

  def length(*arrays):
    return sum(jnp.sum(g**2) for g in gradients(*arrays))

  # Without any optimisation (level 0, the default of the tests), XLA:CPU of JAX
  # 0.10.2 gives NaN for some rows of `ibot`; evaluated eagerly there is none.
  return jax.jit(
    jax.grad(length, every),
    compiler_options={"xla_backend_optimization_level": 1},
  )


@pytest.mark.parametrize(
  "case",
  fast_only(
    ["nt_xent"],
    [
      c
      for c in CASES
      if c.name in BY_OPERATION and len(c.stopped) < len(c.shapes)
    ],
  ),
)
def test_second_derivatives_are_the_references(x64, case):
  arrays = case.arrays()
  expected = second_order(case, implementation="reference")(*arrays)
  assert any(np.abs(x).max() > 0 for x in expected)
  assert_equal(second_order(case)(*arrays), expected, 1e-8)
  mesh = auto_mesh()
  placed = [
    jax.device_put(a, NamedSharding(mesh, spec))
    for a, spec in zip(arrays, specs(case, AXES), strict=True)
  ]
  assert_equal(second_order(case)(*placed), expected, 1e-8)


def test_second_derivatives_inside_of_shard_map_are_refused():
  case = next(c for c in CASES if c.name == "nt_xent")
  function = jax.shard_map(
    lambda *a: second_order(case, axis_name=AXES)(*a)[0],
    mesh=auto_mesh(),
    in_specs=specs(case, AXES),
    out_specs=P(AXES),
    check_vma=False,
  )
  with pytest.raises(ValueError, match="second derivatives inside"):
    function(*case.arrays(np.float32))


def test_rows_and_views_have_no_order_and_no_length(x64):
  z1, z2 = projections()
  value, _ = nt_xent()(z1, z2)
  lengths = np.linspace(0.1, 9, B)[:, None]
  order = np.random.default_rng(1).permutation(B)
  for moved in ((z1 * lengths, z2), (z2, z1), (z1[order], z2[order])):
    np.testing.assert_allclose(nt_xent()(*moved)[0], value, rtol=1e-12)


def test_a_loss_can_be_mapped_over(x64):
  z = np.random.default_rng(0).normal(size=(3, 2, 8, 6))
  both = jax.value_and_grad(lambda z: losses.nt_xent(*z, temperature=0.1))
  one = jax.jit(both)
  values, grads = jax.jit(jax.vmap(both))(z)
  for i in range(3):
    assert_equal((values[i], grads[i]), one(z[i]))


def test_supervised_with_images_as_labels_is_nt_xent(x64):
  z1, z2 = projections()
  labels = np.tile(np.arange(B), 2)
  got = losses.supervised_contrastive(
    np.concatenate([z1, z2]), labels, temperature=0.1
  )
  expected = losses.nt_xent(z1, z2, temperature=0.1)
  np.testing.assert_allclose(got, expected, rtol=1e-12)


def test_sinkhorn_gives_rows_of_sum_one_and_columns_of_equal_size(x64):
  scores = np.random.default_rng(0).normal(size=(64, 5))
  q = losses.sinkhorn(scores, epsilon=0.5, iterations=50)
  np.testing.assert_allclose(q.sum(1), 1, rtol=1e-12)
  np.testing.assert_allclose(q.sum(0), 64 / 5, rtol=1e-6)


def test_sinkhorn_survives_scores_that_overflow():
  scores = jnp.array([[300.0, 0.0], [0.0, -300.0], [1.0, 2.0]])
  q = losses.sinkhorn(scores, epsilon=0.05, iterations=3)
  np.testing.assert_allclose(q.sum(1), 1, rtol=1e-6)


@pytest.mark.parametrize(
  "name",
  ["sigmoid_contrastive", "barlow_twins_wide", "koleo", "info_nce_symmetric"],
)
def test_several_tiles_and_blocks_rotate(x64, name, monkeypatch):
  monkeypatch.setattr("jssl.losses.ops.ring._BLOCK_BYTES", 1)
  case = next(c for c in CASES if c.name == name)
  # 25 rows a device are four tiles, and the last one isn't full.
  shapes = tuple(
    tuple({B: 75, 40: 130}.get(n, n) for n in shape) for shape in case.shapes
  )
  case = dataclasses.replace(case, shapes=shapes)
  arrays = case.arrays()
  every = tuple(range(len(arrays)))
  expected = jax.jit(
    jax.value_and_grad(
      lambda *a: case.loss(*a, implementation="reference"), every
    )
  )(*arrays)
  mesh = jax.make_mesh(
    (3,), ("a",), axis_types=(AxisType.Auto,), devices=jax.devices()[:3]
  )
  placed = [
    jax.device_put(a, NamedSharding(mesh, spec))
    for a, spec in zip(arrays, specs(case, ("a",)), strict=True)
  ]
  assert_equal(jax.jit(jax.value_and_grad(case.loss, every))(*placed), expected)


@pytest.mark.parametrize("name", ["barlow_twins", "vicreg"])
@pytest.mark.parametrize("scale", [1.0, 10.0])
def test_covariances_of_near_white_features_keep_their_digits(name, scale):
  """Off-diagonal sums that are a millionth of what the diagonal would add."""
  case = next(c for c in CASES if c.name == name)
  rng = np.random.default_rng(0)
  z = np.linalg.qr(rng.normal(size=(2, 512, 16)))[0] * np.sqrt(512) * scale
  z = z.astype(np.float32)
  terms = getattr(
    losses, {"barlow_twins": "barlow_terms"}.get(name, name + "_terms")
  )
  last = terms(z[0], z[0])[-1]
  if name == "vicreg":
    expected = oracles.vicreg_terms(z[0], z[0])[-1]
  else:
    on = oracles.barlow_twins(z[0], z[0], 0)
    expected = oracles.barlow_twins(z[0], z[0], 1) - on
  assert abs(last - expected) <= 1e-6 * max(1e-3, abs(expected)) * scale**2
  np.testing.assert_allclose(
    case.loss(z[0], z[1]), case.oracle(z[0], z[1]), rtol=3e-6
  )


def test_companions_return_the_papers_terms(x64):
  z1, z2 = projections()
  np.testing.assert_allclose(
    jax.jit(losses.vicreg_terms)(z1, z2),
    oracles.vicreg_terms(z1, z2),
    rtol=1e-12,
  )
  on, off = jax.jit(losses.barlow_terms)(z1, z2)
  np.testing.assert_allclose(on, oracles.barlow_twins(z1, z2, 0), rtol=1e-12)
  np.testing.assert_allclose(
    on + 7 * off, oracles.barlow_twins(z1, z2, 7), rtol=1e-12
  )
  case = next(c for c in CASES if c.name == "dissl")
  *arrays, _ = case.arrays()
  terms = functools.partial(
    losses.dissl_terms, student_temperature=0.7, teacher_temperature=0.5
  )
  got = jax.jit(terms)(*arrays)
  expected = oracles.dissl_terms(*arrays, 0.7, 0.5)
  np.testing.assert_allclose(got, expected, rtol=1e-12)


def test_whitening_survives_variances_that_differ_much():
  z = np.random.default_rng(0).normal(size=(2, 64, 16)) * np.logspace(-2, 2, 16)
  z = z.astype(np.float32)
  got = losses.w_mse(*z, eps=1e-3)
  np.testing.assert_allclose(got, oracles.w_mse(*z, 1e-3), rtol=2e-4)
  assert jnp.isfinite(losses.w_mse(*(100 * z[:, :8]), eps=1e-3))


@pytest.mark.parametrize("case", CASES, ids=str)
def test_a_large_batch_can_be_traced(case):
  """Counts of pairs are beyond 32 bits."""
  shapes = [
    jax.ShapeDtypeStruct(
      tuple(2**17 if n == B else n for n in shape), jnp.float32
    )
    for shape in case.shapes
  ]
  if case.name == "dino_center":
    assert jax.eval_shape(losses.dino_center, *shapes).shape == (10,)
  else:
    assert jax.eval_shape(case.loss, *shapes).shape == ()


def test_an_axis_of_the_batch_may_be_named_where_there_is_none(x64):
  z = projections()
  assert_equal(nt_xent(batch_axes="data")(*z), nt_xent()(*z))


def test_a_replicated_target_is_refused():
  mesh = jax.make_mesh((8,), ("a",), axis_types=(AxisType.Auto,))
  function = jax.shard_map(
    lambda x, y: losses.nt_xent(x, y, temperature=0.1, axis_name="a"),
    mesh=mesh,
    in_specs=(P("a"), P()),
    out_specs=P(),
  )
  with pytest.raises(ValueError, match=r"rows \(2, 6\) are replicated"):
    function(jnp.ones((16, 6)), jnp.ones((2, 6)))


def test_a_tpu_without_its_kernel_says_why(caplog, monkeypatch):
  monkeypatch.setattr("jssl.losses.ops.layout.Layout.platform", "tpu")
  with caplog.at_level("INFO", "jssl.losses.ops.base"):
    jax.eval_shape(lambda x: losses.koleo(x), jnp.ones((4, 3)))
    jax.eval_shape(
      lambda x: losses.info_nce(x, x, temperature=1.0), jnp.ones((4, 3))
    )
  assert "nearest: tiled instead of pallas_tpu: it has no kernel" in caplog.text
  assert "similarity: tiled instead of pallas_tpu: with grad" in caplog.text
