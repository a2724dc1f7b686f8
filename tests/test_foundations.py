"""Floor 0: keys, trees, schedules, the mesh."""

import dataclasses

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax.sharding import PartitionSpec as P

from jssl import mesh, rng, schedules, tree


def key_data(key):
  return tuple(np.ravel(jax.random.key_data(key)).tolist())


def test_streams_differ_by_name_and_step():
  root = jax.random.key(0)
  keys = [rng.stream(root, n, s) for n in ("augment", "head") for s in range(3)]
  assert len({key_data(key) for key in [root, *keys]}) == 7


def test_a_row_has_its_key_whatever_the_batch():
  key = jax.random.key(1)
  small, large = rng.per_row(key, 3), rng.per_row(key, 8)
  assert key_data(small) == key_data(large[:3])
  assert len({key_data(k) for k in large}) == 8


def test_path_names_and_masks():
  params = {"a": {"w": jnp.ones((2, 2)), "b": jnp.ones(2)}, "c": [jnp.ones(1)]}
  assert tree.names(params) == ["a/b", "a/w", "c/0"]
  mask = tree.mask(params, lambda name, leaf: leaf.ndim > 1 or name == "c/0")
  assert mask == {"a": {"w": True, "b": False}, "c": [True]}


def test_all_finite_sees_every_leaf():
  good = {"a": jnp.ones(3), "n": jnp.arange(2)}
  assert tree.all_finite(good)
  assert not tree.all_finite({**good, "b": jnp.array([1.0, jnp.nan])})
  assert not tree.all_finite({**good, "b": jnp.array(jnp.inf, jnp.bfloat16)})


def test_norm_and_ema():
  params = {"a": jnp.array([3.0]), "b": jnp.array([[4.0]])}
  np.testing.assert_allclose(tree.norm(params), 5.0)
  average = tree.ema(params, {"a": jnp.zeros(1), "b": jnp.zeros((1, 1))}, 0.75)
  np.testing.assert_allclose(average["a"], [2.25])
  np.testing.assert_allclose(average["b"], [[3.0]])


def test_warmup_cosine():
  rate = schedules.warmup_cosine(
    2.0, warmup_steps=4, total_steps=12, end_fraction=0.1
  )
  np.testing.assert_allclose([rate(s) for s in range(4)], [0.5, 1.0, 1.5, 2.0])
  expected = [0.2 + 1.8 * (1 + np.cos(np.pi * s / 8)) / 2 for s in range(9)]
  np.testing.assert_allclose(
    [rate(s) for s in range(4, 13)], expected, rtol=1e-6
  )
  assert schedules.warmup_cosine(2.0, warmup_steps=0, total_steps=3)(0) == 2.0


@pytest.mark.parametrize("warmup", [-1, 5, 6])
def test_warmup_must_fit_into_the_run(warmup):
  with pytest.raises(ValueError, match=r"optim.warmup_steps=.*train.steps"):
    schedules.warmup_cosine(1.0, warmup_steps=warmup, total_steps=5)


CURVES = [
  # The schedule, its length and both ends, and its formula before the end.
  (
    schedules.cosine(0.996, 1.0, total_steps=49),
    (49, 0.996, 1.0),
    lambda k: 1 - (1 - 0.996) * (np.cos(np.pi * k / 49) + 1) / 2,
  ),
  (
    schedules.cosine(0.04, 0.4, total_steps=10),
    (10, 0.04, 0.4),
    lambda k: 0.4 + 0.5 * (0.04 - 0.4) * (1 + np.cos(np.pi * k / 10)),
  ),
  (
    schedules.warmup_constant(0.04, 0.07, warmup_steps=49),
    (49, 0.04, 0.07),
    lambda k: 0.04 + 0.03 * k / 49,
  ),
  (
    schedules.warmup_constant(0.1, 0.07, warmup_steps=0),
    (0, 0.07, 0.07),
    lambda k: 0.07,
  ),
  (schedules.frozen_until(3), (3, 0.0, 1.0), lambda k: 0.0),
  (schedules.frozen_until(0), (0, 1.0, 1.0), lambda k: 1.0),
]


