import dataclasses
import functools
import re

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from oracles import augment as oracle
from scipy import stats

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
  blur_probability=(0.5,),
  solarize_probability=(0.2,),
)
MULTI_CROP = dataclasses.replace(EVERYTHING, num_small=3, small_crop_size_px=6)
# The view of a square image is the image itself.
NOTHING = Augment(
  crop_size_px=16, crop_min_area=1.0, crop_ratio_min=1.0, crop_ratio_max=1.0
)
make_views = jax.jit(views, static_argnums=(0, 3))


def make_large(*args):
  (large,) = make_views(*args)
  return large


def _pixels(n, channels=3, size=16):
  shape = (n, size, size, channels)
  return np.random.default_rng(0).integers(0, 256, shape).astype(np.uint8)


def _keys(n):
  return rng.per_row(jax.random.key(7), n)


@pytest.mark.parametrize("channels", [1, 3])
def test_shape_dtype_and_range(channels):
  large, small = make_views(MULTI_CROP, _keys(16), _pixels(16, channels), 2)
  assert large.shape == (2, 16, 12, 12, channels)
  assert small.shape == (3, 16, 6, 6, channels)
  for got in (large, small):
    assert got.dtype == jnp.float32
    assert got.min() >= -1e-6
    assert got.max() <= 1 + 1e-6
    assert got.std() > 0.05


