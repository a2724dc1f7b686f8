"""Tests of the state: averages, queues, the centre, batch statistics."""

import dataclasses
import math

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from objectives import oracle
from objectives.cases import (
  BY_NAME,
  QUICK,
  TOTAL,
  B,
  D,
  assert_equal,
  moved,
  outcome,
  point,
  random_key,
)

from jssl.losses.rows import l2_normalize
from jssl.models.heads import Head, Prototypes
from jssl.models.tokens import Spec
from jssl.objectives import queue

AVERAGED = ["moco_v3_queue", "byol", "dino"]


def momentum(step):
  """Returns the momentum of the cases, from 0.9 to 0.99."""
  return 0.99 - 0.09 * (math.cos(math.pi * step / TOTAL) + 1) / 2


def test_momentum_follows_a_half_cosine():
  objective = BY_NAME["byol"].objective
  for step in (0, 1, 5, 9, TOTAL, 99):
    np.testing.assert_allclose(
      objective.teacher_momentum(step), momentum(min(step, TOTAL)), rtol=1e-6
    )
  assert objective.teacher_momentum(0) == np.float32(0.9)
  assert objective.teacher_momentum(TOTAL) == np.float32(0.99)
  assert BY_NAME["simsiam"].objective.teacher_momentum(0) is None


@pytest.mark.parametrize("step", [0, 3])
@pytest.mark.parametrize("name", AVERAGED)
def test_averages_use_the_momentum_of_the_step(name, step):
  case = BY_NAME[name]
  average = point(case).state["teacher"]
  m = momentum(step)
  expected = {
    part: jax.tree.map(
      lambda old, new: m * old + (1 - m) * new, average[part], moved(case)[part]
    )
    for part in average
  }
  assert set(average) == {
    "projector",
    *(["prototypes"] if name == "dino" else []),
  }
  got = outcome(case, step=step).after[1]["teacher"]
  assert_equal(got, expected, rtol=1e-12 if step == 0 else 1e-9)


def test_centre_is_an_average_of_mean_logits():
  """The logits are those of the teacher before its update."""
  case = BY_NAME["dino"]
  at = point(case)
  t = oracle.unit(oracle.targets(case.objective, at)).reshape(2 * B, -1)
  w = oracle.unit(at.state["teacher"]["prototypes"])
  m = case.objective.center_momentum
  expected = m * at.state["center"] + (1 - m) * np.mean(t @ w.T, axis=0)
  got = outcome(case).after[1]["center"]
  np.testing.assert_allclose(got, expected, rtol=1e-12)


@pytest.mark.parametrize("step", [0, 20])
def test_teacher_temperature_depends_on_the_step(step):
  case = BY_NAME["dino"]
  at = point(case, step=step)
  np.testing.assert_allclose(
    outcome(case, step=step).loss,
    case.oracle(case.objective, at, at),
    rtol=1e-9,
  )


def test_sigreg_slices_depend_on_the_key():
  case = BY_NAME["lejepa"]
  at = point(case)._replace(key=random_key(3))
  other = case.oracle(case.objective, at, at)
  assert abs(other - outcome(case).loss) > 1e-4


@pytest.mark.parametrize("name", ["moco_v3_queue", "nnclr"])
def test_queue_stores_keys_of_one_view(name):
  """The rows are written at the end of the ring; the cursor wraps to 0."""
  case = BY_NAME[name]
  at = point(case)
  project = oracle.targets if name == "moco_v3_queue" else oracle.project
  keys = oracle.unit(project(case.objective, at)[0])
  rows = np.concatenate([at.state["queue"].rows[:-B], keys])
  got = outcome(case).after[1]["queue"]
  assert_equal(got, queue.Queue(rows, 0))


