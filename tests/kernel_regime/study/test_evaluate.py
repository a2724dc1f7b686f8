"""Cases on points in the plane of R^4, whose kernel is computed here."""

import re

import numpy as np
import pytest

from jssl.config.parse import parse
from jssl.kernel_regime.classifiers import kernel_accuracy
from jssl.kernel_regime.losses import Contrastive, NonContrastive
from jssl.kernel_regime.memory import memory_limit
from jssl.kernel_regime.solvers import (
  alpha_max,
  closed_form,
  ridge_closed_form,
  smoothest_eigenpairs,
  solve,
)
from jssl.kernel_regime.study import evaluate, experiments
from jssl.kernel_regime.study.config import KernelStudy
from jssl.kernel_regime.study.dataset import GramMatrices
from jssl.kernel_regime.study.experiments import Experiment
from jssl.kernel_regime.targets import Eigenpairs

IMAGES, VIEWS, TEST = 18, 3, 12
PROBLEM = {
  "images": IMAGES,
  "views": 2,
  "test_images": TEST,
  "folds": 3,
  "jitter": 1e-3,
  "alpha": 0.01,
}
SWEEP = {
  "views": (2, 3),
  "labels": (9,),
  "betas": (0.0, 0.5),
  "alphas": (0.0, 0.1),
}


def study(sweep=SWEEP, **problem):
  return parse(
    {
      "data": {"name": "none", "batch_size": 1, "image_size_px": 1},
      "augment": {"crop_size_px": 1, "crop_min_area": 1.0},
      "kernel": {"name": "rbf"},
      "problem": {**PROBLEM, **problem},
      "sweep": sweep,
    },
    KernelStudy,
  )


CONFIG = study()


def rbf(x, y):
  return np.exp(-np.sum((x[:, None] - y[None]) ** 2, axis=2) / 4)


def draw():
  rng = np.random.default_rng(0)
  means = 2 * rng.normal(size=(3, 4))
  labels, labels_test = np.arange(IMAGES) % 3, np.arange(TEST) % 3
  images = means[labels] + rng.normal(size=(IMAGES, 4))
  views = images[:, None] + 0.3 * rng.normal(size=(IMAGES, VIEWS, 4))
  test = means[labels_test] + rng.normal(size=(TEST, 4))
  return images, views, test, labels, labels_test


@pytest.fixture(scope="module")
def found():
  images, views, test, labels, labels_test = draw()
  points = np.concatenate([views.reshape(-1, 4), images])
  return GramMatrices(
    rbf(points, points),
    rbf(test, points),
    labels,
    labels_test,
    ("a", "b", "c"),
    "RBF",
    0.0,
  )


# ---- Experiments -------------------------------------------------------------


def test_an_experiment_has_what_its_kernel_depends_on():
  experiment = experiments.experiment
  assert experiment("raw", CONFIG) == Experiment("raw", 18)
  assert experiment("raw_augmented", CONFIG, {"alpha": 0.5}) == Experiment(
    "raw_augmented", 18, views=2
  )
  assert experiment("contrastive", CONFIG, {"views": 3}) == Experiment(
    "contrastive", 18, views=3, alpha=0.01
  )
  assert experiment("non_contrastive", CONFIG, {"labels": 9}) == Experiment(
    "non_contrastive", 9, views=2, beta=0.4, alpha=0.01
  )


def test_main_experiments_are_all_kernels_and_those_without_a_ridge():
  main = experiments.main_experiments(CONFIG)
  assert {name: (e.features, e.alpha) for name, e in main.items()} == {
    "raw kernel": ("raw", None),
    "raw kernel, views added": ("raw_augmented", None),
    "supervised-augmented, no ridge": ("supervised", 0.0),
    "supervised-augmented": ("supervised", 0.01),
    "non-contrastive, no ridge": ("non_contrastive", 0.0),
    "non-contrastive": ("non_contrastive", 0.01),
    "contrastive, no ridge": ("contrastive", 0.0),
    "contrastive": ("contrastive", 0.01),
  }
  assert len(experiments.main_experiments(study(alpha=0.0))) == 5


