import numpy as np
import pytest

from jssl.data.source import InMemory
from jssl.probe import encoders


def source(size_px=6, rows=60, channels=1):
  rng = np.random.default_rng(0)
  # Smooth images, as real ones are: few directions hold nearly everything.
  ramps = rng.random((rows, 1, 1, 1)) * np.linspace(0, 255, size_px).reshape(
    1, size_px, 1, 1
  )
  images = np.broadcast_to(ramps, (rows, size_px, size_px, channels))
  noise = rng.integers(0, 3, images.shape)
  labels = (np.arange(rows) % 2).astype(np.int32)
  return InMemory(
    "ramps", ("a", "b"), (images * 0.98 + noise).astype(np.uint8), labels
  )


def test_few_pixels_are_left_as_they_are():
  rows = source()
  found = encoders.pixels(rows, crop_size_px=6, max_dim=36)
  np.testing.assert_allclose(
    found.encode(rows.images), rows.images.reshape(60, 36) / 255, rtol=1e-6
  )
  assert (found.kind, found.step, found.name) == ("pixels", 0, "pixels")


def test_zero_keeps_all_pixels():
  rows = source()
  found = encoders.pixels(rows, crop_size_px=6, max_dim=0)
  assert found.encode(rows.images).shape == (60, 36)


def test_many_pixels_are_rotated_keeping_inner_products():
  rows = source()
  found = encoders.pixels(rows, crop_size_px=6, max_dim=5)
  h = np.asarray(found.encode(rows.images))
  assert h.shape == (60, 5)
  flat = rows.images.reshape(60, 36) / 255
  np.testing.assert_allclose(h @ h.T, flat @ flat.T, atol=0.02)


def test_standardising_projected_pixels_does_not_whiten_them():
  rng = np.random.default_rng(1)
  basis = np.linalg.qr(rng.normal(size=(32 * 32, 32)))[0]
  h = rng.normal(size=(500, 32)) * 500 / np.arange(1, 33) ** 2
  images = np.clip(128 + h @ basis.T, 0, 255).astype(np.uint8)
  rows = InMemory("decay", ("a", "b"), images.reshape(500, 32, 32, 1), h[:, 0])
  found = encoders.pixels(rows, crop_size_px=32, max_dim=32)

  def gram(x):
    return (x @ x.T).ravel()

  seen = np.asarray(found.encode(rows.images))
  seen = (seen - seen.mean(0)) / seen.std(0)
  pixels = images - images.mean(0)
  white = np.linalg.svd(pixels, full_matrices=False)[0][:, :32]
  assert np.corrcoef(gram(pixels), gram(seen))[0, 1] > 0.8
  assert np.corrcoef(gram(pixels), gram(white))[0, 1] < 0.5


def test_large_views_are_seen_32_px_wide():
  rows = source(size_px=64, channels=3)
  found = encoders.pixels(rows, crop_size_px=64, max_dim=0)
  assert found.encode(rows.images[:2]).shape == (2, 32 * 32 * 3)


@pytest.mark.parametrize("changed", [{"crop_size_px": 5}, {"max_dim": 4}])
def test_the_key_sees_what_features_depend_on(changed):
  usual = {"crop_size_px": 6, "max_dim": 5}
  one = encoders.pixels(source(), **usual)
  assert one.key == encoders.pixels(source(), **usual).key
  assert one.key != encoders.pixels(source(), **{**usual, **changed}).key
  assert one.key != encoders.pixels(source(rows=61), **usual).key
