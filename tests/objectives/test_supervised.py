"""Classification: labels that are missing, and mixed images."""

import dataclasses

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from objectives import oracle
from objectives.cases import BY_NAME, SPEC, B, D, point

from jssl.models.tokens import Encoded, Spec
from jssl.objectives import Features, Supervised

CASE = BY_NAME["supervised"]
POINT = point(CASE)


def loss_of(labels, own_weight=None, smoothing=0.2):
  """Returns the loss, its gradient and the metrics."""
  objective = dataclasses.replace(CASE.objective, label_smoothing=smoothing)

  def loss(params, h):
    features = Features((Encoded(h),), own_weight=own_weight)
    features = features.with_labels(jnp.asarray(labels))
    value, aux = objective.loss(params, {}, features)
    return value, aux.metrics

  both = jax.value_and_grad(loss, argnums=(0, 1), has_aux=True)
  (value, metrics), gradient = both(POINT.params, POINT.student[0])
  return float(value), gradient, metrics


@pytest.mark.parametrize("smoothing", [0.0, 0.2])
@pytest.mark.parametrize("missing", [[], [2, 5]])
def test_without_mixing_equals_oracle(smoothing, missing):
  labels = np.arange(B, dtype=np.int32) % SPEC.num_classes
  labels[missing] = -1
  objective = dataclasses.replace(CASE.objective, label_smoothing=smoothing)
  at = POINT._replace(labels=labels, own_weight=np.ones((2, B)))
  got, (_, of_features), metrics = loss_of(labels, smoothing=smoothing)
  np.testing.assert_allclose(got, oracle.supervised(objective, at, at), 1e-5)
  has_gradient = np.abs(of_features).sum((0, 2)) > 0
  np.testing.assert_array_equal(has_gradient, labels >= 0)
  layer = POINT.params["classifier"]
  logits = POINT.student[0] @ layer["kernel"] + layer["bias"]
  right = (logits.argmax(-1) == labels)[:, labels >= 0]
  np.testing.assert_allclose(metrics["accuracy"], right.mean(), 1e-6)


def test_labels_of_the_image_alone_if_nothing_is_mixed_in():
  labels = np.arange(B, dtype=np.int32) % SPEC.num_classes
  plain, mixed = (loss_of(labels, w) for w in (None, jnp.ones((2, B))))
  np.testing.assert_allclose(mixed[0], plain[0], rtol=1e-6)
  reverse = loss_of(labels, jnp.zeros((2, B)))[0]
  np.testing.assert_allclose(reverse, loss_of(labels[::-1])[0], rtol=1e-6)


@pytest.mark.parametrize("own_weight", [None, jnp.full((2, B), 0.3)])
def test_a_batch_without_labels_has_no_loss(own_weight):
  value, gradient, metrics = loss_of(np.full(B, -1, np.int32), own_weight)
  assert value == metrics["accuracy"] == 0
  for leaf in jax.tree.leaves(gradient):
    np.testing.assert_array_equal(leaf, np.zeros_like(leaf))


def test_the_classifier_starts_small():
  spec = Spec(384, num_classes=1000)
  params, _ = Supervised().init(jax.random.key(0), spec)
  kernel = params["classifier"]["kernel"]
  assert kernel.shape == (384, 1000)
  assert 1.5e-5 < kernel.std() < 2.1e-5
  assert not params["classifier"]["bias"].any()


def test_labels_are_required():
  with pytest.raises(ValueError, match=r"labels \(data.name\).*num_classes=0"):
    Supervised().init(jax.random.key(0), Spec(D))
  features = Features((Encoded(jnp.zeros((1, B, D))),))
  with pytest.raises(ValueError, match='"supervised" needs a data set with'):
    Supervised().loss(POINT.params, {}, features)
