"""Tests of every method: values, gradients and the protocol of the step."""

import dataclasses
import inspect
import pathlib
import re
import warnings

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from objectives import oracle
from objectives.cases import (
  BY_NAME,
  CASES,
  B,
  D,
  answer,
  assert_equal,
  initialised,
  leaves,
  moved,
  outcome,
  point,
)

from jssl import losses, objectives
from jssl.models.tokens import Spec
from jssl.objectives.base import Objective
from jssl.objectives.momentum import MomentumObjective

every_case = pytest.mark.parametrize("case", CASES, ids=str)
FOLDER = pathlib.Path(objectives.__file__).parent
SHARED = {"__init__", "base", "encode", "momentum", "projector", "queue"}
METHODS = sorted({path.stem for path in FOLDER.glob("*.py")} - SHARED)


def test_every_method_has_a_case():
  modules = {type(case.objective).__module__ for case in CASES}
  modules.remove("jssl.kernel_regime.objectives")
  assert modules == {f"jssl.objectives.{name}" for name in METHODS}
  assert modules == {cls.__module__ for cls in objectives.OBJECTIVES.values()}
  assert len(METHODS) >= 18


@every_case
def test_loss_equals_oracle(case):
  at = point(case)
  np.testing.assert_allclose(
    outcome(case).loss, case.oracle(case.objective, at, at), rtol=1e-11
  )


@every_case
def test_outputs_use_running_statistics(case):
  objective, at = case.objective, point(case)
  h = at.student[0][0]
  with jax.enable_x64(True):
    got = objective.outputs(at.params, at.state, h)
  assert [*got] == [*objective.heads]
  for name, z in got.items():
    if name == "classifier":
      layer = at.params[name]
      np.testing.assert_allclose(z, h @ layer["kernel"] + layer["bias"])
      continue
    running = at.state[name].get("batch_stats")
    spec = getattr(objective, name)
    expected = oracle.head(spec, at.params[name], h, running=running)
    np.testing.assert_allclose(z, expected, rtol=1e-11)


def check_gradients(case):
  """Compares with finite differences; stop-gradient parts are held."""
  at = point(case)
  params, state, student, teacher = outcome(case, derived=True).gradient
  for name, g in leaves((state, teacher)).items():
    if g.dtype != jax.dtypes.float0:
      assert not np.any(g), name
  for name, g in leaves(params).items():
    largest = np.abs(g).max()
    assert largest < 1e-12 if name in case.ineffective else largest > 1e-6, name
  draw = np.random.default_rng(5)
  learned = {"params": at.params, "student": at.student}
  direction = jax.tree.map(lambda x: draw.normal(size=x.shape), learned)

  def along(distance):
    shifted = jax.tree.map(lambda x, v: x + distance * v, learned, direction)
    return case.oracle(case.objective, at._replace(**shifted), at)

  slope = (along(1e-6) - along(-1e-6)) / 2e-6
  gradient = {"params": params, "student": student}
  products = jax.tree.map(np.vdot, gradient, direction)
  np.testing.assert_allclose(
    sum(jax.tree.leaves(products)), slope, rtol=1e-6, atol=1e-7
  )


@pytest.mark.parametrize("case", [c for c in CASES if c.derived], ids=str)
def test_gradients_with_stop_gradient(case):
  check_gradients(case)


@pytest.mark.slow
@pytest.mark.parametrize("case", [c for c in CASES if not c.derived], ids=str)
def test_gradients_without_stop_gradient(case):
  check_gradients(case)


def test_simsiam_stop_gradient_changes_only_gradients():
  one, other = (
    outcome(BY_NAME[name]) for name in ("simsiam", "simsiam_unstopped")
  )
  np.testing.assert_allclose(one.loss, other.loss, rtol=1e-12)
  gap = one.gradient[2][0] - other.gradient[2][0]
  assert np.abs(gap).max() > 1e-2


@every_case
def test_loss_and_update_keep_shapes_and_dtypes(case):
  """Also for bfloat16 features: the state keeps its dtypes."""
  params, state = case.shapes()
  features = jax.tree.map(
    lambda x: jax.ShapeDtypeStruct(x.shape, jnp.bfloat16),
    (point(case).student, point(case).teacher),
  )
  at = point(case)._replace(
    params=params, state=state, student=features[0], teacher=features[1]
  )
  got = jax.eval_shape(
    lambda at: answer(case.objective, False, at, at.params), at
  )
  assert got.loss.shape == ()
  assert got.loss.dtype == jnp.float32
  assert all(m.shape == () for m in got.aux.metrics.values())
  after, before = leaves(got.after), leaves((params, state))
  assert jax.tree.structure(got.after) == jax.tree.structure((params, state))
  for name, leaf in before.items():
    form = (leaf.shape, leaf.dtype, leaf.weak_type)
    new = after[name]
    assert (new.shape, new.dtype, new.weak_type) == form, name


