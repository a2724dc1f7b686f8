import dataclasses

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from oracles import probe as oracle

from jssl.config.schema import Probe
from jssl.probe import linear, mlp, splits
from jssl.probe.features import Features, scaling
from jssl.probe.mlp import Layer, Member

SWEEP = {
  "learning_rates": (1e-3, 1e-2),
  "l2_values": (1e-4, 1.0),
  "hidden_dims": (16,),
}


def settings(batch_size=64, epochs=10, min_steps=0):
  return Probe(
    seeds=2,
    validation_fraction=0.2,
    minibatch_size=batch_size,
    minibatch_epochs=epochs,
    minibatch_min_steps=min_steps,
  )


def test_loss_equals_a_loop(x64, train):
  del x64
  rng = np.random.default_rng(0)
  layers = [
    Layer(rng.normal(size=(6, 5)), rng.normal(size=5)),
    Layer(rng.normal(size=(5, 4)), rng.normal(size=4)),
  ]
  x, y = train.h[:20].astype(np.float64), train.labels[:20]
  weights = rng.integers(0, 2, 20).astype(np.float64)
  found = mlp._loss(
    tuple(layers), Member(np.float64(1), np.float64(0.3)), x, y, weights
  )
  np.testing.assert_allclose(
    found, oracle.mlp_loss(layers, x, y, weights, 0.3), rtol=1e-12
  )


def test_hidden_weights_start_as_he_and_outputs_at_zero():
  hidden, output = mlp.init(jax.random.key(0), (200, 300, 7))
  np.testing.assert_allclose(np.std(hidden.w), np.sqrt(2 / 200), rtol=0.02)
  assert output.w.shape == (300, 7)
  assert not np.any(output.w)


def test_held_out_rows_are_not_learned_from(train, one_device):
  scale = scaling(train.h)
  fitted = np.random.default_rng(0).random((2, len(train.labels))) < 0.5
  labels = train.labels.copy()
  hidden_from_all = ~fitted.any(0)
  labels[hidden_from_all] = 3 - labels[hidden_from_all]
  members = Member(np.full((2, 1), 1e-2, "f"), np.full((2, 1), 1e-4, "f"))
  one, two = (
    mlp.fit(
      Features(train.h, y, 4),
      scale,
      fitted,
      members,
      hidden_dims=(16,),
      settings=settings(64, 3, 0),
      mesh=one_device,
    )
    for y in (train.labels, labels)
  )
  for a, b in zip(jax.tree.leaves(one), jax.tree.leaves(two), strict=True):
    np.testing.assert_array_equal(a, b)


def test_each_member_is_trained_as_if_alone(train, one_device):
  scale = scaling(train.h)
  everything = np.ones((2, len(train.labels)), bool)

  def trained(rates):
    return mlp.fit(
      train,
      scale,
      everything,
      Member(np.array([rates] * 2, "f"), np.full((2, len(rates)), 1e-3, "f")),
      hidden_dims=(16,),
      settings=settings(64, 3, 0),
      mesh=one_device,
    )

  four, alone = trained([1e-4, 1e-3, 3e-3, 1e-2]), trained([1e-2])
  for a, b in zip(jax.tree.leaves(four), jax.tree.leaves(alone), strict=True):
    np.testing.assert_allclose(a[:, 3:], b, atol=1e-5)


def test_an_mlp_learns_what_no_linear_probe_can(one_device):
  def xor(seed, rows=400):
    rng = np.random.default_rng(seed)
    h = rng.normal(size=(rows, 2)).astype(np.float32)
    h[np.abs(h) < 0.2] += 0.4
    return Features(h, ((h[:, 0] > 0) ^ (h[:, 1] > 0)).astype(np.int32), 2)

  train, test = xor(0), xor(1)
  scale = scaling(train.h)
  everything = np.ones((1, 400), bool)
  networks = mlp.fit(
    train,
    scale,
    everything,
    Member(np.full((1, 1), 1e-2, "f"), np.full((1, 1), 1e-4, "f")),
    hidden_dims=(16,),
    settings=settings(64, 60, 0),
    mesh=one_device,
  )
  assert mlp.accuracy(networks, test, scale, everything).item() > 0.95


