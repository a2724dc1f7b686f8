"""Cases on points in the plane of R^4, whose kernel is computed here."""

import dataclasses
import re

import numpy as np
import pytest

from jssl.kernel_regime.downstream import ridge_accuracy, svm_accuracy
from jssl.kernel_regime.losses import Contrastive, NonContrastive
from jssl.kernel_regime.optimum import closed_form, ridge_form, vanishing_alpha
from jssl.kernel_regime.study import cases
from jssl.kernel_regime.study.cases import Case
from jssl.kernel_regime.study.points import Grams
from jssl.kernel_regime.study.setting import Kernels, Loss
from jssl.kernel_regime.targets import Eigenpairs

IMAGES, VIEWS, TEST = 18, 3, 12
KERNELS = Kernels(
  images=IMAGES,
  views=2,
  test_images=TEST,
  folds=3,
  jitter=1e-3,
  alpha=0.01,
  sweep_views=(2, 3),
  sweep_labels=(9,),
  sweep_betas=(0.0, 0.5),
  sweep_alphas=(0.0, 0.1),
)
LOSS = Loss("contrastive", 0.4)


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
  return Grams(
    rbf(points, points),
    rbf(test, points),
    labels,
    labels_test,
    ("a", "b", "c"),
    "RBF",
    0.0,
  )


# ---- The plan ----------------------------------------------------------------


def test_a_case_has_what_its_kernel_depends_on():
  assert cases.case("raw", KERNELS, LOSS) == Case("raw", 18)
  assert cases.case("raw_augmented", KERNELS, LOSS, alpha=0.5) == Case(
    "raw_augmented", 18, views=2
  )
  assert cases.case("contrastive", KERNELS, LOSS, views=3) == Case(
    "contrastive", 18, views=3, alpha=0.01
  )
  assert cases.case("non_contrastive", KERNELS, LOSS, labels=9) == Case(
    "non_contrastive", 9, views=2, beta=0.4, alpha=0.01
  )


def test_the_main_setting_has_all_kernels_and_those_without_a_ridge():
  main = cases.main(KERNELS, LOSS)
  assert [(c.features, c.alpha) for c in main] == [
    ("contrastive", 0.0),
    ("non_contrastive", 0.0),
    ("supervised", 0.0),
    ("raw", None),
    ("raw_augmented", None),
    ("contrastive", 0.01),
    ("non_contrastive", 0.01),
    ("supervised", 0.01),
  ]
  assert len(cases.main(Kernels(alpha=0.0), LOSS)) == 5


def test_a_sweep_has_the_kernels_that_it_changes():
  swept = cases.swept(KERNELS, LOSS)
  features = {
    axis: [c.features for c in next(iter(by_value.values()))]
    for axis, by_value in swept.items()
  }
  trained = ["contrastive", "non_contrastive", "supervised"]
  assert features == {
    "views": ["raw_augmented", *trained],
    "labels": ["raw", "raw_augmented", *trained],
    "beta": ["non_contrastive"],
    "alpha": trained,
  }
  assert [*swept["views"]] == [2, 3]
  assert {c.views for c in swept["views"][3]} == {3}
  # The main setting is a part of a sweep, and isn't measured twice.
  assert {*swept["views"][2]} < {*cases.main(KERNELS, LOSS)}


# ---- The optimum -------------------------------------------------------------


def test_of_tied_optima_the_one_of_least_trace():
  _, views, *_ = draw()
  x = views[:6].reshape(-1, 4)
  k = rbf(x, x) + 0.01 * np.eye(18)
  ids = np.repeat(np.arange(6), 3)
  inverse = np.linalg.inv(k)
  loss = Contrastive()
  m = cases.optimum(k, loss, ids, d_out=2, alpha=0.0)
  np.testing.assert_allclose(
    loss.of_embedding(k @ m.T, ids), loss.minimum(ids, 2), atol=1e-9
  )
  trace = np.trace(m @ k @ m.T)
  # The images' means, turned: Tr(BK) = 3 tr(Q^T U^T K^-1 U Q).
  u = np.repeat(np.eye(6), 3, axis=0) / np.sqrt(3)
  values = np.linalg.eigvalsh(u.T @ inverse @ u)
  np.testing.assert_allclose(trace, 3 * values[:2].sum(), rtol=1e-9)
  plain = closed_form(k, loss.eigenpairs(ids, 2))
  assert trace < np.trace(plain @ k @ plain.T)
  # And what the ridge's optimum goes to.
  alpha = 1e-7 * vanishing_alpha(k, loss, ids)
  limit = ridge_form(k, loss, ids, alpha=alpha, d_out=2)
  g, g_limit = ((k @ a.T) @ (k @ a.T).T for a in (m, limit))
  np.testing.assert_allclose(g, g_limit, atol=1e-5)


