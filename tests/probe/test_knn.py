import dataclasses

import jax.numpy as jnp
import numpy as np
from oracles import probe as oracle

from jssl.config.schema import Probe
from jssl.probe import knn, splits
from jssl.probe.features import Features

SETTINGS = Probe(
  seeds=2,
  knn_neighbours=(1, 5, 20),
  knn_temperatures=(0.02, 0.07),
  validation_fraction=0.2,
)


def test_votes_of_far_neighbours_do_not_underflow():
  rng = np.random.default_rng(0)
  similarity = -np.sort(-rng.uniform(-0.9, 0.6, (100, 9)).astype(np.float32))
  labels = rng.integers(0, 5, (100, 9)).astype(np.int32)
  (found,) = knn.vote(
    jnp.asarray(similarity),
    jnp.asarray(labels),
    neighbours=(9,),
    temperatures=(0.005,),
    num_classes=5,
  )[1:]
  wide = similarity.astype(np.float64)
  weights = np.exp((wide - wide[:, :1]) / 0.005)
  hit = labels[..., None] == np.arange(5)
  np.testing.assert_array_equal(
    found, np.sum(weights[..., None] * hit, 1).argmax(1)
  )


def test_votes_equal_a_loop():
  rng = np.random.default_rng(0)
  similarity = -np.sort(-rng.uniform(0.5, 1, (30, 9)).astype(np.float32))
  labels = rng.integers(0, 3, (30, 9)).astype(np.int32)
  found = knn.vote(
    jnp.asarray(similarity),
    jnp.asarray(labels),
    neighbours=(2, 5, 9),
    temperatures=(0.02, 0.07),
    num_classes=3,
  )
  members = [(k, t) for k in (2, 5, 9) for t in (None, 0.02, 0.07)]
  for member, (k, temperature) in zip(found, members, strict=True):
    for q in range(30):
      ranked = [(similarity[q, i], i) for i in range(k)]
      assert member[q] == oracle.vote(ranked, labels[q], temperature, 3)


def test_neighbours_that_are_not_there_have_no_vote():
  similarity = jnp.array([[0.2, -jnp.inf, -jnp.inf]])
  labels = jnp.array([[2, 0, 0]])
  found = knn.vote(
    similarity,
    labels,
    neighbours=(3,),
    temperatures=(0.02, 0.07),
    num_classes=3,
  )
  np.testing.assert_array_equal(found, [[2], [2], [2]])


def by_hand(train, test, seed):
  held = splits.hold_out(train.labels, fraction=0.2, seed=seed)
  mean, std = train.h.mean(0), train.h.std(0)
  spaces = [lambda h: h.astype(np.float64), lambda h: (h - mean) / std]

  def accuracies(queries, targets, rows):
    labels = train.labels[rows]
    right = np.zeros((len(queries), 2, 3, 3))
    for s, space in enumerate(spaces):
      bank = space(train.h[rows])
      for i, query in enumerate(space(queries)):
        ranked = oracle.nearest(query, bank, 20)
        for j, k in enumerate((1, 5, 20)):
          for t, temperature in enumerate((None, 0.02, 0.07)):
            winner = oracle.vote(ranked[:k], labels, temperature, 4)
            right[i, s, j, t] = winner == targets[i]
    return right.mean(0).reshape(-1)

  validation = accuracies(train.h[held], train.labels[held], ~held)
  best = int(np.argmax(validation))
  everything = np.ones(len(train.labels), bool)
  return (
    validation[best],
    best,
    accuracies(test.h, test.labels, everything)[best],
  )


def test_probe_chooses_within_train_and_tests_with_all_of_it(
  train, test, one_device
):
  found = knn.probe(train, test, SETTINGS, mesh=one_device)
  for seed in range(2):
    validation, best, accuracy = by_hand(train, test, seed)
    np.testing.assert_allclose(found.validation_accuracy[seed], validation)
    votes = ("majority", "exp(s / 0.02)", "exp(s / 0.07)")
    scale, k, vote = np.unravel_index(best, (2, 3, 3))
    assert found.chosen["scale"][seed] == ("none", "standardised")[scale]
    assert found.chosen["neighbours"][seed] == (1, 5, 20)[k]
    assert found.chosen["vote"][seed] == votes[vote]
    np.testing.assert_allclose(found.test_accuracy[seed], accuracy)


def test_the_test_set_has_no_say_in_the_choice(train, test, one_device):
  labels = np.random.default_rng(0).permutation(test.labels)
  one, two = (
    knn.probe(train, t, SETTINGS, mesh=one_device)
    for t in (test, test._replace(labels=labels))
  )
  assert one.chosen == two.chosen
  np.testing.assert_array_equal(
    one.validation_accuracy, two.validation_accuracy
  )
  assert np.all(one.test_accuracy > two.test_accuracy)


def test_eight_devices_equal_one(train, test, one_device, eight_devices):
  one, eight = (
    knn.probe(train, test, SETTINGS, mesh=mesh)
    for mesh in (one_device, eight_devices)
  )
  assert one.chosen == eight.chosen
  np.testing.assert_allclose(one.test_accuracy, eight.test_accuracy, atol=0.01)


def test_more_neighbours_than_rows_are_all_rows(one_device):
  y = np.array([0, 0, 1, 1, 0, 1], np.int32)
  h = np.stack([1.0 - 2 * y, np.arange(6) / 10], 1).astype(np.float32)
  few = Features(h, y, 2)
  settings = dataclasses.replace(SETTINGS, knn_neighbours=(1, 200))
  found = knn.probe(few, few, settings, mesh=one_device)
  np.testing.assert_array_equal(found.test_accuracy, 1.0)