def test_linear_in_minibatches_is_as_good_as_in_full_batch(
  train, test, one_device
):
  l2_values = (1e-4, 1e-2, 1e-1, 1.0)
  full = linear.probe(
    train,
    test,
    dataclasses.replace(
      settings(),
      linear_l2_values=l2_values,
      linear_tolerance=1e-4,
      linear_max_iterations=500,
    ),
    mesh=one_device,
  )
  small = mlp.probe(
    train,
    test,
    settings(epochs=100),
    mesh=one_device,
    learning_rates=(1e-2,),
    l2_values=l2_values,
    hidden_dims=(),
  )
  np.testing.assert_allclose(small.test_accuracy, full.test_accuracy, atol=0.03)


def test_the_test_set_has_no_say_in_the_choice(train, test, one_device):
  labels = np.random.default_rng(0).permutation(test.labels)
  one, two = (
    mlp.probe(train, t, settings(), mesh=one_device, **SWEEP)
    for t in (test, test._replace(labels=labels))
  )
  assert one.chosen == two.chosen
  assert one.chosen["l2"] == [1e-4, 1e-4]
  np.testing.assert_array_equal(
    one.validation_accuracy, two.validation_accuracy
  )
  assert np.all(one.test_accuracy > two.test_accuracy)


def test_eight_devices_equal_one_and_files_equal_memory(
  train, test, one_device, eight_devices, tmp_path
):
  np.save(tmp_path / "h.npy", train.h)
  mapped = train._replace(h=np.load(tmp_path / "h.npy", mmap_mode="r"))
  # Few steps: eight devices of one processor wait for each other.
  one, eight = (
    mlp.probe(t, test, settings(epochs=1), mesh=mesh, **SWEEP)
    for t, mesh in ((train, one_device), (mapped, eight_devices))
  )
  assert one.chosen == eight.chosen
  np.testing.assert_allclose(
    one.test_accuracy, eight.test_accuracy, atol=1.5 / len(test.labels)
  )


def test_few_labels_see_only_their_subset(train, test, one_device):
  drawn = [splits.subset(train.labels, fraction=0.2, seed=s) for s in range(2)]
  unseen = np.setdiff1d(np.arange(len(train.labels)), np.concatenate(drawn))
  i = unseen[0]
  j = unseen[train.labels[unseen] != train.labels[i]][0]
  h = train.h.copy()
  h[[i, j]] = h[[j, i]]
  one, two = (
    mlp.probe(t, test, settings(), mesh=one_device, label_fraction=0.2, **SWEEP)
    for t in (train, train._replace(h=h))
  )
  assert one.chosen == two.chosen
  np.testing.assert_allclose(one.test_accuracy, two.test_accuracy, atol=1e-6)


def test_accuracy_counts_the_counted_rows_only(train):
  perfect = (Layer(jnp.eye(4)[None, None], jnp.zeros((1, 1, 4))),)
  h = np.eye(4, dtype=np.float32)[train.labels]
  wrong = np.arange(len(h)) % 3 == 0
  h[wrong] = -h[wrong]
  features = Features(h, train.labels, 4)

  def same(h):
    return h

  right = mlp.accuracy(perfect, features, same, ~wrong[None])
  np.testing.assert_array_equal(right, [[1.0]])
  all_rows = mlp.accuracy(perfect, features, same, np.ones_like(wrong)[None])
  np.testing.assert_allclose(all_rows, (~wrong).mean(), rtol=1e-6)


def test_fewer_rows_than_devices_are_refused(train, eight_devices):
  few = Features(train.h[:6], np.array([0, 0, 1, 1, 0, 1], np.int32), 2)
  with pytest.raises(
    ValueError, match="is smaller than the number of devices, 8"
  ):
    mlp.probe(few, few, settings(), mesh=eight_devices, **SWEEP)