@every_case
def test_init_shares_no_buffers(case):
  """The step donates parameters and state, so buffers must be unique."""
  outputs = initialised(case)[0].jaxpr.outvars
  variables = [v for v in outputs if not hasattr(v, "val")]
  assert len(variables) == len(set(map(id, variables)))


@every_case
def test_groups_match_schedules_and_rates(case):
  params, _ = case.shapes()
  groups = case.objective.groups(params)
  assert jax.tree.structure(groups) == jax.tree.structure(params)
  for name, group in leaves(groups).items():
    assert group == name.split("/")[0]
  special = {*case.objective.schedules(), *case.objective.constant_rates()}
  assert special <= params.keys()


def test_scheduled_and_constant_groups():
  for case in CASES:
    frozen = (
      "swav",
      "dino",
      "ibot",
      "dinov2",
      "dinov2_sinkhorn",
      "dinov2_gram",
    )
    expected = {"prototypes"} if case.name in frozen else set()
    schedules = case.objective.schedules()
    assert schedules.keys() == expected, case
    for schedule in schedules.values():
      assert [float(schedule(step)) for step in (0, 3, 4, 9)] == [0, 0, 1, 1]
    constant = {"predictor"} if case.name.startswith("simsiam") else set()
    assert case.objective.constant_rates() == constant, case
  for name in ("swav", "dino"):
    objective = BY_NAME[name].objective
    thawed = dataclasses.replace(objective.prototypes, freeze_steps=0)
    free = dataclasses.replace(objective, prototypes=thawed)
    assert free.schedules() == {}
  decaying = dataclasses.replace(
    BY_NAME["simsiam"].objective, constant_predictor_rate=False
  )
  assert decaying.constant_rates() == frozenset()


@every_case
def test_update_returns_the_carry(case):
  """Averages are tested in test_state.py."""
  params, state = outcome(case).after
  params, expected = dict(params), dict(moved(case))
  if case.name == "swav":
    w, after = expected.pop("prototypes"), params.pop("prototypes")
    w = w / np.linalg.norm(w, axis=1, keepdims=True)
    np.testing.assert_allclose(after, w, rtol=1e-12)
  assert_equal(params, expected, rtol=0)
  state, carried = dict(state), dict(outcome(case).aux.carry)
  has_average = isinstance(case.objective, MomentumObjective)
  assert ("teacher_projector" in state) == has_average
  if has_average:
    del state["teacher"], carried["teacher"]
  assert_equal(state, carried, rtol=0)


@pytest.mark.parametrize("name", METHODS)
def test_files_are_short_and_cite_their_paper(name):
  text = (FOLDER / f"{name}.py").read_text()
  assert len(text.splitlines()) <= 200
  docstring = " ".join(text.split('"""')[1].split())
  first = docstring.split("State:")[0]
  assert re.search(r"\(.*(19|20)\d\d\)", first), "a paper with its year"
  assert "State:" in docstring
  assert "top-gradient" in docstring


@every_case
def test_fields_are_documented(case):
  cls = type(case.objective)
  documented = inspect.getdoc(cls) + "".join(
    inspect.getdoc(parent) or ""
    for parent in cls.__mro__
    if issubclass(parent, Objective)
  )
  for field in dataclasses.fields(cls):
    assert f"{field.name}:" in documented, field.name


ERRORS = [
  *[
    (name, {"temperature": value}, "objective.temperature=")
    for name in ("simclr", "dcl", "supcon", "cissl", "moco_v3", "nnclr", "swav")
    for value in (0.0, float("nan"))
  ],
  *[
    (name, {key: -0.1}, f"objective.{key}=-0.1 must be positive")
    for name in ("dino", "dissl")
    for key in ("student_temperature", "teacher_temperature")
  ],
  *[
    (name, {key: value}, f"objective.{key}={value} must be")
    for name in ("moco_v3", "byol", "dino")
    for key, value in (
      ("momentum_start", -0.1),
      ("momentum_start", 1.1),
      ("momentum_end", 0.5),
      ("momentum_end", 1.1),
      ("total_steps", -1),
    )
  ],
  *[
    (name, {"num_views": 0}, "objective.num_views=0 must be positive")
    for name in ("swav", "dino", "lejepa")
  ],
  ("dissl", {"num_views": 1}, "objective.num_views=1 must be at least 2"),
  ("barlow_twins", {"scale": 0.0}, "objective.scale=0.0"),
  (
    "barlow_twins",
    {"off_diagonal_weight": 0.0},
    "objective.off_diagonal_weight=0.0",
  ),
  ("spectral", {"squared_radius": 0.0}, "objective.squared_radius=0.0"),
  *[
    ("vicreg", {f"{term}_weight": -1.0}, f"objective.{term}_weight=-1.0")
    for term in ("invariance", "variance", "covariance")
  ],
  ("w_mse", {"eps": 0.0}, "objective.eps=0.0"),
  ("w_mse", {"eps": 2.0}, "objective.eps=2.0"),
  ("moco_v3", {"queue_size": -1}, "objective.queue_size=-1"),
  ("nnclr", {"queue_size": 0}, "objective.queue_size=0"),
  ("swav", {"epsilon": 0.0}, "objective.epsilon=0.0"),
  ("swav", {"iterations": 0}, "objective.iterations=0"),
  (
    "dino",
    {"teacher_temperature_start": 0.0},
    "objective.teacher_temperature_start=0.0",
  ),
  (
    "dino",
    {"temperature_warmup_steps": -1},
    "objective.temperature_warmup_steps=-1",
  ),
  ("dino", {"center_momentum": 1.5}, "objective.center_momentum=1.5"),
  ("lejepa", {"sigreg_weight": 1.5}, "objective.sigreg_weight=1.5"),
  ("lejepa", {"num_slices": 0}, "objective.num_slices=0"),
]