def test_without_operations_the_view_is_the_image():
  pixels = _pixels(3)
  got = make_large(NOTHING, _keys(3), pixels, 2)
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
        "blur_probability": (1.0,),
        "blur_kernel_px": 5,
        "blur_sigma_min": 1.3,
        "blur_sigma_max": 1.3,
      },
      functools.partial(oracle.gaussian_blur, kernel_px=5, sigma=1.3),
    ),
    (
      {"solarize_probability": (1.0,), "solarize_threshold": 0.4},
      functools.partial(oracle.solarize, threshold=0.4),
    ),
    (
      {
        "solarize_probability": (1.0,),
        "blur_probability": (1.0,),
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
def test_each_option_controls_its_operation(x64, changes, want):
  pixels = _pixels(2)
  augment = dataclasses.replace(NOTHING, **changes)
  got = make_large(augment, _keys(2), pixels, 1)
  assert got.dtype == jnp.float64
  for one, image in zip(got[0], pixels / 255, strict=True):
    np.testing.assert_allclose(one, want(image), rtol=0, atol=1e-9)


@pytest.mark.slow
def test_opacity_is_cropped_and_blurred_but_keeps_its_values():
  keys, pixels = _keys(16), _pixels(16, channels=4)
  geometry = {"jitter_probability": 0.0, "grayscale_probability": 0.0}
  opacity = dataclasses.replace(
    MULTI_CROP, solarize_probability=(0.0,), **geometry
  )
  got = make_views(MULTI_CROP, keys, pixels, 2)
  colours = make_views(MULTI_CROP, keys, pixels[..., :3], 2)
  alphas = make_views(opacity, keys, pixels[..., 3:], 2)
  for views_, rgb, alpha in zip(got, colours, alphas, strict=True):
    np.testing.assert_allclose(views_[..., :3], rgb, atol=1e-6)
    np.testing.assert_allclose(views_[..., 3:], alpha, atol=1e-6)


@pytest.mark.parametrize("channels", [1, 3])
def test_solarize_inverts_from_the_threshold_on(x64, channels):
  pixels = _pixels(2, channels)
  pixels[0, 0, 0] = 153
  augment = dataclasses.replace(
    NOTHING, solarize_probability=(1.0,), solarize_threshold=153 / 255
  )
  got = make_large(augment, _keys(2), pixels, 1)
  for one, image in zip(got[0], pixels / 255, strict=True):
    want = oracle.solarize(image, 153 / 255)
    np.testing.assert_allclose(one, want, rtol=0, atol=1e-15)


def test_small_crops_equal_the_loops(x64):
  pixels = _pixels(2)
  augment = dataclasses.replace(
    NOTHING,
    flip_probability=1.0,
    grayscale_probability=1.0,
    blur_sigma_min=0.9,
    blur_sigma_max=0.9,
    solarize_probability=(1.0,),
    num_small=1,
    small_crop_size_px=6,
    small_crop_min_area=1.0,
    small_crop_max_area=1.0,
    small_blur_probability=1.0,
  )
  large, small = make_views(augment, _keys(2), pixels, 1)
  for i, image in enumerate(pixels / 255):
    gray = oracle.grayscale(image[:, ::-1])
    np.testing.assert_allclose(
      large[0, i], oracle.solarize(gray, 0.5), rtol=0, atol=1e-9
    )
    want = oracle.gaussian_blur(oracle.resize(gray, 6, 6), 3, 0.9)
    np.testing.assert_allclose(small[0, i], want, rtol=0, atol=1e-9)


@pytest.mark.parametrize(
  ("changes", "probability"),
  [
    ({"flip_probability": 0.5}, 0.5),
    ({"grayscale_probability": 0.3}, 0.3),
    ({"solarize_probability": (0.2,)}, 0.2),
  ],
)
def test_an_image_changes_with_the_probability(changes, probability):
  n, pixels = 1000, _pixels(1)
  augment = dataclasses.replace(NOTHING, **changes)
  got = make_large(augment, _keys(n), pixels.repeat(n, axis=0), 1)[0]
  changed = np.asarray(abs(got - pixels / 255).max((1, 2, 3)) > 0.1)
  assert stats.binomtest(int(changed.sum()), n, probability).pvalue > 1e-3


def test_gray_images_have_no_grayscale():
  gray = dataclasses.replace(NOTHING, grayscale_probability=1.0)
  pixels = _pixels(3, channels=1)
  got = make_large(gray, _keys(3), pixels, 1)
  np.testing.assert_allclose(got[0], pixels / 255, rtol=0, atol=1e-7)


def test_each_view_has_its_own_probabilities():
  # The first pixel reveals inversion, the black pixel reveals blur.
  n, pixels = 2000, np.full((1, 8, 8, 1), 153, np.uint8)
  pixels[:, 6, 6] = 0
  augment = Augment(
    crop_size_px=8,
    crop_min_area=1.0,
    crop_ratio_min=1.0,
    crop_ratio_max=1.0,
    blur_probability=(1.0, 0.1),
    blur_sigma_min=1.0,
    solarize_probability=(0.0, 0.2),
    solarize_threshold=0.55,
    num_small=2,
    small_crop_size_px=8,
    small_crop_min_area=1.0,
    small_crop_max_area=1.0,
    small_blur_probability=0.3,
  )
  large, small = make_views(augment, _keys(n), pixels.repeat(n, axis=0), 2)
  seen = np.concatenate((large, small))[..., 0]
  blurred, inverted = seen[:, :, 6, 6] > 0.1, seen[:, :, 0, 0] < 0.5
  probabilities = ((1.0, 0.0), (0.1, 0.2), (0.3, 0.0), (0.3, 0.0))
  for number, probability in enumerate(probabilities):
    for changed, p in zip((blurred, inverted), probability, strict=True):
      count = int(changed[number].sum())
      assert stats.binomtest(count, n, p).pvalue > 1e-3, (number, p)
  # Blur and solarisation are independent, and so are the two small crops.
  for one, two in ((blurred[1], inverted[1]), (blurred[2], blurred[3])):
    expected = n * one.mean() * two.mean()
    assert stats.poisson.sf((one & two).sum() - 1, expected) > 1e-3


def test_small_crops_show_less():
  # On a ramp, the slope of a crop determines its box.
  n, side, size = 300, 96, 8
  ramp = np.zeros((1, side, side, 3), np.uint8)
  ramp[..., 0], ramp[..., 1] = np.mgrid[:side, :side]
  augment = Augment(
    crop_size_px=size,
    crop_min_area=0.4,
    num_small=2,
    small_crop_size_px=size,
    small_crop_max_area=0.3,
    small_blur_probability=0.0,
  )

  def boxes(crops):
    crops = 255 / side * np.asarray(crops, np.float64)
    inner = slice(2, size - 2)
    share = size / (size - 5)
    # Without the ends, where the filter is truncated.
    rows, columns = crops[..., inner, inner, 0], crops[..., inner, inner, 1]
    height = share * (rows[..., -1, 0] - rows[..., 0, 0])
    width = share * (columns[..., 0, -1] - columns[..., 0, 0])
    top, left = rows.mean((2, 3)) - height / 2, columns.mean((2, 3)) - width / 2
    return top, left, height, width

  areas = []
  for crops, low, high in zip(
    make_views(augment, _keys(n), ramp.repeat(n, axis=0), 2),
    (0.4, 0.05),
    (1.0, 0.3),
    strict=True,
  ):
    top, left, height, width = boxes(crops)
    area, ratio = height * width, width / height
    assert low * 0.93 < area.min()
    assert area.max() < high * 1.03
    assert ratio.min() > 0.75 * 0.93
    assert ratio.max() < 4 / 3 * 1.07
    assert min(top.min(), left.min()) > -0.02
    assert max((top + height).max(), (left + width).max()) < 1.02
    areas.extend(area)
  # Large and small views of the same index are independent.
  apart = np.corrcoef(areas)[np.triu_indices(4, 1)]
  assert (abs(apart) < 3.5 / np.sqrt(n)).all()
  # All small boxes fit, so the first candidate is used.
  for area, ratio in zip(height * width, width / height, strict=True):
    assert stats.kstest(area, stats.uniform(0.05, 0.25).cdf).pvalue > 1e-3
    log_ratio = np.log(ratio) / np.log(4 / 3)
    assert stats.kstest(log_ratio, stats.uniform(-1, 2).cdf).pvalue > 1e-3


def test_small_crops_do_not_change_large_views():
  keys, pixels = _keys(16), _pixels(16)
  large, _ = make_views(MULTI_CROP, keys, pixels, 2)
  alone = make_large(EVERYTHING, keys, pixels, 2)
  np.testing.assert_array_equal(large, alone)


def test_views_of_an_image_differ():
  large, small = make_views(MULTI_CROP, _keys(16), _pixels(16), 2)
  for one, two in ((*large,), small[:2], small[1:]):
    assert (abs(one - two).max((1, 2, 3)) > 0.05).all()


def test_equal_images_with_other_keys_differ():
  pixels = _pixels(1).repeat(16, axis=0)
  for views_of_a_size in make_views(MULTI_CROP, _keys(16), pixels, 2):
    first, *rest = views_of_a_size[0]
    assert all(abs(first - other).max() > 0.02 for other in rest)


def test_a_view_depends_only_on_its_image_key_and_index():
  keys, pixels = _keys(16), _pixels(16)
  whole = make_views(MULTI_CROP, keys, pixels, 2)
  order = np.random.default_rng(1).permutation(16)[:5]
  fewer = dataclasses.replace(MULTI_CROP, num_small=1)
  part = make_views(fewer, keys[order], pixels[order], 1)
  for some, every in zip(part, whole, strict=True):
    np.testing.assert_allclose(some, every[:1, order], rtol=0, atol=1e-6)


def test_enabling_an_operation_does_not_change_the_others():
  flipped = dataclasses.replace(
    NOTHING, crop_min_area=0.2, flip_probability=0.5
  )
  inverted = dataclasses.replace(
    flipped, solarize_probability=(1.0,), solarize_threshold=0.0
  )
  one = make_large(flipped, _keys(8), _pixels(8), 2)
  two = make_large(inverted, _keys(8), _pixels(8), 2)
  np.testing.assert_allclose(1 - one, two, rtol=0, atol=1e-6)


@pytest.mark.parametrize("channels", [1, 3])
def test_sharded_equals_single_device_without_collectives(channels):
  keys, pixels = _keys(16), _pixels(16, channels)
  single = make_views(MULTI_CROP, keys, pixels, 2)
  sharding = batch_sharding(make_mesh(data=4, fsdp=2))
  keys, pixels = jax.device_put((keys, pixels), sharding)
  compiled = make_views.lower(MULTI_CROP, keys, pixels, 2).compile()
  collective = r"all-|collective-|reduce-scatter|ragged-"
  assert not re.search(collective, compiled.as_text())
  for got, want in zip(compiled(keys, pixels), single, strict=True):
    assert len(got.sharding.device_set) == 8
    assert got.addressable_shards[0].data.shape[1] == 2
    np.testing.assert_allclose(got, want, rtol=0, atol=1e-6)


@functools.cache
def _lines(augment):
  lowered = make_views.lower(augment, _keys(2), _pixels(2), 2)
  return len(lowered.as_text().splitlines())


@pytest.mark.parametrize(
  "name",
  [
    f.name
    for f in dataclasses.fields(Augment)
    # `mix` is not a part of `views`.
    if "probability" in f.name and f.name != "cutmix_probability"
  ],
)
def test_disabled_operations_are_not_compiled(name):
  zero = (
    (0.0, 0.0) if name in ("blur_probability", "solarize_probability") else 0.0
  )
  on = dataclasses.replace(MULTI_CROP, erase_probability=0.5)
  assert _lines(dataclasses.replace(on, **{name: zero})) < _lines(on)


def test_an_operation_of_a_single_view_is_compiled():
  second = dataclasses.replace(NOTHING, blur_probability=(0.0, 0.1))
  assert _lines(second) > _lines(NOTHING)


def test_strengths_have_no_effect_without_jitter():
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
    ({"brightness": float("inf")}, "brightness"),
    ({"contrast": float("nan")}, "contrast"),
    ({"crop_min_area": float("nan")}, "crop_min_area"),
    ({"crop_ratio_max": float("inf")}, "crop_ratio_max"),
    ({"blur_sigma_max": float("inf")}, "blur_sigma_max"),
    ({"hue": float("nan")}, "hue"),
    ({"contrast": -0.1}, "contrast"),
    ({"saturation": -0.1}, "saturation"),
    ({"hue": 0.6}, "hue"),
    ({"grayscale_probability": 2.0}, "grayscale_probability"),
    ({"blur_probability": ()}, "blur_probability"),
    ({"blur_probability": (0.5, float("nan"))}, "blur_probability"),
    ({"blur_kernel_px": 4}, "blur_kernel_px"),
    ({"blur_kernel_px": -3}, "blur_kernel_px"),
    ({"blur_kernel_px": 25}, "blur_kernel_px"),
    ({"blur_sigma_min": 0.0}, "blur_sigma_min"),
    ({"blur_sigma_min": 3.0}, "blur_sigma_min"),
    ({"solarize_probability": (0.0, -1.0)}, "solarize_probability"),
    ({"solarize_threshold": 128.0}, "solarize_threshold"),
    ({"num_small": -1}, "num_small"),
    ({"small_crop_size_px": 0}, "small_crop_size_px"),
    ({"small_crop_size_px": 13}, "small_crop_size_px"),
    ({"small_crop_min_area": 0.0}, "small_crop_min_area"),
    ({"small_crop_min_area": 0.3}, "small_crop_min_area"),
    ({"small_crop_max_area": 1.5}, "small_crop_max_area"),
    ({"small_blur_probability": 1.5}, "small_blur_probability"),
    ({"blur_kernel_px": 13}, "blur_kernel_px"),
  ],
)
def test_errors_name_the_option_out_of_range(changes, key):
  with pytest.raises(ValueError, match=rf"^augment\.{key}(\[.\])?=.* must be "):
    dataclasses.replace(MULTI_CROP, **changes)