def test_a_sweep_has_the_kernels_that_it_changes():
  swept = experiments.sweep_experiments(CONFIG)
  features = {axis: [*by_features] for axis, by_features in swept.items()}
  embedded = ["supervised", "non_contrastive", "contrastive"]
  assert features == {
    "views": ["raw_augmented", *embedded],
    "labels": ["raw", "raw_augmented", *embedded],
    "beta": ["non_contrastive"],
    "alpha": embedded,
  }
  by_value = swept["views"]["contrastive"]
  assert {value: e.views for value, e in by_value.items()} == {2: 2, 3: 3}
  # Experiments that a sweep shares with the main ones are not repeated.
  main = experiments.main_experiments(CONFIG)
  assert by_value[2] in main.values()
  everything = experiments.all_experiments(CONFIG)
  assert len(everything) == len({*everything}) == 8 + 4 + 5 + 2 + 3
  assert not experiments.sweep_experiments(study(sweep={}))


# ---- The optimum -------------------------------------------------------------


def test_of_tied_optima_the_one_of_least_trace():
  _, views, *_ = draw()
  x = views[:6].reshape(-1, 4)
  k = rbf(x, x) + 0.01 * np.eye(18)
  ids = np.repeat(np.arange(6), 3)
  inverse = np.linalg.inv(k)
  loss = Contrastive()
  m = solve(k, loss, ids, d_out=2, alpha=0.0)
  np.testing.assert_allclose(
    loss.value(k @ m.T, ids), loss.minimum(ids, 2), atol=1e-9
  )
  trace = np.trace(m @ k @ m.T)
  # The images' means, turned: Tr(BK) = 3 tr(Q^T U^T K^-1 U Q).
  u = np.repeat(np.eye(6), 3, axis=0) / np.sqrt(3)
  values = np.linalg.eigvalsh(u.T @ inverse @ u)
  np.testing.assert_allclose(trace, 3 * values[:2].sum(), rtol=1e-9)
  plain = closed_form(k, loss.top_eigenpairs(ids, 2))
  assert trace < np.trace(plain @ k @ plain.T)
  # And what the ridge's optimum goes to.
  alpha = 1e-7 * alpha_max(k, loss, ids)
  limit = ridge_closed_form(k, loss, ids, alpha=alpha, d_out=2)
  g, g_limit = ((k @ a.T) @ (k @ a.T).T for a in (m, limit))
  np.testing.assert_allclose(g, g_limit, atol=1e-5)


@pytest.mark.parametrize("d_out", [3, 5])
def test_without_invariance_all_directions_tie(d_out):
  """At beta = 0 also those within images, more than there are images."""
  _, views, *_ = draw()
  x = views[:4].reshape(-1, 4)
  k, ids = rbf(x, x) + 0.01 * np.eye(12), np.repeat(np.arange(4), 3)
  loss = NonContrastive(0.0)
  m = solve(k, loss, ids, d_out=d_out, alpha=0.0)
  np.testing.assert_allclose(
    loss.value(k @ m.T, ids), loss.minimum(ids, d_out), atol=1e-9
  )
  alpha = 1e-7 * alpha_max(k, loss, ids)
  limit = ridge_closed_form(k, loss, ids, alpha=alpha, d_out=d_out)
  centre = np.eye(12) - 1 / 12
  z, z_limit = (centre @ k @ a.T for a in (m, limit))
  np.testing.assert_allclose(z @ z.T, z_limit @ z_limit.T, atol=1e-5)


def test_only_eigenvalues_that_tie_at_the_end_are_turned():
  k = np.diag([1.0, 2.0, 4.0, 8.0])
  top = Eigenpairs(np.array([3.0, 3.0, 1.0, 1.0]), np.eye(4))
  found = smoothest_eigenpairs(k, top, 3)
  np.testing.assert_allclose(found.values, [3, 3, 1])
  # Large directions of K cost least.
  np.testing.assert_allclose(
    np.abs(found.vectors), np.eye(4)[:, [0, 1, 3]], atol=1e-12
  )
  np.testing.assert_array_equal(top.vectors, np.eye(4))