@pytest.mark.parametrize(("name", "values", "message"), ERRORS)
def test_errors_name_the_key(name, values, message):
  with pytest.raises(ValueError, match=re.escape(message)):
    dataclasses.replace(BY_NAME[name].objective, **values)


@pytest.mark.parametrize(
  ("name", "one", "other"),
  [
    ("moco_v3", "projector", "predictor"),
    ("byol", "projector", "predictor"),
    ("simsiam", "projector", "predictor"),
    ("nnclr", "projector", "predictor"),
    ("cissl", "student", "teacher"),
  ],
)
def test_compared_heads_need_equal_widths(name, one, other):
  objective = BY_NAME[name].objective
  head = dataclasses.replace(getattr(objective, other), out_dim=3)
  wrong = dataclasses.replace(objective, **{other: head})
  message = f"objective.{one}.out_dim gives width 4 .*{other}.out_dim width 3"
  with pytest.raises(ValueError, match=message):
    jax.eval_shape(lambda key: wrong.init(key, Spec(D)), jax.random.key(0))


def test_dissl_warns_if_collapse_lowers_the_loss():
  objective = BY_NAME["dissl"].objective
  with pytest.warns(UserWarning, match=r"objective.marginal_weight=1.5 is les"):
    dataclasses.replace(objective, marginal_weight=1.5, invariance_weight=0.6)
  with warnings.catch_warnings():
    warnings.simplefilter("error")
    dataclasses.replace(objective, marginal_weight=1.6, invariance_weight=0.6)


def shape_of_loss(objective, **replaced):
  case = dataclasses.replace(BY_NAME["simclr"], objective=objective)
  params, state = case.shapes()
  at = point(case)._replace(params=params, state=state, **replaced)
  return jax.eval_shape(lambda at: answer(objective, False, at, at.params), at)


def test_supcon_needs_labels():
  with pytest.raises(
    ValueError, match=r'objective.name="supcon" needs a data set'
  ):
    shape_of_loss(BY_NAME["supcon"].objective, labels=None)


def test_supcon_compares_an_image_without_a_label_with_its_own_view():
  z1, z2 = jax.random.normal(jax.random.key(0), (2, 8, D))
  got, _ = BY_NAME["supcon"].objective.compare(z1, z2, jnp.full(8, -1))
  expected = losses.nt_xent(z1, z2, temperature=0.5)
  np.testing.assert_allclose(got, expected, rtol=1e-6)
  labels = jnp.array([-1, 0, -1, 0, 1, 1, 2, -1])
  own = jnp.array([10, 0, 11, 0, 1, 1, 2, 12])
  got, _ = BY_NAME["supcon"].objective.compare(z1, z2, labels)
  expected, _ = BY_NAME["supcon"].objective.compare(z1, z2, own)
  np.testing.assert_allclose(got, expected, rtol=1e-6)


def test_w_mse_needs_more_rows_than_dimensions():
  at = point(BY_NAME["w_mse"]).student[0][:, :4]
  with pytest.raises(
    ValueError, match=r"data.batch_size=4 must .*objective.projector.out_dim"
  ):
    shape_of_loss(BY_NAME["w_mse"].objective, student=(at,), labels=None)


@pytest.mark.parametrize("name", ["moco_v3", "nnclr"])
def test_queue_size_is_a_multiple_of_the_batch(name):
  objective = dataclasses.replace(BY_NAME[name].objective, queue_size=B + 2)
  with pytest.raises(
    ValueError, match=r"objective.queue_size=10 must .*data.batch_size"
  ):
    shape_of_loss(objective)
