"""Views that diagnostics look at: drawn once, whatever looks at them."""

import dataclasses

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jssl import rng
from jssl.augment import Augment, views
from jssl.data.source import InMemory
from jssl.probe import sample

AUGMENT = Augment(
  crop_size_px=6,
  crop_min_area=0.3,
  flip_probability=0.5,
  blur_probability=(1.0, 0.1),
  num_small=2,
  small_crop_size_px=4,
)


@pytest.fixture(scope="module")
def source():
  draw = np.random.default_rng(0)
  images = draw.integers(0, 256, (23, 8, 8, 1), np.uint8)
  labels = (np.arange(23) % 3).astype(np.int32)
  return InMemory("tiny", tuple("abc"), images, labels)


ROWS = np.linspace(0, 22, 10).astype(int)


def drawn(source, mesh, rows=ROWS, num_views=4):
  return sample.draw_sample(
    source, source.labels, rows, AUGMENT, num_views=num_views, seed=5, mesh=mesh
  )


def flat(x):
  return x.reshape(len(x), -1)


def test_views_are_those_of_the_images(source, one_device):
  of = drawn(source, one_device)
  np.testing.assert_array_equal(of.images, source.images[ROWS])
  np.testing.assert_array_equal(of.labels, source.labels[ROWS])
  key = rng.stream(jax.random.key(5), "diagnostics")
  keys = jax.vmap(jax.random.fold_in, (None, 0))(key, ROWS)
  # The two probabilities of the blur in turn, and no small crop.
  augment = Augment(
    crop_size_px=6,
    crop_min_area=0.3,
    flip_probability=0.5,
    blur_probability=(1.0, 0.1, 1.0, 0.1),
    solarize_probability=(0.0,),
  )
  (expected,) = views(augment, keys, source.images[ROWS], 4)
  seen = of.map_views(flat, batch_size=100)()
  assert seen.shape == (10, 4, 36)
  np.testing.assert_allclose(
    seen, np.swapaxes(expected, 0, 1).reshape(10, 4, 36), atol=1e-6
  )


def test_neither_batches_nor_devices_nor_more_views_change_them(
  source, one_device, eight_devices
):
  seen = drawn(source, one_device).map_views(flat, batch_size=100)()
  for of, size in [
    (drawn(source, one_device), 12),
    (drawn(source, eight_devices), 1),
    (drawn(source, one_device, num_views=6), 30),
  ]:
    again = of.map_views(flat, batch_size=size)()
    np.testing.assert_allclose(again[:, :4], seen, atol=1e-6)


def test_arguments_are_arguments(source, one_device):
  see = drawn(source, one_device).map_views(
    lambda x, scale: scale * flat(x), batch_size=16
  )
  np.testing.assert_allclose(see(2.0), 2 * see(1.0), rtol=1e-6)


def test_rows_are_as_many_of_each_class():
  labels = np.random.default_rng(0).permutation(np.arange(1000) % 7)
  rows = sample.balanced_rows(labels, images=140)
  assert np.all(np.diff(rows) > 0)
  np.testing.assert_array_equal(np.bincount(labels[rows]), 20)
  assert rows[-1] > 900


def test_of_many_classes_some_are_looked_at():
  labels = np.repeat(np.arange(500), 30)
  rows = sample.balanced_rows(labels, images=100)
  classes, counts = np.unique(labels[rows], return_counts=True)
  assert len(classes) == 10
  assert classes[-1] == 499
  np.testing.assert_array_equal(counts, 10)


def test_images_weigh_what_their_class_does(one_device):
  labels = np.repeat([0, 1, 2, -1], [30, 10, 100, 5]).astype(np.int32)
  images = np.zeros((145, 8, 8, 1), np.uint8)
  skewed = InMemory("skewed", tuple("abc"), images, labels)
  # All of one class, some of another, and none of the third.
  rows = np.array([0, 5, 30, 31, 32, 33])
  of = drawn(skewed, one_device, rows=rows)
  np.testing.assert_array_equal(of.labels, labels[rows])
  np.testing.assert_allclose(
    of.weights, np.array([3, 3, 0.5, 0.5, 0.5, 0.5]) / 8
  )
  unlabelled = dataclasses.replace(skewed, labels=np.full(145, -1, np.int32))
  np.testing.assert_allclose(
    drawn(unlabelled, one_device, rows=rows).weights, np.full(6, 1 / 6)
  )


def test_a_small_set_is_taken_whole():
  labels = np.array([2, 0, 0, 1, 2, 1])
  np.testing.assert_array_equal(
    sample.balanced_rows(labels, images=1000), np.arange(6)
  )


def test_without_labels_rows_are_even():
  np.testing.assert_array_equal(
    sample.balanced_rows(np.full(9, -1), images=3), [0, 4, 8]
  )
  # Some without: those are passed over.
  labels = np.array([-1, 0, 1, -1, 0, 1])
  np.testing.assert_array_equal(
    sample.balanced_rows(labels, images=4), [1, 2, 4, 5]
  )


def test_large_views_are_looked_at_small(source, one_device):
  draw = np.random.default_rng(0)
  images = draw.integers(0, 256, (4, 64, 64, 3), np.uint8)
  large = InMemory("large", ("a",), images, np.zeros(4, np.int32))
  augment = Augment(crop_size_px=48, crop_min_area=0.5)
  of = sample.draw_sample(
    large,
    large.labels,
    np.arange(4),
    augment,
    num_views=4,
    seed=0,
    mesh=one_device,
  )
  pixels = sample.measure_views(of, batch_size=16)
  assert pixels.pixels.shape == (4, 4, 32 * 32 * 3)
  assert np.ptp(pixels.pixels) > 0.5
  assert pixels.curve.one_minus_sigma[-1] == 0


def test_what_has_no_concentration_says_why(one_device):
  images = np.zeros((3, 8, 8, 1), np.uint8)
  each = InMemory("each", tuple("abc"), images, np.arange(3, dtype=np.int32))
  of = drawn(each, one_device, rows=np.arange(3))
  pixels = sample.measure_views(of, batch_size=16)
  assert pixels.curve is None
  assert "one image" in pixels.no_curve
  assert jnp.shape(pixels.pixels) == (3, 4, 36)


@pytest.mark.parametrize("error", [MemoryError, jax.errors.JaxRuntimeError])
def test_what_has_no_room_says_so(source, one_device, monkeypatch, error):
  def full(*_, **__):
    raise error("out of memory")

  monkeypatch.setattr(sample.diagnostics, "concentration_curve", full)
  pixels = sample.measure_views(drawn(source, one_device), batch_size=16)
  assert pixels.curve is None
  assert pixels.no_curve == "out of memory"
  assert not pixels.identical


def test_an_augmentation_that_does_nothing_is_told(source, one_device):
  whole = Augment(
    crop_size_px=8,
    crop_min_area=1.0,
    crop_ratio_min=1.0,
    crop_ratio_max=1.0,
    flip_probability=0.0,
  )
  of = sample.draw_sample(
    source,
    source.labels,
    ROWS,
    whole,
    num_views=4,
    seed=0,
    mesh=one_device,
  )
  pixels = sample.measure_views(of, batch_size=16)
  assert pixels.identical == pixels.no_curve
  assert "all 4 views of each of 10 images" in pixels.identical
