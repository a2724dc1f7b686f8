"""Heads compared with layers written out in NumPy."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from objectives import oracle

from jssl import tree
from jssl.models.heads import Head, Prototypes

D = 5
H = np.random.default_rng(0).normal(size=(2, 7, D))


def shapes(head):
  return jax.eval_shape(
    functools.partial(head.init, feature_dim=D), jax.random.key(0)
  )


def filled(head):
  """Random parameters, with biases other than 0 and scales other than 1."""
  draw = np.random.default_rng(1)
  return jax.tree.map(lambda leaf: draw.normal(size=leaf.shape), shapes(head))


def apply(head, params, state, h):
  quick = {"xla_backend_optimization_level": 0}
  applied = jax.jit(head.apply, compiler_options=quick)(params, state, h)
  return jax.tree.map(np.asarray, applied)


# With parameter names, which checkpoints depend on.
HEADS = [
  (Head(), []),
  (Head((), 3), ["Dense_0/bias", "Dense_0/kernel"]),
  (Head((), 3, last_norm="plain"), ["Dense_0/kernel"]),
  (
    Head((), 3, last_norm="affine"),
    ["BatchNorm_0/bias", "BatchNorm_0/scale", "Dense_0/kernel"],
  ),
  (Head(last_norm="affine"), ["BatchNorm_0/bias", "BatchNorm_0/scale"]),
  (
    Head((6,), 3),
    [
      "BatchNorm_0/bias",
      "BatchNorm_0/scale",
      "Dense_0/kernel",
      "Dense_1/bias",
      "Dense_1/kernel",
    ],
  ),
  (
    Head((6, 4), 0, norm=False, activation="gelu"),
    ["Dense_0/bias", "Dense_0/kernel", "Dense_1/bias", "Dense_1/kernel"],
  ),
  (
    Head((6, 4), 3, last_norm="plain"),
    [
      "BatchNorm_0/bias",
      "BatchNorm_0/scale",
      "BatchNorm_1/bias",
      "BatchNorm_1/scale",
      "Dense_0/kernel",
      "Dense_1/kernel",
      "Dense_2/kernel",
    ],
  ),
  (
    Head((2,), 4, norm=False, activation="none", last_norm="plain"),
    ["Dense_0/bias", "Dense_0/kernel", "Dense_1/kernel"],
  ),
]


@pytest.mark.parametrize(("head", "names"), HEADS)
def test_heads_equal_their_definition(x64, head, names):
  """Batch statistics are over images and views."""
  params, state = filled(head)
  assert sorted(tree.names(params)) == names
  z, moved = apply(head, params, state, H)
  assert z.shape == (2, 7, head.width(D))
  stats = {}
  expected = oracle.head(head, params, H, stats)
  np.testing.assert_allclose(z, expected, rtol=1e-9, atol=1e-12)
  assert jax.tree.structure(moved) == jax.tree.structure(state)
  for name, new in stats.items():
    for kind, value in new.items():
      np.testing.assert_allclose(
        moved["batch_stats"][name][kind],
        0.99 * state["batch_stats"][name][kind] + 0.01 * value,
        rtol=1e-6,
      )


@pytest.mark.parametrize(
  ("head", "width"),
  [
    (Head(), D),
    (Head((), 3), 3),
    (Head((7,), 0), 7),
    (Head((7, 6), 0), 6),
    (Head((7, 6), 2), 2),
  ],
)
def test_width(head, width):
  assert head.width(D) == width
  z, _ = jax.eval_shape(head.apply, *shapes(head), H)
  assert z.shape == (2, 7, width)


def test_without_layers_there_is_no_head():
  params, state = Head().init(jax.random.key(0), D)
  assert params == {}
  assert state == {}
  z, _ = Head().apply(params, state, jnp.asarray(H))
  np.testing.assert_array_equal(z, H.astype(np.float32))


def test_without_activation_it_is_a_linear_map_of_low_rank(x64):
  """The biases are removed first."""
  head = Head((2,), 4, norm=False, activation="none")
  rows = np.concatenate([np.zeros((1, D)), np.eye(D), H[0]])
  z, _ = apply(head, *filled(head), rows)
  matrix, answers = np.split(z[1:] - z[0], [D])
  assert np.linalg.matrix_rank(matrix) == 2
  np.testing.assert_allclose(answers, H[0] @ matrix, atol=1e-12)


def test_the_norm_of_a_low_rank_head_is_the_only_thing_not_linear(x64):
  """Given batch statistics the map is affine in h, so the rank is the same."""
  head = Head((2,), 4, activation="none", last_norm="affine")
  rows = np.concatenate(H)
  z, _ = apply(head, *filled(head), rows)
  centred, design = z - z.mean(0), rows - rows.mean(0)
  fit, *_ = np.linalg.lstsq(design, centred)
  np.testing.assert_allclose(design @ fit, centred, atol=1e-9)
  assert np.linalg.matrix_rank(centred, tol=1e-9) == 2


def test_a_plain_norm_standardises(x64):
  head = Head((), 3, last_norm="plain")
  z, _ = apply(head, *filled(head), H)
  np.testing.assert_allclose(z.mean((0, 1)), 0, atol=1e-12)
  np.testing.assert_allclose(z.var((0, 1)), 1, rtol=1e-3)


@pytest.mark.parametrize("dtype", [jnp.bfloat16, jnp.float32])
def test_works_in_float32(dtype):
  head = Head((6,), 3, last_norm="affine")
  params, state = shapes(head)
  h = jax.ShapeDtypeStruct(H.shape, dtype)
  z, moved = jax.eval_shape(head.apply, params, state, h)
  assert z.dtype == jnp.float32
  kinds = {leaf.dtype for leaf in jax.tree.leaves((params, moved))}
  assert kinds == {jnp.dtype("float32")}


def test_hidden_dims_may_be_a_list():
  assert Head([6], 3).width(D) == 3
  params, _ = shapes(Head([6, 4], 3))
  assert params["Dense_1"]["kernel"].shape == (6, 4)


@pytest.mark.parametrize(
  ("values", "message"),
  [
    ({"out_dim": -1}, r"out_dim=-1 must be at least 0"),
    ({"hidden_dims": (4, 0)}, r"hidden_dims\[1\]=0 must be positive"),
    ({"hidden_dims": (-2,), "out_dim": 3}, r"hidden_dims\[0\]=-2"),
  ],
)
def test_widths_are_positive(values, message):
  with pytest.raises(ValueError, match=message):
    Head(**values)


W = np.random.default_rng(0).normal(size=(7, 3))


def lengths(rows):
  return np.linalg.norm(rows, axis=1)


@pytest.mark.parametrize(
  ("norm", "used", "stepped"),
  [("none", False, False), ("weight", True, False), ("step", False, True)],
)
def test_prototypes_have_norm_1_as_configured(norm, used, stepped):
  layer = Prototypes(7, norm)
  units = W / lengths(W)[:, None]
  np.testing.assert_allclose(layer.rows(W), units if used else W, rtol=1e-6)
  np.testing.assert_allclose(
    layer.after_step(W), units if stepped else W, rtol=1e-6
  )
  first = layer.init(jax.random.key(0), 3)
  assert first.shape == (7, 3)
  assert np.allclose(lengths(first), 1) == (norm != "none")


def test_prototypes_are_frozen_for_some_steps():
  assert Prototypes(7).schedules("w") == {}
  (schedule,) = Prototypes(7, freeze_steps=2).schedules("w").values()
  assert [float(schedule(step)) for step in range(4)] == [0, 0, 1, 1]


@pytest.mark.parametrize("wrong", [{"number": 0}, {"freeze_steps": -1}])
def test_errors_of_prototypes_name_the_option(wrong):
  ((key, value),) = wrong.items()
  with pytest.raises(ValueError, match=f"Prototypes.{key}={value}"):
    Prototypes(**{"number": 3, **wrong})


def test_batch_statistics_keep_their_dtype(x64):
  head = Head((4,), 3)
  x = jnp.asarray(np.random.default_rng(0).normal(size=(8, 5)))
  params, state = head.init(jax.random.key(0), 5)
  z, moved = head.apply(params, state, x)
  assert z.dtype == jnp.float64
  of = jax.tree.map(lambda leaf: leaf.dtype, (state, moved))
  assert of[0] == of[1]


def test_a_large_mean_does_not_cancel():
  h = np.random.default_rng(0).normal(10, 0.01, (512, D)).astype(np.float32)
  head = Head(last_norm="plain")
  z, _ = apply(head, *head.init(jax.random.key(0), D), h)
  wide = np.float64(h)
  expected = wide.std(0) / np.sqrt(wide.var(0) + 1e-5)
  np.testing.assert_allclose(z.std(0), expected, rtol=0.02)
