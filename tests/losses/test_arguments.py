"""Errors name the argument, at trace time."""

import jax
import jax.numpy as jnp
import pytest
from jax.sharding import AxisType
from jax.sharding import PartitionSpec as P

from jssl import losses

pytestmark = pytest.mark.usefixtures("unchecked")


def zeros(*shape, dtype=jnp.float32):
  return jnp.zeros(shape, dtype)


VIEWS, PROTOTYPES = zeros(2, 4, 3), zeros(7, 3)
DINO = {"student_temperature": 0.1, "teacher_temperature": 0.1}
SWAV = {"temperature": 0.1, "epsilon": 0.1, "iterations": 3, "num_large": 2}
VICREG = {
  "invariance_weight": 1.0,
  "variance_weight": 1.0,
  "covariance_weight": 1.0,
}
DISSL = {**DINO, "marginal_weight": 2.3, "invariance_weight": 0.8}

# (loss, arrays, keywords, error, message)
BAD = [
  (
    losses.nt_xent,
    (zeros(4, 3), zeros(5, 3)),
    {"temperature": 0.1},
    ValueError,
    r"z1 \(4, 3\), z2 \(5, 3\): must have the same shape",
  ),
  (
    losses.nt_xent,
    (zeros(4, 3), zeros(4, 3, 1)),
    {"temperature": 0.1},
    ValueError,
    r"z2 must have shape \[b, d\], got \(4, 3, 1\)",
  ),
  (
    losses.nt_xent,
    (zeros(1, 3), zeros(1, 3)),
    {"temperature": 0.1},
    ValueError,
    "z1 must have at least 2 rows, got 1",
  ),
  (
    losses.nt_xent,
    (zeros(4, 3), zeros(4, 3)),
    {"temperature": float("inf")},
    ValueError,
    "temperature must be positive and finite, got inf",
  ),
  (
    losses.nt_xent,
    (zeros(4, 3), zeros(4, 3)),
    {"temperature": 0.0},
    ValueError,
    r"temperature must be positive and finite, got 0\.0",
  ),
  (
    losses.nt_xent,
    (zeros(4, 3), zeros(4, 3)),
    {"temperature": jnp.float32(-1)},
    ValueError,
    r"temperature must be positive and finite, got -1\.0",
  ),
  (
    losses.nt_xent,
    (zeros(4, 3), zeros(4, 3)),
    {"temperature": zeros(4)},
    ValueError,
    r"temperature must be a scalar, got \(4,\)",
  ),
  (
    losses.nt_xent,
    (zeros(4, 3, dtype=jnp.int32), zeros(4, 3)),
    {"temperature": 0.1},
    TypeError,
    "z1 must have a floating dtype, got int32",
  ),
  (
    losses.nt_xent,
    ([[1.0]], zeros(4, 3)),
    {"temperature": 0.1},
    TypeError,
    "z1 must be an array, got list",
  ),
  (
    losses.dcl,
    (zeros(1, 3), zeros(1, 3)),
    {"temperature": 0.1},
    ValueError,
    "must have at least 2 rows",
  ),
  (
    losses.info_nce,
    (zeros(4, 3), zeros(4, 3)),
    {"temperature": 0.1, "negatives": zeros(9, 2)},
    ValueError,
    r"negatives \(9, 2\) must be as wide as queries \(4, 3\)",
  ),
  (
    losses.info_nce,
    (zeros(1, 3), zeros(1, 3)),
    {"temperature": 0.1},
    ValueError,
    "keys must have at least 2 rows, got 1",
  ),
  (
    losses.cissl,
    (zeros(5, 3), zeros(5, 3)),
    {"temperature": 0.1},
    ValueError,
    "must stack two views .* got 5 rows",
  ),
  (
    losses.supervised_contrastive,
    (zeros(4, 3), zeros(4)),
    {"temperature": 0.1},
    TypeError,
    "labels must have an integer dtype, got float32",
  ),
  (
    losses.supervised_contrastive,
    (zeros(4, 3), zeros(5, dtype=jnp.int32)),
    {"temperature": 0.1},
    ValueError,
    r"labels must be \[n\] for z \(4, 3\), got \(5,\)",
  ),
  (
    losses.sigmoid_contrastive,
    (zeros(4, 3), zeros(4, 3)),
    {"scale": -1.0, "bias": 0.0},
    ValueError,
    r"scale must be positive and finite, got -1\.0",
  ),
  (
    losses.sigmoid_contrastive,
    (zeros(4, 3), zeros(4, 3)),
    {"scale": 1.0, "bias": zeros(2)},
    ValueError,
    r"bias must be a scalar, got \(2,\)",
  ),
  (
    losses.byol,
    (zeros(4, 3), zeros(4, 3), zeros(4, 3), zeros(4, 2)),
    {},
    ValueError,
    r"target2 \(4, 2\): must have the same shape",
  ),
  (
    losses.vicreg,
    (zeros(1, 3),) * 2,
    VICREG,
    ValueError,
    "must have at least 2 rows",
  ),
  (
    losses.w_mse,
    (zeros(4, 3), zeros(4, 3)),
    {"eps": 0},
    ValueError,
    "eps must be positive and finite, got 0",
  ),
  (
    losses.sigreg,
    (zeros(4, 3),),
    {"key": jax.random.key(0), "num_slices": 0},
    ValueError,
    "num_slices must be at least 1, got 0",
  ),
  (
    losses.uniformity,
    (zeros(4, 3),),
    {"t": -2.0},
    ValueError,
    r"t must be positive and finite, got -2\.0",
  ),
  (
    losses.koleo,
    (zeros(1, 3),),
    {},
    ValueError,
    "z must have at least 2 rows, got 1",
  ),
  (
    losses.dino_center,
    (VIEWS, PROTOTYPES),
    {"weights": zeros(4, 2)},
    ValueError,
    r"weights must have shape \(2, 4\), got \(4, 2\)",
  ),
  (
    losses.sinkhorn_center,
    (VIEWS, PROTOTYPES),
    {"temperature": 0.1, "iterations": 0},
    ValueError,
    "iterations must be at least 1, got 0",
  ),
  (
    losses.ibot,
    (VIEWS, VIEWS, PROTOTYPES, PROTOTYPES, zeros(7)),
    {"hidden": zeros(2, 3), **DINO},
    ValueError,
    r"hidden must have shape \(2, 4\), got \(2, 3\)",
  ),
  (
    losses.ibot,
    (VIEWS, zeros(2, 5, 3), PROTOTYPES, PROTOTYPES, zeros(7)),
    {"hidden": zeros(2, 4), **DINO},
    ValueError,
    r"student \(2, 4, 3\) \[b, n, d\] and teacher \(2, 5, 3\)",
  ),
  (
    losses.ibot,
    (VIEWS, VIEWS, PROTOTYPES, PROTOTYPES, zeros(8)),
    {"hidden": zeros(2, 4), **DINO},
    ValueError,
    r"center must be \[k=7\], .* got \(8,\)",
  ),
  (
    losses.gram_loss,
    (VIEWS, zeros(2, 5, 3)),
    {},
    ValueError,
    r"student \(2, 4, 3\).*must have the same shape",
  ),
  (
    losses.dino,
    (VIEWS, VIEWS, zeros(7, 2), PROTOTYPES, zeros(7)),
    DINO,
    ValueError,
    r"student_prototypes \(7, 2\) must have the width of student",
  ),
  (
    losses.dino,
    (VIEWS, VIEWS, PROTOTYPES, zeros(8, 3), zeros(7)),
    DINO,
    ValueError,
    "expected equal numbers of prototypes",
  ),
  (
    losses.dino,
    (VIEWS, VIEWS, PROTOTYPES, PROTOTYPES, zeros(8)),
    DINO,
    ValueError,
    r"center must be \[k=7\], .* got \(8,\)",
  ),
  (
    losses.dino,
    (VIEWS, zeros(3, 4, 3), PROTOTYPES, PROTOTYPES, zeros(7)),
    DINO,
    ValueError,
    r"expected 1 <= u <= v and v >= 2, got student \[v=2, \.\.\.\]",
  ),
  (
    losses.dino,
    (VIEWS, zeros(2, 5, 3), PROTOTYPES, PROTOTYPES, zeros(7)),
    DINO,
    ValueError,
    "must have the same number b of images",
  ),
  (
    losses.swav,
    (VIEWS, PROTOTYPES),
    {**SWAV, "num_large": 3},
    ValueError,
    r"expected at least 2 views and 1 <= num_large <= views",
  ),
  (
    losses.swav,
    (VIEWS, PROTOTYPES),
    {**SWAV, "iterations": 0},
    ValueError,
    "iterations must be at least 1, got 0",
  ),
  (
    losses.sinkhorn,
    (zeros(4),),
    {"epsilon": 0.1, "iterations": 3},
    ValueError,
    r"scores must have shape \[b, k\], got \(4,\)",
  ),
  (
    losses.dissl,
    (VIEWS, zeros(1, 4, 3), PROTOTYPES, PROTOTYPES),
    DISSL,
    ValueError,
    "expected 2 <= u <= v",
  ),
]