@pytest.mark.parametrize("loss", [Contrastive(), NonContrastive(0.4)])
@pytest.mark.parametrize("d_out", [3, 12])
def test_every_dimension_reaches_the_minimum(loss, d_out):
  _, views, *_ = draw()
  x = views[:6, :2].reshape(-1, 4)
  k, ids = rbf(x, x) + 0.1 * np.eye(12), np.repeat(np.arange(6), 2)
  m = solve(k, loss, ids, d_out=d_out, alpha=0.0)
  assert m.shape == (d_out, 12)
  np.testing.assert_allclose(
    loss.value(k @ m.T, ids), loss.minimum(ids, d_out), atol=1e-9
  )


# ---- Results -----------------------------------------------------------------


def by_hand(case):
  """Kernels of labelled points and of test, from the points, in float64."""
  images, views, test, labels, _ = draw()
  n = case.labels
  if case.features == "raw":
    return rbf(images[:n], images[:n]), rbf(test, images[:n]), np.arange(n)
  if case.features == "raw_augmented":
    rows = np.concatenate([images[:n], views[:n, : case.views].reshape(-1, 4)])
    ids = np.append(np.arange(n), np.repeat(np.arange(n), case.views))
    return rbf(rows, rows), rbf(test, rows), ids
  supervised = case.features == "supervised"
  count = n if supervised else IMAGES
  x = views[:count, : case.views].reshape(-1, 4)
  of = np.repeat(labels[:n] if supervised else np.arange(IMAGES), case.views)
  k = rbf(x, x)
  k += CONFIG.problem.jitter * np.trace(k) / len(k) * np.eye(len(k))
  loss = Contrastive() if case.beta is None else NonContrastive(case.beta)
  # All directions between images, and none within.
  top = len({*of}) - loss.shift_invariant
  if case.alpha:
    alpha = case.alpha * alpha_max(k, loss, of)
    m = ridge_closed_form(k, loss, of, alpha=alpha, d_out=top)
    b = m.T @ m
  else:
    values, vectors = np.linalg.eigh(loss.target(of))
    positive = (vectors[:, -top:] * values[-top:]) @ vectors[:, -top:].T
    b = np.linalg.solve(k, np.linalg.solve(k, positive).T)
  k_own = rbf(images[:n], x)
  return k_own @ b @ k_own.T, rbf(test, x) @ b @ k_own.T, np.arange(n)


@pytest.mark.parametrize(
  "case",
  [
    Experiment("raw", 18),
    Experiment("raw", 9),
    Experiment("raw_augmented", 18, views=2),
    Experiment("contrastive", 18, views=3, alpha=0.0),
    Experiment("contrastive", 9, views=2, alpha=0.01),
    Experiment("non_contrastive", 18, views=2, beta=0.4, alpha=0.0),
    Experiment("non_contrastive", 18, views=2, beta=0.4, alpha=0.01),
    Experiment("supervised", 9, views=2, alpha=0.0),
  ],
  ids=lambda c: "-".join(map(str, c)),
)
def test_accuracies_are_those_of_the_kernel(found, case):
  row = evaluate.evaluate(found, case, CONFIG)
  k, k_test, ids = by_hand(case)
  embedded = evaluate.embed(found, case, CONFIG)
  got, got_test, _ = evaluate.classifier_kernels(found, case, embedded)
  np.testing.assert_allclose(got, k, rtol=1e-6, atol=1e-8)
  np.testing.assert_allclose(got_test, k_test, rtol=1e-6, atol=1e-8)
  for name in ("svm", "ridge"):
    expected = kernel_accuracy(
      name,
      k,
      found.labels[ids],
      k_test,
      found.labels_test,
      folds=3,
      groups=ids,
      scored=np.arange(len(ids)) < case.labels,
    )
    assert row[name] == expected._asdict()
  labels = found.labels[ids]
  same = (labels[:, None] == labels[None]).astype(float)
  aligned = np.sum(k * same) / np.linalg.norm(k) / np.linalg.norm(same)
  np.testing.assert_allclose(row["class_alignment"], aligned)
  assert row["experiment"] == case._asdict()
  assert row["seconds"] > 0