def test_queue_is_a_ring_buffer():
  """Pushes keep their order, wrap, and may replace the whole queue."""
  size, b = 6, 2
  draw = np.random.default_rng(0)
  rows = oracle.unit(draw.normal(size=(size, 3)))
  ring = queue.Queue(rows.astype(np.float32), np.int32(0))
  push = jax.jit(queue.push, compiler_options=QUICK)
  for i in range(5):
    new = 3 * draw.normal(size=(b, 3))
    rows[i * b % size : i * b % size + b] = oracle.unit(new)
    ring = push(ring, new.astype(jnp.bfloat16))
    np.testing.assert_allclose(ring.rows, rows, atol=1e-2)
    assert ring.cursor == (i + 1) * b % size
  assert ring.rows.dtype == jnp.float32
  assert ring.cursor.dtype == jnp.int32
  whole = draw.normal(size=(size, 3)).astype(np.float32)
  ring = push(ring._replace(cursor=np.int32(0)), whole)
  np.testing.assert_allclose(ring.rows, oracle.unit(whole), rtol=1e-6)
  assert ring.cursor == 0
  for wrong in (4, 12):
    with pytest.raises(ValueError, match=r"objective.queue_size=6 must be a"):
      push(ring, np.ones((wrong, 3), np.float32))


def test_unit_rows():
  z = np.array([[3.0, 4.0], [0.0, 0.0], [0.0, -1e-3]], np.float32)

  def normalized_and_gradient(z):
    y, pull = jax.vjp(l2_normalize, z)
    return y, *pull(z)

  y, pulled = jax.jit(normalized_and_gradient, compiler_options=QUICK)(z)
  np.testing.assert_allclose(y, [[0.6, 0.8], [0, 0], [0, -1]], rtol=1e-6)
  # No gradient along the row, and none at a zero row.
  np.testing.assert_allclose(pulled, np.zeros_like(z), atol=1e-6)


HEADS = [
  ("simclr", {"projector": ("projector", "student")}),
  (
    "byol",
    {
      "projector": ("projector", "student"),
      "predictor": ("predictor", "projections"),
      "teacher_projector": ("projector", "teacher"),
    },
  ),
  (
    "dissl",
    {"student": ("student", "student"), "teacher": ("teacher", "large")},
  ),
]


@pytest.mark.parametrize(("name", "heads"), HEADS)
def test_batch_statistics_are_updated(name, heads):
  """Statistics cover all views of a head; the teacher has its own."""
  case = BY_NAME[name]
  objective, at = case.objective, point(case)
  after = outcome(case).after[1]
  for part, (head, source) in heads.items():
    params = at.params[head]
    if source == "student":
      x = np.concatenate(at.student)
    elif source == "large":
      x = at.student[0]
    elif source == "teacher":
      x, params = at.teacher[0], at.state["teacher"][head]
    else:
      x = oracle.project(objective, at)
    new = {}
    oracle.head(getattr(objective, head), params, x, stats=new)
    expected = jax.tree.map(
      lambda old, new: 0.99 * old + 0.01 * new,
      at.state[part],
      {"batch_stats": new},
    )
    assert_equal(after[part], expected, rtol=1e-9)


def start(name, **replaced):
  objective = dataclasses.replace(BY_NAME[name].objective, **replaced)
  init = jax.jit(
    lambda key: objective.init(key, Spec(D)), compiler_options=QUICK
  )
  return init(random_key(0))


def test_dino_teacher_starts_as_the_student():
  params, state = start("dino")
  assert_equal(state["teacher"], params, rtol=0)
  np.testing.assert_allclose(
    np.linalg.norm(params["prototypes"], axis=1), 1, rtol=1e-6
  )
  np.testing.assert_array_equal(state["center"], np.zeros(7))


def test_moco_queue_starts_with_random_directions():
  params, state = start("moco_v3_queue")
  assert_equal(state["teacher"], {"projector": params["projector"]}, rtol=0)
  rows, cursor = state["queue"]
  assert rows.shape == (3 * B, 4)
  np.testing.assert_allclose(np.linalg.norm(rows, axis=1), 1, rtol=1e-6)
  assert np.linalg.matrix_rank(rows) == 4
  assert cursor == 0
  assert params["predictor"] == {}


def test_initial_norms_of_prototypes():
  params, _ = start("swav", projector=Head())
  np.testing.assert_allclose(
    np.linalg.norm(params["prototypes"], axis=1), 1, rtol=1e-6
  )
  params, _ = start(
    "dissl", prototypes=Prototypes(400), student=Head(), teacher=Head()
  )
  one, other = (params[f"{name}_prototypes"] for name in ("student", "teacher"))
  for w in (one, other):
    assert w.shape == (400, D)
    np.testing.assert_allclose(np.std(w), D**-0.5, rtol=0.1)
  assert not np.array_equal(one, other)
