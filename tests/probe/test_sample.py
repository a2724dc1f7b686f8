"""Views that diagnostics look at: drawn once, whatever looks at them."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jssl import rng
from jssl.augment import Augment, views
from jssl.data.sources import InMemory
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


def drawn(source, mesh, images=10, num_views=4):
  return sample.draw_sample(
    source, AUGMENT, images=images, num_views=num_views, seed=5, mesh=mesh
  )


def flat(x):
  return x.reshape(len(x), -1)


def test_views_are_those_of_the_images(source, one_device):
  of = drawn(source, one_device)
  rows = np.linspace(0, 22, 10).astype(int)
  np.testing.assert_array_equal(of.images, source.images[rows])
  np.testing.assert_array_equal(of.labels, source.labels[rows])
  key = rng.stream(jax.random.key(5), "diagnostics")
  keys = jax.vmap(jax.random.fold_in, (None, 0))(key, rows)
  # The two probabilities of the blur in turn, and no small crop.
  augment = Augment(
    crop_size_px=6,
    crop_min_area=0.3,
    flip_probability=0.5,
    blur_probability=(1.0, 0.1, 1.0, 0.1),
    solarize_probability=(0.0,),
  )
  (expected,) = views(augment, keys, source.images[rows], 4)
  seen = of.viewer(flat, batch_size=100)()
  assert seen.shape == (10, 4, 36)
  np.testing.assert_allclose(
    seen, np.swapaxes(expected, 0, 1).reshape(10, 4, 36), atol=1e-6
  )


def test_neither_batches_nor_devices_nor_more_views_change_them(
  source, one_device, eight_devices
):
  seen = drawn(source, one_device).viewer(flat, batch_size=100)()
  for of, size in [
    (drawn(source, one_device), 12),
    (drawn(source, eight_devices), 1),
    (drawn(source, one_device, num_views=6), 30),
  ]:
    again = of.viewer(flat, batch_size=size)()
    np.testing.assert_allclose(again[:, :4], seen, atol=1e-6)


def test_arguments_are_arguments(source, one_device):
  see = drawn(source, one_device).viewer(
    lambda x, scale: scale * flat(x), batch_size=16
  )
  np.testing.assert_allclose(see(2.0), 2 * see(1.0), rtol=1e-6)


def test_a_small_set_is_taken_whole(source, one_device):
  of = drawn(source, one_device, images=1000)
  np.testing.assert_array_equal(of.images, source.images)


def test_large_views_are_looked_at_small(source, one_device):
  draw = np.random.default_rng(0)
  images = draw.integers(0, 256, (4, 64, 64, 3), np.uint8)
  large = InMemory("large", ("a",), images, np.zeros(4, np.int32))
  augment = Augment(crop_size_px=48, crop_min_area=0.5)
  of = sample.draw_sample(
    large, augment, images=4, num_views=4, seed=0, mesh=one_device
  )
  surroundings = sample.survey(of, batch_size=16)
  assert surroundings.pixels.shape == (4, 4, 32 * 32 * 3)
  assert np.ptp(surroundings.pixels) > 0.5
  assert surroundings.curve.one_minus_sigma[-1] == 0


def test_what_has_no_concentration_says_why(one_device):
  images = np.zeros((3, 8, 8, 1), np.uint8)
  each = InMemory("each", tuple("abc"), images, np.arange(3, dtype=np.int32))
  of = drawn(each, one_device, images=3)
  surroundings = sample.survey(of, batch_size=16)
  assert surroundings.curve is None
  assert "one image" in surroundings.why_not
  assert jnp.shape(surroundings.pixels) == (3, 4, 36)