@pytest.mark.parametrize(("schedule", "ends", "formula"), CURVES)
def test_curves(schedule, ends, formula):
  last, first_value, last_value = ends
  traced = jax.jit(schedule)
  for value in (schedule, traced):
    # Exact, and no step beyond the end moves it.
    assert value(0) == np.float32(first_value)
    assert value(last) == value(last + 7) == np.float32(last_value)
    for step in (1, last // 3, last - 1):
      if 0 <= step < last:
        np.testing.assert_allclose(value(step), formula(step), rtol=1e-6)
  for step in (1, jnp.asarray(1)):
    assert traced(step).dtype == jnp.float32
    # A schedule does not widen what it is multiplied with.
    assert (schedule(step) * jnp.ones((), jnp.bfloat16)).dtype == jnp.bfloat16


@pytest.mark.parametrize(("schedule", "ends", "formula"), CURVES)
def test_curves_in_float64(schedule, ends, formula, x64):
  last, first_value, last_value = ends
  assert schedule(0) == first_value
  assert schedule(jnp.asarray(last)) == last_value
  if last:
    value = schedule(jnp.asarray(last // 2))
    np.testing.assert_allclose(value, formula(last // 2), rtol=1e-12)


def test_curves_without_a_length():
  with pytest.raises(ValueError, match=r"total_steps=0 .*train.steps"):
    schedules.cosine(0.0, 1.0, total_steps=0)
  with pytest.raises(ValueError, match="warmup_steps=-1 must be at least 0"):
    schedules.warmup_constant(0.0, 1.0, warmup_steps=-1)
  with pytest.raises(ValueError, match=r"steps=-1 .*at least 0"):
    schedules.frozen_until(-1)


@pytest.mark.parametrize(
  ("data", "fsdp", "shape"),
  [(-1, 1, (8, 1)), (-1, 2, (4, 2)), (4, 2, (4, 2)), (1, 1, (1, 1))],
)
def test_mesh_takes_the_devices(data, fsdp, shape):
  made = mesh.make_mesh(data, fsdp)
  assert tuple(made.shape.values()) == shape
  assert made.axis_names == ("data", "fsdp")


@pytest.mark.parametrize(("data", "fsdp"), [(16, 1), (0, 1), (-1, 0), (-1, 9)])
def test_mesh_that_is_not_there(data, fsdp):
  with pytest.raises(ValueError, match=rf"mesh.data=.*mesh.fsdp={fsdp}"):
    mesh.make_mesh(data, fsdp)


def test_devices_that_are_given_are_all_taken():
  devices = jax.devices()
  assert mesh.make_mesh(4, 2, devices).size == 8
  # One process alone may leave some out, of its own.
  assert mesh.make_mesh(3, 1).size == 3
  for data, fsdp in ((2, 1), (5, 1), (3, 2)):
    with pytest.raises(ValueError, match=r"the 8 devices; use mesh.data=-1"):
      mesh.make_mesh(data, fsdp, devices)


def test_no_device_is_left_over():
  expected = r"mesh.data=-1, mesh.fsdp=3 is not .*and mesh.fsdp=1 or 2 or 4"
  for devices in (None, jax.devices()):
    with pytest.raises(ValueError, match=expected):
      mesh.make_mesh(-1, 3, devices)


@dataclasses.dataclass(frozen=True)
class SliceDevice:
  """A device of one of several slices, as a mesh looks at it."""

  id: int
  slice_index: int
  process_index: int = 0
  platform: str = "fake"
  device_kind: str = "fake"


def test_slices_are_joined_along_data():
  devices = [SliceDevice(i, i % 2) for i in range(8)]
  made = mesh.make_mesh(-1, 2, devices)
  assert dict(made.shape) == {"data": 4, "fsdp": 2}
  slices = [[d.slice_index for d in row] for row in made.devices]
  assert slices == [[0, 0], [0, 0], [1, 1], [1, 1]]
  with pytest.raises(ValueError, match=r"data=1 must be a multiple of the 2"):
    mesh.make_mesh(1, 8, devices)


def test_large_leaves_are_split_over_fsdp():
  made = mesh.make_mesh(4, 2)
  state = {
    "matrix": jax.ShapeDtypeStruct((256, 512), jnp.float32),
    "square": jax.ShapeDtypeStruct((256, 256), jnp.float32),
    "odd": jax.ShapeDtypeStruct((511, 511), jnp.float32),
    "small": jax.ShapeDtypeStruct((8, 8), jnp.float32),
  }
  specs = jax.tree.map(lambda s: s.spec, mesh.state_sharding(made, state))
  assert specs == {
    "matrix": P(None, "fsdp"),
    "square": P(None, "fsdp"),
    "odd": P(),
    "small": P(),
  }


@pytest.mark.parametrize(
  ("batch", "advice"), [(100, "use 96 or 104"), (4, "use 8"), (0, "use 8")]
)
def test_batch_must_divide(batch, advice):
  with pytest.raises(ValueError, match=f"data.batch_size={batch}.*{advice}"):
    mesh.check_batch_size(mesh.make_mesh(4, 2), batch)


def test_batch_that_divides():
  mesh.check_batch_size(mesh.make_mesh(4, 2), 96)


def test_keys_do_not_depend_on_the_default_implementation():
  """What is drawn for a row would depend on the batch under "rbg"."""
  expected = jax.random.key_data(rng.per_row(rng.root(7), 3))
  with jax.default_prng_impl("rbg"):
    keys = rng.per_row(rng.root(7), 8)
    np.testing.assert_array_equal(jax.random.key_data(keys[:3]), expected)
    assert str(keys.dtype) == "key<fry>"
