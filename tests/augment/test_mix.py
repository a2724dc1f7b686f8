"""Mixup, cutmix and random erasing against the rules of timm."""

import functools
import math

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jssl.augment import Augment, includes, mix, views

SIDE = 12
N = 2000


def augment(**changes):
  return Augment(crop_size_px=SIDE, crop_min_area=1.0, **changes)


@functools.cache
def shares(**changes):
  """Shares of the own view by pixel, and its weights, of many images."""
  keys = jax.random.split(jax.random.key(1), N)
  own = jnp.ones((1, N, SIDE, SIDE, 1))
  mixed, weight = jax.jit(mix, static_argnums=0)(
    augment(**changes), keys, own, 0 * own
  )
  return np.asarray(mixed[0, ..., 0], np.float64), np.asarray(weight[0])


@pytest.mark.parametrize("alpha", [0.8, 2.0])
def test_mixup_has_one_beta_weight_for_all_pixels(alpha):
  mixed, weight = shares(mixup_alpha=alpha)
  assert np.ptp(mixed, axis=(1, 2)).max() == 0
  np.testing.assert_allclose(mixed[:, 0, 0], weight, rtol=1e-6)
  # Mean and variance of Beta(alpha, alpha).
  np.testing.assert_allclose(weight.mean(), 0.5, atol=0.03)
  np.testing.assert_allclose(weight.var(), 1 / (8 * alpha + 4), rtol=0.1)


def box_weight(draw, side):
  """Weight after cutmix, as timm draws boxes; two integers for the centre."""
  ratio = np.sqrt(1 - draw.beta(1.0, 1.0))
  cut, area = int(side * ratio), 1
  for centre in draw.integers(0, side, 2):
    low, high = np.clip([centre - cut // 2, centre + cut // 2], 0, side)
    area *= high - low
  return 1 - area / side**2


def test_cutmix_has_the_boxes_of_timm_and_their_true_area():
  mixed, weight = shares(cutmix_alpha=1.0)
  assert set(np.unique(mixed)) == {0, 1}
  np.testing.assert_allclose(mixed.mean((1, 2)), weight, rtol=1e-6, atol=1e-6)
  for image in mixed[:200]:
    rows, columns = (1 - image).any(1), (1 - image).any(0)
    np.testing.assert_array_equal(1 - image, rows[:, None] & columns)
    for inside in (rows, columns):
      assert np.abs(np.diff(inside.astype(int))).sum() <= 2
  draw = np.random.default_rng(0)
  expected = [box_weight(draw, SIDE) for _ in range(20 * N)]
  # Distribution functions; weights are multiples of a pixel's share.
  levels = (np.arange(0, SIDE**2, 5) + 0.5) / SIDE**2
  got, wanted = (
    (np.array(x)[:, None] < levels).mean(0) for x in (weight, expected)
  )
  np.testing.assert_allclose(got, wanted, atol=0.045)
  # Boxes are cut off at borders, which are therefore changed less.
  own = mixed.mean(0)
  assert own[0, 0] > own[SIDE // 2, SIDE // 2] + 0.1


@pytest.mark.parametrize("probability", [0.5, 0.2])
def test_one_of_both_is_drawn_for_each_image(probability):
  mixed, _ = shares(
    mixup_alpha=0.8, cutmix_alpha=1.0, cutmix_probability=probability
  )
  is_cut = ((mixed == 0) | (mixed == 1)).all((1, 2))
  np.testing.assert_allclose(is_cut.mean(), probability, atol=0.04)


def test_a_mix_depends_on_the_key_of_its_image_alone():
  keys = jax.random.split(jax.random.key(1), 8)
  own, partners = jax.random.uniform(keys[0], (2, 2, 8, SIDE, SIDE, 3))
  both = augment(mixup_alpha=0.8, cutmix_alpha=1.0)
  mixed, weight = mix(both, keys, own, partners)
  part, part_weight = mix(both, keys[3:5], own[:, 3:5], partners[:, 3:5])
  np.testing.assert_array_equal(part, mixed[:, 3:5])
  np.testing.assert_array_equal(part_weight, weight[:, 3:5])
  assert len(np.unique(weight)) == weight.size


def erased_box(draw, side):
  """Box of random erasing as timm draws it: height and width."""
  for _ in range(10):
    area = draw.uniform(0.02, 1 / 3) * side**2
    ratio = math.exp(draw.uniform(math.log(0.3), -math.log(0.3)))
    h, w = round(math.sqrt(area * ratio)), round(math.sqrt(area / ratio))
    if h < side and w < side:
      return h, w
  return 0, 0


def test_erased_boxes_are_those_of_timm():
  images = np.full((N, SIDE, SIDE, 3), 255, np.uint8)
  keys = jax.random.split(jax.random.key(2), N)
  (found,) = views(augment(erase_probability=0.25), keys, images, num_views=1)
  changed = np.asarray((found[0] != 1).any(-1))
  erased = changed[changed.any((1, 2))]
  np.testing.assert_allclose(len(erased) / N, 0.25, atol=0.03)
  heights, widths = erased.any(2).sum(1), erased.any(1).sum(1)
  np.testing.assert_array_equal(erased.sum((1, 2)), heights * widths)
  draw = np.random.default_rng(0)
  boxes = np.array([erased_box(draw, SIDE) for _ in range(20 * N)])
  for got, expected in ((heights, boxes[:, 0]), (widths, boxes[:, 1])):
    np.testing.assert_allclose(got.mean(), expected.mean(), rtol=0.06)
  area = heights * widths
  np.testing.assert_allclose(area.std(), boxes.prod(1).std(), rtol=0.12)
  noise = np.asarray(found[0])[changed]
  assert noise.min() >= 0
  np.testing.assert_allclose(noise.mean(), 0.5, atol=0.02)
  np.testing.assert_allclose(noise.std(), 12**-0.5, atol=0.02)


@pytest.mark.slow
def test_erasing_changes_no_other_draw():
  images = np.random.default_rng(0).integers(0, 256, (16, 16, 16, 3), np.uint8)
  keys = jax.random.split(jax.random.key(2), 16)
  plain = Augment(SIDE, 0.3, flip_probability=0.5, jitter_probability=0.0)
  erasing = Augment(SIDE, 0.3, flip_probability=0.5, erase_probability=1.0)
  (before,), (after,) = (views(a, keys, images) for a in (plain, erasing))
  same = np.asarray((before == after).all(-1))
  assert 0.6 < same.mean() < 0.95
  assert not same.all((2, 3)).any()
  assert includes(
    Augment(SIDE, 0.3, flip_probability=0.5, erase_probability=0.5), plain
  )
  assert not includes(plain, erasing)


@pytest.mark.parametrize(
  ("key", "value"),
  [
    ("mixup_alpha", -1.0),
    ("cutmix_alpha", -1.0),
    ("cutmix_probability", 1.5),
    ("erase_probability", 2.0),
  ],
)
def test_errors_name_the_key(key, value):
  with pytest.raises(ValueError, match=f"augment.{key}={value}"):
    augment(**{key: value})
