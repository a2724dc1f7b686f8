import dataclasses

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from oracles import probe as oracle

from jssl.config.schema import Probe
from jssl.probe import linear, splits
from jssl.probe.features import Features, scaling

SETTINGS = Probe(
  seeds=2,
  linear_l2_values=(1e-4, 1e-2, 1e-1, 1.0),
  validation_fraction=0.2,
  linear_tolerance=1e-4,
  linear_max_iterations=500,
)


def fitted(x, labels, weights, l2, num_classes, **settings):
  settings = {"tolerance": 1e-10, "max_iterations": 5000, **settings}
  return linear.fit(
    jnp.asarray(x.T),
    jnp.asarray(labels),
    jnp.asarray(weights),
    l2,
    num_classes=num_classes,
    **settings,
  )


@pytest.mark.parametrize("l2", [1e-3, 1e-1, 10.0])
def test_fit_equals_newtons_method(x64, train, l2):
  del x64
  rng = np.random.default_rng(0)
  weights = rng.integers(0, 3, len(train.labels)).astype(np.float64)
  x = train.h.astype(np.float64)
  model = fitted(x, train.labels, weights, l2, 4)
  w, b = oracle.logistic_regression(x, train.labels, weights, l2, 4)
  np.testing.assert_allclose(model.w, w, atol=1e-8)
  np.testing.assert_allclose(model.b, b, atol=1e-7)


def test_fit_in_float32_is_near_the_optimum(train):
  x = scaling(train.h)(train.h)
  ones = np.ones(len(x), np.float32)
  model = fitted(
    x, train.labels, ones, 1e-3, 4, tolerance=1e-3, max_iterations=200
  )
  w, b = oracle.logistic_regression(x, train.labels, ones, 1e-3, 4)

  def objective(w, b):
    layers = [(np.asarray(w, np.float64).T, np.asarray(b, np.float64))]
    return oracle.mlp_loss(layers, x, train.labels, ones, 1e-3)

  assert 0 <= objective(*model) - objective(w, b) < 1e-4


def test_rows_without_weight_do_not_matter(x64, train):
  del x64
  x, y = train.h.astype(np.float64), train.labels
  half = np.arange(len(y)) % 2 == 0
  some = fitted(x, y, half.astype(float), 1e-2, 4)
  alone = fitted(x[half], y[half], np.ones(half.sum()), 1e-2, 4)
  np.testing.assert_allclose(some.w, alone.w, atol=1e-9)


def test_more_dimensions_than_rows_and_a_constant_one(x64, train):
  del x64
  x = train.h[:10].astype(np.float64)
  x[:, 3] = 0
  y = train.labels[:10]
  model = fitted(x, y, np.ones(10), 1e-2, 4)
  w, _ = oracle.logistic_regression(x, y, np.ones(10), 1e-2, 4)
  np.testing.assert_allclose(model.w, w, atol=1e-8)


def test_separable_classes_and_an_absent_one_stay_finite():
  x = np.array([[-1.0], [1.0]], np.float32).repeat(4, 0)
  y = np.array([0, 1]).repeat(4)
  model = fitted(
    x, y, np.ones(8, np.float32), 1e-6, 3, tolerance=0, max_iterations=300
  )
  assert np.all(np.isfinite(model.w))
  assert np.all(np.isfinite(model.b))
  predicted = np.argmax(model(jnp.asarray(x.T)), 0)
  np.testing.assert_array_equal(predicted, y)


@pytest.mark.parametrize("label_fraction", [1.0, 0.2])
def test_eight_devices_equal_one(
  train, test, one_device, eight_devices, label_fraction
):
  # Few iterations: eight devices of one processor wait for each other.
  settings = dataclasses.replace(SETTINGS, linear_max_iterations=20)
  results = [
    linear.probe(
      train, test, settings, mesh=mesh, label_fraction=label_fraction
    )
    for mesh in (one_device, eight_devices)
  ]
  assert results[0].chosen == results[1].chosen
  for field in ("test_accuracy", "validation_accuracy"):
    one, eight = (getattr(result, field) for result in results)
    np.testing.assert_allclose(one, eight, atol=1.5 / len(test.labels))