def test_errors_of_small_crops_name_both_options():
  with pytest.raises(ValueError, match=r"at most augment\.crop_size_px=12"):
    dataclasses.replace(MULTI_CROP, small_crop_size_px=13)
  with pytest.raises(ValueError, match=r"twice augment\.small_crop_size_px=6"):
    dataclasses.replace(MULTI_CROP, blur_kernel_px=13)
  # Disabled blur and small crops are not checked.
  dataclasses.replace(MULTI_CROP, blur_kernel_px=13, small_blur_probability=0.0)
  dataclasses.replace(MULTI_CROP, num_small=0, small_crop_size_px=0)
  dataclasses.replace(EVERYTHING, blur_kernel_px=25, blur_probability=(0.0,))


@pytest.mark.usefixtures("unchecked")
@pytest.mark.parametrize("value", [0.5, [0.5]])
def test_probabilities_per_view_must_be_tuples(value):
  message = r"^augment\.solarize_probability=.* must be a tuple.*\(0\.5,\)"
  with pytest.raises(ValueError, match=message):
    dataclasses.replace(EVERYTHING, solarize_probability=value)


@pytest.mark.parametrize("name", ["blur_probability", "solarize_probability"])
def test_wrong_number_of_probabilities_is_an_error(name):
  augment = dataclasses.replace(NOTHING, **{name: (0.1, 0.2)})
  message = rf"^augment\.{name}=\(0\.1, 0\.2\) must be .* num_views=3"
  with pytest.raises(ValueError, match=message):
    views(augment, _keys(2), _pixels(2), 3)


