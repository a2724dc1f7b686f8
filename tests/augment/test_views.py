import dataclasses
import functools
import re

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from oracles import augment as oracle

from jssl import rng
from jssl.augment import Augment, center_view, views
from jssl.mesh import batch_sharding, make_mesh

EVERYTHING = Augment(
  crop_size_px=12,
  crop_min_area=0.3,
  flip_probability=0.5,
  jitter_probability=0.8,
  brightness=0.4,
  contrast=0.4,
  saturation=0.4,
  hue=0.1,
  grayscale_probability=0.2,
  blur_probability=0.5,
  solarize_probability=0.2,
)
# A view that shows the whole of a square image and changes nothing.
NOTHING = Augment(
  crop_size_px=16, crop_min_area=1.0, crop_ratio_min=1.0, crop_ratio_max=1.0
)
make_views = jax.jit(views, static_argnums=(0, 3))


def _pixels(n, channels=3, size=16):
  shape = (n, size, size, channels)
  return np.random.default_rng(0).integers(0, 256, shape).astype(np.uint8)


def _keys(n):
  return rng.per_row(jax.random.key(7), n)


@pytest.mark.parametrize("channels", [1, 3])
def test_shape_dtype_and_range(channels):
  got = make_views(EVERYTHING, _keys(16), _pixels(16, channels), 2)
  assert got.shape == (2, 16, 12, 12, channels)
  assert got.dtype == jnp.float32
  assert got.min() >= -1e-6
  assert got.max() <= 1 + 1e-6
  assert got.std() > 0.1


def test_nothing_is_the_image():
  pixels = _pixels(3)
  got = make_views(NOTHING, _keys(3), pixels, 2)
  want = (pixels / 255).astype(np.float32)
  np.testing.assert_allclose(got[0], want, rtol=0, atol=1e-7)
  np.testing.assert_array_equal(got[0], got[1])


@pytest.mark.parametrize(
  ("changes", "want"),
  [
    ({"flip_probability": 1.0}, lambda image: image[:, ::-1]),
    ({"grayscale_probability": 1.0}, oracle.grayscale),
    (
      {
        "blur_probability": 1.0,
        "blur_kernel_px": 5,
        "blur_sigma_min": 1.3,
        "blur_sigma_max": 1.3,
      },
      functools.partial(oracle.gaussian_blur, kernel_px=5, sigma=1.3),
    ),
    (
      {"solarize_probability": 1.0, "solarize_threshold": 0.4},
      functools.partial(oracle.solarize, threshold=0.4),
    ),
    (
      {
        "solarize_probability": 1.0,
        "blur_probability": 1.0,
        "blur_sigma_min": 0.9,
        "blur_sigma_max": 0.9,
        "grayscale_probability": 1.0,
      },
      lambda image: oracle.solarize(
        oracle.gaussian_blur(oracle.grayscale(image), 3, 0.9), 0.5
      ),
    ),
  ],
  ids=["flip", "grayscale", "blur", "solarize", "order"],
)
def test_keys_of_the_config_reach_their_operation(x64, changes, want):
  pixels = _pixels(2)
  augment = dataclasses.replace(NOTHING, **changes)
  got = make_views(augment, _keys(2), pixels, 1)
  assert got.dtype == jnp.float64
  for one, image in zip(got[0], pixels / 255, strict=True):
    np.testing.assert_allclose(one, want(image), rtol=0, atol=1e-9)


def test_flips_half_of_them():
  augment = dataclasses.replace(NOTHING, flip_probability=0.5)
  pixels = _pixels(1).repeat(400, axis=0)
  got = make_views(augment, _keys(400), pixels, 1)[0]
  flipped = np.asarray(abs(got - got[:1]).max((1, 2, 3)) > 0.1)
  assert 150 < flipped.sum() < 250


def test_views_of_an_image_differ():
  one, two = make_views(EVERYTHING, _keys(16), _pixels(16), 2)
  assert (abs(one - two).max((1, 2, 3)) > 0.05).all()


def test_equal_images_with_other_keys_differ():
  pixels = _pixels(1).repeat(16, axis=0)
  first, *rest = make_views(EVERYTHING, _keys(16), pixels, 2)[0]
  assert all(abs(first - other).max() > 0.05 for other in rest)


def test_a_view_depends_on_its_image_key_and_number_only():
  keys, pixels = _keys(16), _pixels(16)
  whole = make_views(EVERYTHING, keys, pixels, 2)
  order = np.random.default_rng(1).permutation(16)[:5]
  part = make_views(EVERYTHING, keys[order], pixels[order], 1)
  np.testing.assert_allclose(part, whole[:1, order], rtol=0, atol=1e-6)