@pytest.mark.parametrize("features", ["contrastive", "non_contrastive"])
@pytest.mark.parametrize("alpha", [0.0, 0.05])
def test_measures_of_an_embedding(found, features, alpha):
  case = experiments.experiment(features, CONFIG, {"alpha": alpha})
  row = evaluate.evaluate(found, case, CONFIG)["embedding"]
  induced = evaluate.embed(found, case, CONFIG)
  k = found.k[np.ix_(induced.rows, induced.rows)]
  k = k + CONFIG.problem.jitter * np.trace(k) / len(k) * np.eye(len(k))
  b = induced.m.T @ induced.m
  g = k @ b @ k
  np.testing.assert_allclose(row["trace_bk"], np.trace(b @ k))
  ids = np.repeat(np.arange(IMAGES), 2)
  same = ids[:, None] == ids[None]
  if features == "contrastive":
    target = same.astype(float)
    loss = np.sum((g - target) ** 2)
    assert row["d_out"] == IMAGES
  else:
    c = np.eye(36) - 1 / 36
    lap = 2 * np.eye(36) - same
    target = c - 0.2 * lap
    loss = np.sum((c @ g @ c) ** 2) - 2 * np.sum(c * g) + 0.4 * np.sum(lap * g)
    loss += IMAGES - 1
    assert row["d_out"] == IMAGES - 1
  np.testing.assert_allclose(row["loss"], loss, atol=1e-9)
  scale = max(abs(row["minimum"]), np.sum(target**2))
  np.testing.assert_allclose(
    row["gap"], (loss - row["minimum"]) / scale, atol=1e-10
  )
  z_test = found.k_test[:, induced.rows] @ induced.m.T
  if features == "non_contrastive":
    z_test = z_test - np.mean(k @ induced.m.T, axis=0)
    g = c @ g @ c
  others = ~np.eye(len(ids), dtype=bool)
  np.testing.assert_allclose(row["within"], g[same & others].mean(), atol=1e-12)
  np.testing.assert_allclose(row["between"], g[~same].mean(), atol=1e-12)
  aligned = np.sum(g * target) / np.linalg.norm(g) / np.linalg.norm(target)
  np.testing.assert_allclose(row["target_alignment"], aligned)
  values = np.linalg.eigvalsh(z_test @ z_test.T)[::-1]
  np.testing.assert_allclose(
    row["spectrum"][:12], values / values[0], atol=1e-9
  )
  if alpha:
    assert row["gap"] > 1e-3
    assert 0 < row["rank"] < row["d_out"]
    assert row["alpha"] > 0
  else:
    np.testing.assert_allclose(row["gap"], 0, atol=1e-10)
    assert (row["rank"], row["alpha"]) == (row["d_out"], 0)


def test_an_embedding_of_zeros_has_no_accuracy(found, monkeypatch):
  monkeypatch.setattr(
    evaluate, "solve", lambda k, *a, **b: np.zeros((IMAGES, len(k)))
  )
  case = experiments.experiment("contrastive", CONFIG)
  row = evaluate.evaluate(found, case, CONFIG)
  assert row["failure"] is row["svm"] is row["ridge"] is None
  assert row["class_alignment"] == 0
  assert row["embedding"]["rank"] == row["embedding"]["target_alignment"] == 0


def test_a_failed_experiment_has_its_error(found):
  case = experiments.experiment("contrastive", CONFIG)
  done = evaluate.evaluate(found, case, CONFIG)
  assert done["failure"] is None
  # The ridge takes 10 matrices of N x N, and raw kernels none.
  raw = experiments.experiment("raw", CONFIG)
  with memory_limit(5 * 36**2 * 8 / 2**30):
    row = evaluate.evaluate(found, case, CONFIG)
    assert evaluate.evaluate(found, raw, CONFIG)["failure"] is None
  assert re.match("The ridge of N=36 points needs", row["failure"])
  assert row.keys() == done.keys()
  assert row["experiment"] == case._asdict()
  assert row["svm"] is row["ridge"] is row["embedding"] is None


def test_folds_are_fewer_where_labels_are(found):
  config = study(folds=5)
  assert evaluate.num_folds(found, 18, config) == 5
  assert evaluate.num_folds(found, 9, config) == 3
  with pytest.raises(ValueError, match=r"sweep\.labels: a class has 1 of 4"):
    evaluate.num_folds(found, 4, config)