def by_hand(train, test, seed):
  """The protocol with the oracle as its classifier."""
  scale = scaling(train.h)
  x, x_test = scale(train.h), scale(test.h)
  held = splits.hold_out(train.labels, fraction=0.2, seed=seed)

  def accuracy(l2, fit, on_x, on_y):
    w, b = oracle.logistic_regression(x, train.labels, fit, l2, 4)
    return np.mean(np.argmax(on_x @ w.T + b, 1) == on_y)

  scores = [
    accuracy(l2, ~held, x[held], train.labels[held])
    for l2 in SETTINGS.linear_l2_values
  ]
  best = int(np.argmax(scores))
  l2 = SETTINGS.linear_l2_values[best]
  return scores[best], l2, accuracy(l2, np.ones(len(x)), x_test, test.labels)


def test_probe_chooses_within_train_and_refits_all_of_it(
  train, test, one_device
):
  found = linear.probe(train, test, SETTINGS, mesh=one_device)
  for seed in range(2):
    validation, l2, accuracy = by_hand(train, test, seed)
    assert found.chosen["l2"][seed] == l2
    np.testing.assert_allclose(found.validation_accuracy[seed], validation)
    np.testing.assert_allclose(
      found.test_accuracy[seed], accuracy, atol=1.5 / len(test.labels)
    )


@pytest.mark.parametrize("label_fraction", [1.0, 0.2])
def test_the_test_set_has_no_say_in_the_choice(
  train, test, one_device, label_fraction
):
  rng = np.random.default_rng(0)
  other = Features(rng.permutation(test.h) * 3, rng.permutation(test.labels), 4)
  one, two = (
    linear.probe(
      train, t, SETTINGS, mesh=one_device, label_fraction=label_fraction
    )
    for t in (test, other)
  )
  assert one.chosen == two.chosen
  np.testing.assert_array_equal(
    one.validation_accuracy, two.validation_accuracy
  )
  assert np.all(one.test_accuracy != two.test_accuracy)


def test_few_labels_see_only_their_subset(train, test, one_device):
  drawn = [splits.subset(train.labels, fraction=0.2, seed=s) for s in range(2)]
  unseen = np.setdiff1d(np.arange(len(train.labels)), np.concatenate(drawn))
  # Two rows of different classes swap labels and features: for who looks at
  # the subset alone, and for the mean and deviation of all, nothing changes.
  i = unseen[0]
  j = unseen[train.labels[unseen] != train.labels[i]][0]
  h = train.h.copy()
  h[[i, j]] = h[[j, i]]
  results = [
    linear.probe(t, test, SETTINGS, mesh=one_device, label_fraction=0.2)
    for t in (train, train._replace(h=h))
  ]
  np.testing.assert_allclose(
    results[0].test_accuracy, results[1].test_accuracy, atol=1e-6
  )
  full = linear.probe(train, test, SETTINGS, mesh=one_device)
  assert results[0].test_accuracy.mean() < full.test_accuracy.mean()


def test_the_random_part_is_the_split(train, test, one_device):
  found = linear.probe(train, test, SETTINGS, mesh=one_device)
  assert len(set(found.validation_accuracy.tolist())) > 1
  again = linear.probe(train, test, SETTINGS, mesh=one_device)
  np.testing.assert_array_equal(found.test_accuracy, again.test_accuracy)


def test_constant_features_give_chance(one_device):
  y = (np.arange(80) % 4).astype(np.int32)
  same = Features(np.full((80, 6), 0.1, np.float32), y, 4)
  found = linear.probe(same, same, SETTINGS, mesh=one_device)
  np.testing.assert_allclose(found.test_accuracy, 0.25)


def test_the_whole_sweep_is_one_matmul(train):
  x = jnp.asarray(train.h.T)
  y = jnp.asarray(train.labels)
  weights = jnp.ones(len(y))

  def sweep(x):
    return jax.vmap(
      lambda l2: linear.fit(
        x, y, weights, l2, num_classes=4, tolerance=0.0, max_iterations=3
      )
    )(jnp.arange(1.0, 9.0))

  # Each product with x has it once: no member holds a copy.
  jaxpr = str(jax.make_jaxpr(sweep)(x))
  assert "f32[8,6,302]" not in jaxpr
  assert "f32[6,302]" in jaxpr
