import itertools
from collections import Counter
from functools import partial

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from oracles import augment as oracle
from scipy import stats

from jssl.augment import colour

NAMES = ("brightness", "contrast", "saturation", "hue")
ALL = dict.fromkeys(NAMES, 0.4)


def _keys(n, seed=0):
  return jax.random.split(jax.random.key(seed), n)


def _images(n, channels, seed=0):
  """Random colours, and corner cases where hue is undefined or ambiguous."""
  images = np.random.default_rng(seed).random((n, 6, 7, channels))
  images[:, 0] = np.round(images[:, 0])
  images[:, 1] = images[:, 1, :, :1]
  return images


def _in_order(image, order, factors):
  slots = {name: jnp.array(order.index(name)) for name in order}
  planes = jnp.moveaxis(jnp.asarray(image), -1, 0)
  planes = colour.jitter_in_order(planes, slots, factors)
  return jnp.moveaxis(planes, 0, -1)


def test_all_24_orders_equal_the_loops(x64):
  image = _images(1, 3)[0]
  factors = dict(zip(NAMES, (1.35, 0.7, 1.6, -0.17), strict=True))
  run = jax.jit(
    lambda slots: colour.jitter_in_order(
      jnp.moveaxis(jnp.asarray(image), -1, 0), slots, factors
    )
  )
  for order in itertools.permutations(NAMES):
    got = run({name: jnp.array(order.index(name)) for name in NAMES})
    want = image
    for name in order:
      want = oracle.COLOUR[name](want, factors[name])
    np.testing.assert_allclose(
      jnp.moveaxis(got, 0, -1), want, rtol=0, atol=1e-12
    )


@pytest.mark.parametrize("order", list(itertools.permutations(NAMES[:3], 2)))
def test_orders_without_hue_equal_the_loops(x64, order):
  image = _images(1, 3)[0]
  factors = {order[0]: 1.5, order[1]: 0.6}
  want = image
  for name in order:
    want = oracle.COLOUR[name](want, factors[name])
  got = _in_order(image, order, factors)
  np.testing.assert_allclose(got, want, rtol=0, atol=1e-12)


@pytest.mark.parametrize("order", [NAMES[:2], NAMES[1::-1]])
def test_gray_images_in_either_order_equal_the_loops(x64, order):
  image = _images(1, 1)[0]
  factors = {"brightness": 1.4, "contrast": 0.5}
  want = image
  for name in order:
    want = oracle.COLOUR[name](want, factors[name])
  got = _in_order(image, order, factors)
  np.testing.assert_allclose(got, want, rtol=0, atol=1e-12)


@pytest.mark.parametrize("shift", [-0.5, -0.2, 0.0, 0.1, 1 / 3, 0.5])
def test_hue_equals_the_loops(x64, shift):
  image = _images(1, 3)[0]
  got = colour.shift_hue(jnp.moveaxis(jnp.asarray(image), -1, 0), shift)
  np.testing.assert_allclose(
    jnp.moveaxis(got, 0, -1), oracle.hue(image, shift), rtol=0, atol=1e-12
  )


def test_hue_stays_in_the_unit_interval_in_float32():
  planes = jax.random.uniform(jax.random.key(0), (3, 200, 200))
  turned = colour.shift_hue(planes, 0.37)
  assert turned.min() >= 0
  assert turned.max() <= 1


def test_grayscale_equals_the_loops(x64):
  images = _images(3, 3)
  got = colour.grayscale(jnp.asarray(images))
  for one, image in zip(got, images, strict=True):
    np.testing.assert_allclose(one, oracle.grayscale(image), rtol=0, atol=1e-12)


@pytest.mark.parametrize(
  "function",
  [
    partial(
      colour.jitter,
      probability=1.0,
      **(ALL | {"brightness": 0.0, "contrast": 0.0}),
    ),
    partial(colour.jitter, probability=0.0, **ALL),
  ],
  ids=["saturation and hue", "probability 0"],
)
def test_gray_images_do_not_change(function):
  images = jnp.asarray(_images(4, 1))
  np.testing.assert_array_equal(function(_keys(4), images), images)


def test_probability_of_jitter():
  images = jnp.asarray(_images(1, 3)).repeat(2000, axis=0)
  function = jax.jit(partial(colour.jitter, probability=0.3, **ALL))
  changed = (function(_keys(2000), images) != images).any((1, 2, 3))
  assert stats.binomtest(int(changed.sum()), 2000, 0.3).pvalue > 1e-3


def test_factors_are_uniform():
  # Nothing clips at this brightness, so the mean determines the factor.
  images = jnp.full((3000, 1, 1, 1), 0.3)
  off = dict.fromkeys(NAMES[1:], 0.0)
  for strength, low, width in ((0.4, 0.6, 0.8), (1.5, 0.0, 2.5)):
    got = colour.jitter(
      _keys(3000), images, probability=1.0, brightness=strength, **off
    )
    factor = np.asarray(got)[:, 0, 0, 0] / 0.3
    assert stats.kstest(factor, stats.uniform(low, width).cdf).pvalue > 1e-3


def test_hue_shifts_are_uniform():
  red = jnp.zeros((3000, 1, 1, 3)).at[..., 0].set(1.0)
  off = dict.fromkeys(NAMES[:3], 0.0)
  got = colour.jitter(_keys(3000), red, probability=1.0, hue=0.1, **off)
  _, _, _, green, blue = 0, 0, 0, *np.asarray(got)[:, 0, 0, 1:].T
  shift = (green - blue) / 6
  assert stats.kstest(shift, stats.uniform(-0.1, 0.2).cdf).pvalue > 1e-3


def test_all_24_orders_are_equally_likely(monkeypatch):
  slots_of_all = []

  def record(planes, slots, factors):
    slots_of_all.append(jnp.stack([slots[name] for name in NAMES]))
    return jnp.zeros_like(planes) + slots_of_all.pop().reshape(4, 1, 1)[:3]

  monkeypatch.setattr(colour, "jitter_in_order", record)
  n = 4800
  got = colour.jitter(_keys(n), jnp.zeros((n, 1, 1, 3)), probability=1.0, **ALL)
  # The positions of three operations determine that of the fourth.
  counts = Counter(map(tuple, np.asarray(got)[:, 0, 0].astype(int).tolist()))
  assert set(counts) == set(itertools.permutations(range(4), 3))
  assert stats.chisquare(list(counts.values())).pvalue > 1e-3