@pytest.mark.parametrize(
  ("loss", "arrays", "keywords", "error", "match"),
  BAD,
  ids=[f"{row[0].__name__}-{i}" for i, row in enumerate(BAD)],
)
def test_bad_input_is_named(loss, arrays, keywords, error, match):
  with pytest.raises(error, match=match):
    jax.eval_shape(lambda: loss(*arrays, **keywords))


NOT_NUMBERS = [None, "0.1", True, 1j]


@pytest.mark.parametrize("value", NOT_NUMBERS)
def test_what_is_no_number_is_named(value):
  z = zeros(4, 3)
  with pytest.raises(TypeError, match="temperature must be a real number"):
    losses.nt_xent(z, z, temperature=value)
  with pytest.raises(
    TypeError, match="covariance_weight must be a real number"
  ):
    losses.vicreg(z, z, **{**VICREG, "covariance_weight": value})
  with pytest.raises(TypeError, match="iterations must be an integer"):
    losses.swav(VIEWS, PROTOTYPES, **{**SWAV, "iterations": value})


@pytest.mark.parametrize("shape", [(0, 3), (4, 0)])
def test_empty_arrays_are_named(shape):
  with pytest.raises(ValueError, match=r"z1 must not be empty, got \("):
    losses.nt_xent(zeros(*shape), zeros(*shape), temperature=0.1)
  with pytest.raises(ValueError, match=r"negatives must not be empty, got \(0"):
    losses.info_nce(
      zeros(4, 3), zeros(4, 3), temperature=0.1, negatives=zeros(0, 3)
    )


