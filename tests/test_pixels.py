"""Values of stored pixels: floats in [0, 1], and pictures."""

import jax.numpy as jnp
import numpy as np
import pytest

from jssl.pixels import check_range, to_picture, to_unit_interval


@pytest.mark.parametrize(("dtype", "most"), [("uint8", 255), ("uint16", 65535)])
def test_integers_are_shares_of_their_largest(dtype, most):
  images = np.linspace(0, most, 12).astype(dtype).reshape(1, 2, 2, 3)
  got = to_unit_interval(images)
  assert got.dtype == jnp.float32
  np.testing.assert_allclose(got, images / most, rtol=1e-6)


def test_floats_are_as_they_are():
  images = np.linspace(-1, 2, 12, dtype=np.float32).reshape(1, 2, 2, 3)
  np.testing.assert_array_equal(to_unit_interval(images), images)
  with pytest.raises(ValueError, match="values from -1 to 2: expected floats"):
    check_range(images)


def test_other_dtypes_are_refused():
  with pytest.raises(TypeError, match="dtype int64: expected uint8, uint16"):
    to_unit_interval(np.zeros((1, 2, 2, 3), np.int64))


@pytest.mark.parametrize("channels", [1, 3, 4])
def test_pictures_of_bytes_are_the_bytes(channels):
  rng = np.random.default_rng(0)
  images = rng.integers(0, 256, (2, 3, 3, channels), np.uint8)
  np.testing.assert_array_equal(to_picture(images), images)
  views = np.float32(images / 255)[:, ::-1]
  np.testing.assert_array_equal(to_picture(views, images), images[:, ::-1])


@pytest.mark.parametrize(
  ("channels", "shown"), [(1, 1), (2, 1), (3, 3), (5, 3)]
)
def test_pictures_of_others_are_scaled_by_channel(channels, shown):
  """The stored images set the scale of their views."""
  steps = np.linspace(0, 1000, 101).astype(np.uint16).reshape(1, 101, 1, 1)
  scales = np.arange(1, channels + 1, dtype=np.uint16)
  images = steps * scales + 3
  got = to_picture(images)
  assert got.shape == (1, 101, 1, shown)
  assert got[0, 2, 0].tolist() == [0] * shown
  assert got[0, 98, 0].tolist() == [255] * shown
  assert np.abs(got[0, 50, 0].astype(int) - 128).max() <= 1
  views = np.asarray(to_unit_interval(images))[:, 40:61]
  np.testing.assert_array_equal(to_picture(views, images), got[:, 40:61])
