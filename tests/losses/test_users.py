"""Losses as other programs use them: weights, parameters, other transforms."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx
from jax.sharding import AxisType, NamedSharding
from jax.sharding import PartitionSpec as P
from losses.cases import BY_OPERATION, CASES, B, D, fast_only
from losses.test_every_loss import assert_equal, small_tiles
from oracles import losses as oracles

from jssl import losses

__all__ = ["small_tiles"]  # A fixture.

T = 0.3
BATCH = jax.random.normal(jax.random.key(0), (4, B, D))


def unit(x):
  x = np.asarray(x, np.float64)
  return x / np.linalg.norm(x, axis=-1, keepdims=True)


def log_sum_exp(values):
  return float(np.log(np.sum(np.exp(values))))


def weighted_mean(terms, weights):
  total = sum(w * term for w, term in zip(weights, terms, strict=True))
  return total / sum(weights)


def two_view_terms(z1, z2, *, decoupled=False):
  """Terms of NT-Xent or DCL, of one image each."""
  z, b, terms = [*unit(z1), *unit(z2)], len(z1), []
  for i in range(b):
    of_views = []
    for row, other in ((i, i + b), (i + b, i)):
      left_out = {row, other} if decoupled else {row}
      logits = [z[row] @ z[k] / T for k in range(2 * b) if k not in left_out]
      of_views.append(log_sum_exp(logits) - z[row] @ z[other] / T)
    terms.append(sum(of_views) / 2)
  return terms


def info_nce_terms(queries, keys, negatives=None):
  q, k = unit(queries), unit(keys)
  terms = []
  for i in range(len(q)):
    positive = q[i] @ k[i] / T
    others = k if negatives is None else unit(negatives)
    logits = [q[i] @ other / T for other in others]
    if negatives is not None:
      logits.append(positive)
    terms.append(log_sum_exp(logits) - positive)
  return terms


def cissl_terms(student, teacher):
  s, t, terms = unit(student), unit(teacher), []
  for i in range(len(s)):
    lse = log_sum_exp([s[i] @ row / T for row in t])
    other = (i + len(s) // 2) % len(s)
    terms.append(lse - (s[i] @ t[i] + s[i] @ t[other]) / 2 / T)
  return terms


def supcon_terms(z, labels):
  """Rows with a negative label have no positives."""
  z, terms = unit(z), []
  for i in range(len(z)):
    others = [k for k in range(len(z)) if k != i]
    positives = [k for k in others if labels[k] == labels[i] >= 0]
    lse = log_sum_exp([z[i] @ z[k] / T for k in others])
    each = [lse - z[i] @ z[p] / T for p in positives]
    terms.append(sum(each) / max(len(each), 1))
  return terms


def koleo_terms(z):
  z, terms = unit(z), []
  for i in range(len(z)):
    nearest = max(
      (k for k in range(len(z)) if k != i), key=lambda k: z[i] @ z[k]
    )
    terms.append(-np.log(np.linalg.norm(z[i] - z[nearest])))
  return terms


def cosine_terms(x, y):
  return [float(a @ b) for a, b in zip(unit(x), unit(y), strict=True)]


def both_ways_terms(p1, p2, z1, z2):
  pairs = zip(cosine_terms(p1, z2), cosine_terms(p2, z1), strict=True)
  return [a + b for a, b in pairs]


def assignment_terms(targets, logits):
  """Cross-entropies of each image, averaged over pairs of different views."""
  terms = []
  for i in range(B):
    entropies = []
    for a, target in enumerate(targets):
      for c, s in enumerate(logits):
        if a != c:
          log_p = s[i] - log_sum_exp(s[i])
          entropies.append(-float(target[i] @ log_p))
    terms.append(sum(entropies) / len(entropies))
  return terms


def softmax(logits):
  e = np.exp(logits - logits.max(axis=-1, keepdims=True))
  return e / e.sum(axis=-1, keepdims=True)


def dino_terms(student, teacher, w, v):
  targets = softmax(np.float64(teacher) @ np.float64(v).T / 0.5)
  return assignment_terms(targets, np.float64(student) @ np.float64(w).T / T)


def swav_terms(z, w):
  scores = np.float64(z) @ np.float64(w).T
  targets = [np.asarray(oracles.sinkhorn(s, 0.5, 3)) for s in scores]
  return assignment_terms(targets, scores / T)


def w_mse_terms(z1, z2):
  def whitened(z):
    centred = np.float64(z) - np.float64(z).mean(axis=0)
    covariance = centred.T @ centred / (B - 1)
    shrunk = 0.9 * covariance + 0.1 * np.eye(D)
    return centred @ np.linalg.inv(np.linalg.cholesky(shrunk)).T

  return [2 - 2 * c for c in cosine_terms(whitened(z1), whitened(z2))]


LABELS = jnp.arange(B) % 4 - 1
DINO = {"student_temperature": T, "teacher_temperature": 0.5}
ASSIGNED = {"temperature": T, "epsilon": 0.5, "iterations": 3, "num_large": 2}


def prototypes(k=9):
  return jax.random.normal(jax.random.key(1), (k, D))


def dino(s, t, **options):
  w = prototypes()
  return losses.dino(s, t, w, w, jnp.zeros(9), **DINO, **options)


# (name, loss of arrays and weights, terms of the same arrays, arrays)
WEIGHTED = [
  (
    "nt_xent",
    lambda *z, **o: losses.nt_xent(*z, temperature=T, **o),
    two_view_terms,
    BATCH[:2],
  ),
  (
    "dcl",
    lambda *z, **o: losses.dcl(*z, temperature=T, **o),
    lambda *z: two_view_terms(*z, decoupled=True),
    BATCH[:2],
  ),
  (
    "info_nce",
    lambda *z, **o: losses.info_nce(*z, temperature=T, **o),
    info_nce_terms,
    BATCH[:2],
  ),
  (
    "info_nce_symmetric",
    lambda *z, **o: losses.info_nce(*z, temperature=T, symmetric=True, **o),
    lambda q, k: np.add(info_nce_terms(q, k), info_nce_terms(k, q)) / 2,
    BATCH[:2],
  ),
  (
    "info_nce_queue",
    lambda q, k, n, **o: losses.info_nce(q, k, temperature=T, negatives=n, **o),
    info_nce_terms,
    BATCH[:3],
  ),
  (
    "cissl",
    lambda *z, **o: losses.cissl(*z, temperature=T, **o),
    cissl_terms,
    BATCH[:2],
  ),
  (
    "supervised_contrastive",
    lambda z, **o: losses.supervised_contrastive(z, LABELS, temperature=T, **o),
    lambda z: supcon_terms(z, LABELS),
    BATCH[:1],
  ),
  ("koleo", losses.koleo, koleo_terms, BATCH[:1]),
  (
    "negative_cosine",
    losses.negative_cosine,
    lambda *z: np.negative(cosine_terms(*z)),
    BATCH[:2],
  ),
  (
    "simsiam",
    losses.simsiam,
    lambda *z: np.divide(both_ways_terms(*z), -2),
    BATCH,
  ),
  (
    "byol",
    losses.byol,
    lambda *z: 4 - 2 * np.array(both_ways_terms(*z)),
    BATCH,
  ),
  (
    "alignment",
    losses.alignment,
    lambda x, y: np.sum((np.float64(x) - np.float64(y)) ** 2, axis=1),
    BATCH[:2],
  ),
  (
    "w_mse",
    lambda *z, **o: losses.w_mse(*z, eps=0.1, **o),
    w_mse_terms,
    BATCH[:2],
  ),
  (
    "dino",
    dino,
    lambda s, t: dino_terms(s, t, prototypes(), prototypes()),
    (BATCH[:3], BATCH[:2]),
  ),
  (
    "swav",
    lambda z, **o: losses.swav(z, prototypes(), **ASSIGNED, **o),
    lambda z: swav_terms(z, prototypes())[:],
    (BATCH[:2],),
  ),
]
weighted = pytest.mark.parametrize(
  ("loss", "terms", "arrays"),
  [row[1:] for row in WEIGHTED],
  ids=[row[0] for row in WEIGHTED],
)


def some_weights():
  weights = np.random.default_rng(3).uniform(0, 2, B).astype(np.float32)
  weights[:3] = 0
  return weights


@weighted
def test_weights_weigh_the_terms_of_rows(loss, terms, arrays):
  weights = some_weights()
  got = jax.jit(loss)(*arrays, weights=weights)
  expected = weighted_mean(terms(*arrays), np.float64(weights))
  np.testing.assert_allclose(got, expected, rtol=2e-5, atol=1e-5)


@weighted
def test_equal_weights_change_nothing_and_zeros_give_zero(loss, terms, arrays):
  del terms
  every = tuple(range(len(arrays)))
  function = jax.jit(jax.value_and_grad(loss, every))
  equal = function(*arrays, weights=jnp.full(B, 0.5))
  assert_equal(equal, function(*arrays), 2e-5)
  nothing, gradients = function(*arrays, weights=jnp.zeros(B))
  assert nothing in (0, 2, 4)  # 2 - 2 cos, and twice that.
  for g in gradients:
    np.testing.assert_array_equal(g, 0)


@pytest.mark.parametrize("name", ["nt_xent", "koleo", "dino"])
def test_weights_on_a_mesh_equal_one_device(name):
  loss, _, arrays = next(row[1:] for row in WEIGHTED if row[0] == name)
  weights = some_weights()
  function = jax.jit(jax.value_and_grad(loss))
  expected = function(*arrays, weights=weights)
  mesh = jax.make_mesh((8,), ("a",), axis_types=(AxisType.Auto,))
  batch = P(None, "a") if name == "dino" else P("a")
  placed = jax.device_put(tuple(arrays), NamedSharding(mesh, batch))
  rows = jax.device_put(weights, NamedSharding(mesh, P("a")))
  assert_equal(function(*placed, weights=rows), expected, 1e-5)
  inside = jax.shard_map(
    lambda weights, *z: loss(*z, axis_name="a", weights=weights),
    mesh=mesh,
    in_specs=(P("a"), *[batch] * len(arrays)),
    out_specs=P(),
  )
  got = jax.jit(inside)(weights, *arrays)
  np.testing.assert_allclose(got, expected[0], rtol=1e-5)


@pytest.mark.parametrize(
  ("weights", "match"),
  [
    (jnp.ones(3), "weights must have 16 rows, got 3"),
    (jnp.ones((16, 1)), r"weights must have shape \[n\]"),
    (-jnp.ones(16), "weights must be finite and at least 0, got -1"),
    (jnp.ones(16).at[3].set(jnp.nan), "finite and at least 0, got nan"),
    (jnp.ones(16).at[3].set(jnp.inf), "finite and at least 0, got inf"),
  ],
)
@pytest.mark.usefixtures("unchecked")
def test_bad_weights_are_named(weights, match):
  with pytest.raises(ValueError, match=match):
    losses.nt_xent(*BATCH[:2], temperature=T, weights=weights)


def test_a_weight_does_not_hide_a_row_that_is_not_finite():
  """NaN of weight 0 is an error of the caller, who replaces the row."""
  weights = jnp.ones(B).at[3].set(0)
  x, y = BATCH[:2]
  for bad in (jnp.nan, jnp.inf):
    assert jnp.isnan(losses.alignment(x.at[3].set(bad), y, weights=weights))
  replaced = losses.alignment(x.at[3].set(0), y, weights=weights)
  assert replaced == losses.alignment(x, y, weights=weights)


def test_rows_without_a_label_have_no_positives():
  labels = jnp.where(jnp.arange(B) % 2 == 0, -1, jnp.arange(B) % 3)
  got = losses.supervised_contrastive(BATCH[0], labels, temperature=T)
  expected = np.mean(supcon_terms(BATCH[0], labels))
  np.testing.assert_allclose(got, expected, rtol=1e-5)


def test_further_keys_are_negatives():
  queries, keys = BATCH[0, :5], BATCH[1]
  got = losses.info_nce(queries, keys, temperature=T)
  expected = np.mean(info_nce_terms(queries, keys))
  np.testing.assert_allclose(got, expected, rtol=1e-5)
  placed = jax.device_put(
    (BATCH[0, :8], keys),
    NamedSharding(
      jax.make_mesh((8,), ("a",), axis_types=(AxisType.Auto,)), P("a")
    ),
  )
  got = jax.jit(lambda *z: losses.info_nce(*z, temperature=T))(*placed)
  expected = np.mean(info_nce_terms(BATCH[0, :8], keys))
  np.testing.assert_allclose(got, expected, rtol=1e-5)
  for options in ({"symmetric": True}, {"negatives": keys}):
    with pytest.raises(ValueError, match=r"more keys than queries only"):
      losses.info_nce(queries, keys, temperature=T, **options)
  with pytest.raises(ValueError, match=r"queries \(16, 6\), keys \(5, 6\)"):
    losses.info_nce(keys, queries, temperature=T)


@pytest.mark.usefixtures("unchecked")
def test_parameter_objects_are_their_arrays():
  expected = losses.nt_xent(*BATCH[:2], temperature=T)

  def loss(temperature):
    return losses.nt_xent(*BATCH[:2], temperature=nnx.Param(temperature))

  assert loss(jnp.float32(T)) == expected
  assert jnp.isfinite(jax.jit(jax.grad(loss))(jnp.float32(T)))
  w = prototypes()
  got = losses.swav(BATCH, nnx.Param(w), **ASSIGNED)
  assert got == losses.swav(BATCH, w, **ASSIGNED)


FORWARD = "implementation=.reference."


@pytest.mark.parametrize("case", CASES, ids=str)
def test_forward_mode_works_or_names_the_reference(x64, case):
  arrays = case.arrays()
  if not case.fused or len(case.stopped) == len(arrays):
    every = tuple(range(len(arrays)))
    direction = case.arrays(seed=1)
    _, tangent = jax.jvp(case.loss, arrays, direction)
    gradients = jax.grad(case.loss, every)(*arrays)
    expected = sum(map(np.vdot, gradients, direction))
    np.testing.assert_allclose(tangent, expected, rtol=1e-8, atol=1e-12)
    return
  with pytest.raises(TypeError, match=FORWARD):
    jax.jvp(case.loss, arrays, arrays)


@pytest.mark.parametrize(
  "case",
  fast_only(["nt_xent"], [c for c in CASES if c.name in BY_OPERATION]),
)
def test_forward_mode_of_the_reference_equals_reverse_mode(x64, case):
  arrays = case.arrays()

  def loss(*arrays):
    return case.loss(*arrays, implementation="reference")

  direction = case.arrays(seed=1)
  _, tangent = jax.jvp(loss, arrays, direction)
  gradients = jax.grad(case.loss, tuple(range(len(arrays))))(*arrays)
  expected = sum(map(np.vdot, gradients, direction))
  np.testing.assert_allclose(tangent, expected, rtol=1e-8, atol=1e-12)


def test_every_kind_of_forward_mode_is_refused_alike():
  def loss(z):
    return losses.nt_xent(z, BATCH[1], temperature=T)

  z = BATCH[0]
  with pytest.raises(TypeError, match=FORWARD):
    jax.jit(lambda z: jax.jvp(loss, (z,), (z,)))(z)
  with pytest.raises(TypeError, match=FORWARD):
    jax.linearize(loss, z)[1](z)
  with pytest.raises(TypeError, match=FORWARD):
    jax.hessian(loss)(z)
  with pytest.raises(TypeError, match=FORWARD):
    jax.jvp(jax.jit(loss), (z,), (z,))


@pytest.mark.usefixtures("unchecked")
def test_symbolic_sizes_are_refused_by_name():
  b = jax.export.symbolic_shape("b, 6")
  z = jax.ShapeDtypeStruct(b, jnp.float32)
  for loss in (
    lambda *z: losses.nt_xent(*z, temperature=T),
    losses.alignment,
  ):
    with pytest.raises(ValueError, match=r"1? has the symbolic shape .*export"):
      jax.export.export(jax.jit(loss))(z, z)