def test_switching_an_operation_on_leaves_the_others_as_they_were():
  flipped = dataclasses.replace(
    NOTHING, crop_min_area=0.2, flip_probability=0.5
  )
  inverted = dataclasses.replace(
    flipped, solarize_probability=1.0, solarize_threshold=0.0
  )
  one = make_views(flipped, _keys(8), _pixels(8), 2)
  two = make_views(inverted, _keys(8), _pixels(8), 2)
  np.testing.assert_allclose(1 - one, two, rtol=0, atol=1e-6)


@pytest.mark.parametrize("channels", [1, 3])
def test_sharded_equals_single_device_without_collectives(channels):
  keys, pixels = _keys(16), _pixels(16, channels)
  single = make_views(EVERYTHING, keys, pixels, 2)
  sharding = batch_sharding(make_mesh(data=4, fsdp=2))
  keys, pixels = jax.device_put((keys, pixels), sharding)
  compiled = make_views.lower(EVERYTHING, keys, pixels, 2).compile()
  collective = r"all-|collective-|reduce-scatter|ragged-"
  assert not re.search(collective, compiled.as_text())
  got = compiled(keys, pixels)
  assert len(got.sharding.device_set) == 8
  assert got.addressable_shards[0].data.shape[1] == 2
  np.testing.assert_allclose(got, single, rtol=0, atol=1e-6)


@functools.cache
def _lines(augment):
  lowered = make_views.lower(augment, _keys(2), _pixels(2), 2)
  return len(lowered.as_text().splitlines())


@pytest.mark.parametrize(
  "name",
  [f.name for f in dataclasses.fields(Augment) if "probability" in f.name],
)
def test_what_is_off_is_not_in_the_program(name):
  off = dataclasses.replace(EVERYTHING, **{name: 0.0})
  assert _lines(off) < _lines(EVERYTHING)


def test_strengths_do_not_matter_where_jitter_is_off():
  strong = dataclasses.replace(NOTHING, brightness=0.4, hue=0.1)
  assert _lines(strong) == _lines(NOTHING)


@pytest.mark.parametrize(
  ("changes", "key"),
  [
    ({"crop_size_px": 0}, "crop_size_px"),
    ({"crop_min_area": 0.0}, "crop_min_area"),
    ({"crop_min_area": 0.9, "crop_max_area": 0.8}, "crop_min_area"),
    ({"crop_max_area": 1.5}, "crop_max_area"),
    ({"crop_ratio_min": 0.0}, "crop_ratio_min"),
    ({"crop_ratio_min": 2.0}, "crop_ratio_min"),
    ({"flip_probability": 1.1}, "flip_probability"),
    ({"jitter_probability": -0.1}, "jitter_probability"),
    ({"brightness": -0.1}, "brightness"),
    ({"contrast": -0.1}, "contrast"),
    ({"saturation": -0.1}, "saturation"),
    ({"hue": 0.6}, "hue"),
    ({"grayscale_probability": 2.0}, "grayscale_probability"),
    ({"blur_probability": float("nan")}, "blur_probability"),
    ({"blur_kernel_px": 4}, "blur_kernel_px"),
    ({"blur_kernel_px": -3}, "blur_kernel_px"),
    ({"blur_kernel_px": 25}, "blur_kernel_px"),
    ({"blur_sigma_min": 0.0}, "blur_sigma_min"),
    ({"blur_sigma_min": 3.0}, "blur_sigma_min"),
    ({"solarize_probability": -1.0}, "solarize_probability"),
    ({"solarize_threshold": 128.0}, "solarize_threshold"),
  ],
)
def test_a_number_out_of_range_is_named(changes, key):
  with pytest.raises(ValueError, match=rf"^augment\.{key}=.* must be "):
    dataclasses.replace(EVERYTHING, **changes)


@pytest.mark.parametrize(
  "images",
  [
    np.zeros((2, 16, 16, 3)),
    np.zeros((16, 16, 3), np.uint8),
    np.zeros((2, 16, 16, 4), np.uint8),
  ],
)
def test_other_images_are_a_type_error(images):
  with pytest.raises(TypeError, match="uint8"):
    views(NOTHING, _keys(2), images)
  with pytest.raises(TypeError, match="uint8"):
    center_view(images, crop_size_px=16)


@pytest.mark.parametrize("channels", [1, 3])
def test_center_view(channels):
  pixels = _pixels(2, channels)
  same = center_view(pixels, crop_size_px=16)
  np.testing.assert_allclose(same, pixels / 255, rtol=0, atol=1e-7)
  assert center_view(pixels, crop_size_px=10).shape == (2, 10, 10, channels)
