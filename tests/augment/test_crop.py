import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from oracles import augment as oracle
from PIL import Image
from scipy import stats

from jssl.augment import crop

USUAL = {"areas": (0.2, 1.0), "ratios": (0.75, 4 / 3)}

crop_and_resize = jax.jit(crop.crop_and_resize, static_argnames="size_px")
center_crop = jax.jit(crop.center_crop, static_argnames="size_px")


def _keys(n, seed=0):
  return jax.random.split(jax.random.key(seed), n)


def _boxes(*boxes):
  return crop.Boxes(*jnp.array(boxes).T)


def _draw(n, height, width, **changes):
  draw = functools.partial(
    crop.random_box, height=height, width=width, **(USUAL | changes)
  )
  draw = jax.jit(jax.vmap(draw))
  return jax.tree.map(np.asarray, draw(_keys(n)))


@pytest.mark.parametrize("channels", [1, 3])
@pytest.mark.parametrize("size", [5, 12, 31])
def test_crop_and_resize_equals_the_loops(x64, channels, size):
  images = np.random.default_rng(0).random((5, 17, 23, channels))
  boxes = [(0, 0, 17, 23), (3, 4, 9, 6), (16, 22, 1, 1), (2, 0, 14, 23)]
  boxes.append((5, 7, size if size < 12 else 11, 13))
  flip = np.array([False, True, False, True, False])
  got = crop_and_resize(_boxes(*boxes), images, size_px=size, flip=flip)
  assert got.dtype == jnp.float64
  for one, image, box, mirrored in zip(got, images, boxes, flip, strict=True):
    want = oracle.crop_and_resize(image, *box, size, mirrored)
    np.testing.assert_allclose(one, want, rtol=0, atol=1e-12)


@pytest.mark.parametrize(
  ("box", "size"),
  [((0, 0, 40, 30), 8), ((7, 3, 21, 20), 24), ((1, 2, 33, 28), 11)],
)
def test_crop_and_resize_equals_pillow(box, size):
  image = np.random.default_rng(1).random((40, 30), np.float32)
  top, left, height, width = box
  want = Image.fromarray(image).crop((left, top, left + width, top + height))
  want = want.resize((size, size), Image.Resampling.BILINEAR)
  got = crop_and_resize(
    _boxes(box), image[None, :, :, None], size_px=size, flip=jnp.zeros(1, bool)
  )
  np.testing.assert_allclose(got[0, :, :, 0], want, rtol=0, atol=1e-5)


def test_whole_box_of_the_same_size_is_the_identity():
  images = np.random.default_rng(2).random((3, 28, 28, 3), np.float32)
  boxes = _boxes(*[(0, 0, 28, 28)] * 3)
  flip = jnp.array([False, True, False])
  got = crop_and_resize(boxes, images, size_px=28, flip=flip)
  np.testing.assert_array_equal(got[0], images[0])
  np.testing.assert_array_equal(got[1], images[1][:, ::-1])


def test_boxes_are_inside_and_within_the_limits():
  top, left, height, width = _draw(4000, 224, 192)
  assert (top >= 0).all()
  assert (left >= 0).all()
  assert (height >= 1).all()
  assert (width >= 1).all()
  assert (top + height <= 224).all()
  assert (left + width <= 192).all()
  # Rounding to whole pixels moves both by less than a twentieth here.
  ratio, area = width / height, width * height / (224 * 192)
  assert (ratio > 0.75 * 0.97).all()
  assert (ratio < 4 / 3 * 1.03).all()
  assert (area > 0.2 * 0.97).all()


@pytest.mark.parametrize(
  ("height", "width", "changes"),
  [
    (28, 28, {}),
    (224, 224, {"areas": (0.08, 1.0)}),
    # Most candidates fail, often all ten.
    (24, 60, {"areas": (0.7, 1.0)}),
  ],
)
def test_boxes_are_distributed_as_torchvision_draws_them(
  height, width, changes
):
  n = 6000
  got = np.stack(_draw(n, height, width, **changes))
  limits = USUAL | changes
  draw = np.random.default_rng(3)
  want = np.array(
    [
      oracle.crop_box(
        draw,
        height,
        width,
        limits["areas"],
        limits["ratios"],
      )
      for _ in range(n)
    ]
  ).T
  measures = {
    "area": lambda b: b[2] * b[3],
    "ratio": lambda b: b[3] / b[2],
    "top": lambda b: b[0],
    "left": lambda b: b[1],
    "bottom": lambda b: height - b[0] - b[2],
    "right": lambda b: width - b[1] - b[3],
  }
  for name, measure in measures.items():
    _, p = stats.ks_2samp(measure(got), measure(want), method="asymp")
    assert p > 1e-3, name


def test_area_and_log_ratio_are_uniform_where_every_box_fits():
  _, _, height, width = _draw(5000, 1000, 1000, areas=(0.1, 0.5))
  area = height * width / 1e6
  assert stats.kstest(area, stats.uniform(0.1, 0.4).cdf).pvalue > 1e-3
  log_ratio = np.log(width / height) / np.log(4 / 3)
  assert stats.kstest(log_ratio, stats.uniform(-1, 2).cdf).pvalue > 1e-3


@pytest.mark.parametrize(
  ("height", "width", "want"),
  [
    (10, 100, (0, 43, 10, 13)),
    (100, 9, (44, 0, 12, 9)),
  ],
)
def test_fallback_is_the_largest_centred_box(height, width, want):
  boxes = _draw(50, height, width, areas=(1.0, 1.0))
  np.testing.assert_array_equal(np.stack(boxes, axis=1), [want] * 50)


@pytest.mark.parametrize(
  "shape", [(28, 28), (20, 20), (40, 40), (31, 29), (64, 40), (28, 50)]
)
def test_center_crop_equals_the_loops(x64, shape):
  images = np.random.default_rng(4).random((2, *shape, 1))
  got = center_crop(jnp.asarray(images), size_px=28)
  for one, image in zip(got, images, strict=True):
    want = oracle.center_crop(image, 28)
    np.testing.assert_allclose(one, want, rtol=0, atol=1e-12)


def test_center_crop_of_the_same_size_is_the_identity():
  images = jnp.ones((2, 28, 28, 1))
  assert crop.center_crop(images, size_px=28) is images


@pytest.mark.parametrize("shape", [(32, 32), (40, 61), (28, 35), (20, 20)])
def test_masks_are_cropped_as_images(shape):
  """Far from edges, the nearest label is that of the resized image."""
  rows, columns = np.indices(shape)
  mask = (rows > 0.4 * shape[0]) + 2 * (columns > 0.5 * shape[1])
  got = crop.center_crop_masks(mask[None], size_px=28)[0]
  layers = (mask[..., None] == np.arange(4)).astype(np.float32)
  resized = np.asarray(crop.center_crop(jnp.asarray(layers)[None], size_px=28))
  certain = resized[0].max(-1) > 0.999
  assert certain.mean() > 0.85
  assert set(np.unique(got)) == {0, 1, 2, 3}
  np.testing.assert_array_equal(got[certain], resized[0].argmax(-1)[certain])


def test_masks_of_the_same_size_stay():
  mask = np.arange(28 * 28).reshape(1, 28, 28)
  np.testing.assert_array_equal(crop.center_crop_masks(mask, size_px=28), mask)
