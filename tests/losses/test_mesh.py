"""What the matrix of all losses leaves out: shardings, second derivatives."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax.sharding import AxisType, NamedSharding
from jax.sharding import PartitionSpec as P
from losses.cases import CASES, B
from losses.test_every_loss import assert_equal, small_tiles, specs

from jssl import losses

__all__ = ["small_tiles"]  # A fixture.

AXES = ("a", "b")
# One for each operation, in each of its forms.
BY_OPERATION = [
  "nt_xent",
  "info_nce_symmetric",
  "info_nce_queue",
  "sigmoid_contrastive",
  "spectral_contrastive",
  "spectral_contrastive_wide",
  "barlow_twins_wide",
  "vicreg",
  "sigreg",
  "dissl",
  "koleo",
]


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


@pytest.mark.parametrize("batch_axes", [None, "a", ("b", "a"), ()])
@pytest.mark.parametrize("spec", [P("a"), P(("b", "a")), P(None, "a")])
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

  return jax.jit(jax.grad(length, every))


@pytest.mark.parametrize(
  "case", [c for c in CASES if c.name in BY_OPERATION], ids=str
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
  with pytest.raises(NotImplementedError, match="second derivatives inside"):
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
  both = jax.vmap(lambda z: losses.nt_xent(*z, temperature=0.1))
  expected = [losses.nt_xent(*pair, temperature=0.1) for pair in z]
  np.testing.assert_allclose(both(z), expected, rtol=1e-12)
  grads = jax.vmap(jax.grad(lambda z: losses.nt_xent(*z, temperature=0.1)))(z)
  assert_equal(
    grads[1], jax.grad(lambda z: losses.nt_xent(*z, temperature=0.1))(z[1])
  )


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