@pytest.mark.parametrize("d_out", [3, 5])
def test_without_invariance_all_directions_tie(d_out):
  """At beta = 0 also those within images, more than there are images."""
  _, views, *_ = draw()
  x = views[:4].reshape(-1, 4)
  k, ids = rbf(x, x) + 0.01 * np.eye(12), np.repeat(np.arange(4), 3)
  loss = NonContrastive(0.0)
  m = cases.optimum(k, loss, ids, d_out=d_out, alpha=0.0)
  np.testing.assert_allclose(
    loss.of_embedding(k @ m.T, ids), loss.minimum(ids, d_out), atol=1e-9
  )
  alpha = 1e-7 * vanishing_alpha(k, loss, ids)
  limit = ridge_form(k, loss, ids, alpha=alpha, d_out=d_out)
  centre = np.eye(12) - 1 / 12
  z, z_limit = (centre @ k @ a.T for a in (m, limit))
  np.testing.assert_allclose(z @ z.T, z_limit @ z_limit.T, atol=1e-5)


def test_only_eigenvalues_that_tie_at_the_end_are_turned():
  k = np.diag([1.0, 2.0, 4.0, 8.0])
  top = Eigenpairs(np.array([3.0, 3.0, 1.0, 1.0]), np.eye(4))
  found = cases.smoothest(k, top, 3)
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
  m = cases.optimum(k, loss, ids, d_out=d_out, alpha=0.0)
  assert m.shape == (d_out, 12)
  np.testing.assert_allclose(
    loss.of_embedding(k @ m.T, ids), loss.minimum(ids, d_out), atol=1e-9
  )


# ---- A row -------------------------------------------------------------------


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
  k += KERNELS.jitter * np.trace(k) / len(k) * np.eye(len(k))
  loss = Contrastive() if case.beta is None else NonContrastive(case.beta)
  # All directions between images, and none within.
  top = len({*of}) - loss.shift_invariant
  if case.alpha:
    alpha = case.alpha * vanishing_alpha(k, loss, of)
    m = ridge_form(k, loss, of, alpha=alpha, d_out=top)
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
    Case("raw", 18),
    Case("raw", 9),
    Case("raw_augmented", 18, views=2),
    Case("contrastive", 18, views=3, alpha=0.0),
    Case("contrastive", 9, views=2, alpha=0.01),
    Case("non_contrastive", 18, views=2, beta=0.4, alpha=0.0),
    Case("non_contrastive", 18, views=2, beta=0.4, alpha=0.01),
    Case("supervised", 9, views=2, alpha=0.0),
  ],
  ids=lambda c: "-".join(map(str, c)),
)
def test_accuracies_are_those_of_the_kernel(found, case):
  row = cases.row(found, case, KERNELS)
  k, k_test, ids = by_hand(case)
  embedded = (
    cases.embed(found, case, KERNELS) if "raw" not in case.features else None
  )
  got, got_test, _ = cases.on_images(found, case, embedded)
  np.testing.assert_allclose(got, k, rtol=1e-6, atol=1e-8)
  np.testing.assert_allclose(got_test, k_test, rtol=1e-6, atol=1e-8)
  for name, accuracy in (("svm", svm_accuracy), ("ridge", ridge_accuracy)):
    expected = accuracy(
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
  assert row["case"] == case._asdict()
  assert row["seconds"] > 0


@pytest.mark.parametrize("features", ["contrastive", "non_contrastive"])
@pytest.mark.parametrize("alpha", [0.0, 0.05])
def test_measures_of_an_embedding(found, features, alpha):
  case = cases.case(features, KERNELS, LOSS, alpha=alpha)
  row = cases.row(found, case, KERNELS)["embedding"]
  induced = cases.embed(found, case, KERNELS)
  k = found.k[np.ix_(induced.at, induced.at)]
  k = k + KERNELS.jitter * np.trace(k) / len(k) * np.eye(len(k))
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
  z_test = found.k_test[:, induced.at] @ induced.m.T
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


def test_an_optimum_of_nothing_has_no_accuracy(found, monkeypatch):
  monkeypatch.setattr(
    cases, "optimum", lambda k, *a, d_out, **b: np.zeros((d_out, len(k)))
  )
  case = cases.case("contrastive", KERNELS, LOSS)
  row = cases.row(found, case, KERNELS)
  assert row["svm"] is row["ridge"] is None
  assert row["embedding"]["rank"] == row["embedding"]["target_alignment"] == 0


def test_a_case_that_cannot_be_done_leaves_its_reason(found):
  case = cases.case("contrastive", KERNELS, LOSS)
  done = cases.row_or_reason(found, case, KERNELS)
  assert done["not_done"] is None
  assert done["svm"] == cases.row(found, case, KERNELS)["svm"]
  # The ridge takes 10 matrices of N x N, and raw kernels none.
  tight = dataclasses.replace(KERNELS, memory_limit_gib=5 * 36**2 * 8 / 2**30)
  row = cases.row_or_reason(found, case, tight)
  assert re.match("the ridge of N=36 .* N=25 would fit", row["not_done"])
  assert row.keys() == done.keys()
  assert row["case"] == case._asdict()
  assert row["svm"] is row["ridge"] is row["embedding"] is None
  raw = cases.case("raw", KERNELS, LOSS)
  assert cases.row_or_reason(found, raw, tight)["not_done"] is None


def test_folds_are_fewer_where_labels_are(found):
  kernels = Kernels(images=IMAGES, folds=5)
  assert cases.folds_of(found, 18, kernels) == 5
  assert cases.folds_of(found, 9, kernels) == 3
  with pytest.raises(ValueError, match=r"kernels\.sweep_labels: of 4 labelled"):
    cases.folds_of(found, 4, kernels)