@pytest.mark.usefixtures("unchecked")
@pytest.mark.parametrize(
  "images",
  [
    np.zeros((2, 16, 16, 3), np.int32),
    np.zeros((2, 16, 16, 3), bool),
    np.zeros((16, 16, 3), np.uint8),
  ],
)
def test_images_of_other_dtypes_or_shapes_are_a_type_error(images):
  message = "expected uint8, uint16 or floats|expected .b, h, w, c"
  with pytest.raises(TypeError, match=message):
    views(NOTHING, _keys(2), images)
  with pytest.raises(TypeError, match=message):
    center_view(images, crop_size_px=16)


def test_floats_outside_of_the_unit_interval_are_an_error():
  with pytest.raises(ValueError, match="image values from 0 to 2: expected"):
    views(NOTHING, _keys(2), 2 * np.eye(16)[None, :, :, None].repeat(2, 0))


COLOURLESS = dataclasses.replace(
  MULTI_CROP, saturation=0.0, hue=0.0, grayscale_probability=0.0
)


@pytest.mark.parametrize("dtype", [np.uint16, np.float32])
def test_any_number_of_channels_of_any_dtype(dtype):
  """Channels that equal those of gray images have their views."""
  keys, pixels = _keys(4), _pixels(4, channels=5)
  stored = pixels.astype(np.uint16) * 257
  if dtype == np.float32:
    stored = (pixels / 255).astype(dtype)
  got = make_views(COLOURLESS, keys, stored, 2)
  for i in (0, 4):
    gray = make_views(COLOURLESS, keys, pixels[..., i : i + 1], 2)
    for views_, one in zip(got, gray, strict=True):
      assert views_.shape[-1] == 5
      np.testing.assert_allclose(views_[..., i : i + 1], one, atol=1e-5)


@pytest.mark.parametrize("name", ["saturation", "hue", "grayscale_probability"])
@pytest.mark.parametrize("channels", [2, 5])
def test_channels_without_colours_are_refused_with_the_key(name, channels):
  augment = dataclasses.replace(COLOURLESS, **{name: 0.2})
  message = rf"^augment\.{name}=0\.2: expected 0, .* of {channels} channels"
  with pytest.raises(ValueError, match=message):
    views(augment, _keys(2), _pixels(2, channels))


@pytest.mark.parametrize("channels", [1, 3, 4, 7])
def test_center_view(channels):
  pixels = _pixels(2, channels)
  same = center_view(pixels, crop_size_px=16)
  np.testing.assert_allclose(same, pixels / 255, rtol=0, atol=1e-7)
  assert center_view(pixels, crop_size_px=10).shape == (2, 10, 10, channels)