@pytest.mark.parametrize("wide", [0, 3])
def test_one_array_of_float64_widens_all(x64, wide):
  arrays = [
    jnp.ones(shape, jnp.float64 if i == wide else jnp.float32)
    for i, shape in enumerate([(2, 4, 3), (2, 4, 3), (7, 3), (7, 3)])
  ]
  student, teacher, ours, theirs = arrays

  def loss(student, ours):
    return (
      losses.dino(student, teacher, ours, theirs, zeros(7), **DINO)
      + losses.dissl(student, teacher, ours, theirs, **DISSL)
      + losses.swav(student, ours, **SWAV)
    )

  value, grads = jax.eval_shape(jax.value_and_grad(loss, (0, 1)), student, ours)
  assert value.dtype == jnp.float64
  assert [g.dtype for g in grads] == [student.dtype, ours.dtype]


def test_a_weak_marginal_is_warned_of():
  weights = {**DISSL, "marginal_weight": 1.0}
  with pytest.warns(UserWarning, match=r"marginal_weight=1\.0 < 1 \+ inv"):
    losses.dissl(VIEWS, VIEWS, PROTOTYPES, PROTOTYPES, **weights)


def test_half_precision_of_a_small_range_is_widened():
  z = jax.random.normal(jax.random.key(0), (2, 4, 3)).astype(jnp.float16)
  half = losses.nt_xent(*z, temperature=0.01)
  assert half.dtype == jnp.float32
  assert half == losses.nt_xent(*z.astype(jnp.float32), temperature=0.01)


def test_axes_that_contradict_are_told():
  def call(**options):
    return lambda z: losses.nt_xent(z, z, temperature=0.1, **options)

  with jax.set_mesh(jax.make_mesh((8,), ("a",), axis_types=(AxisType.Auto,))):
    with pytest.raises(ValueError, match="the arrays here are global"):
      jax.jit(call(axis_name="a"))(zeros(16, 3))
    with pytest.raises(ValueError, match="batch_axes='b': no axis 'b'"):
      jax.jit(call(batch_axes="b"))(zeros(16, 3))
  explicit = jax.make_mesh((8,), ("a",), axis_types=(AxisType.Explicit,))
  with (
    jax.set_mesh(explicit),
    pytest.raises(ValueError, match=r"but the array is sharded over \(\)"),
  ):
    jax.jit(call(batch_axes="a"))(zeros(16, 3))
  mesh = jax.make_mesh((8,), ("a",), axis_types=(AxisType.Auto,))
  both = call(axis_name="a", batch_axes="a")
  with pytest.raises(ValueError, match="got both axis_name"):
    jax.shard_map(both, mesh=mesh, in_specs=P("a"), out_specs=P())(zeros(16, 3))


def test_reference_needs_all_rows():
  mesh = jax.make_mesh((8,), ("a",), axis_types=(AxisType.Auto,))

  def loss(z):
    return losses.nt_xent(
      z, z, temperature=0.1, axis_name="a", implementation="reference"
    )

  with pytest.raises(ValueError, match="'reference' needs the rows of all"):
    jax.shard_map(loss, mesh=mesh, in_specs=P("a"), out_specs=P())(zeros(16, 3))
