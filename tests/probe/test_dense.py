import numpy as np
import pytest
from oracles.probe import SETTINGS

from jssl.config.schema import Probe
from jssl.data.source import InMemory, SegmentedInMemory
from jssl.probe import dense
from jssl.probe import patches as patches_lib
from jssl.probe.encoders import Encoder
from jssl.probe.patches import Patches

PROBE = Probe(**SETTINGS)


def upsampled(grid, size):
  """Bilinear, pixel centres at (i + 0.5) / scale - 0.5, edges repeated."""
  side = len(grid)
  pixels = np.zeros((size, size, grid.shape[-1]))
  for row, column in np.ndindex(size, size):
    y, x = (
      np.clip((i + 0.5) * side / size - 0.5, 0, side - 1) for i in (row, column)
    )
    top, left = (min(int(z), side - 2) for z in (y, x))
    for i, j in np.ndindex(2, 2):
      weight = (1 - abs(y - top - i)) * (1 - abs(x - left - j))
      pixels[row, column] += weight * grid[top + i, left + j]
  return pixels


def test_counts_and_scores_equal_the_loops():
  rng = np.random.default_rng(0)
  scores = rng.normal(size=(3, 16, 4)).astype(np.float32)
  scores[..., 3] = -9  # Neither predicted nor, below, a label.
  masks = rng.integers(-1, 3, (3, 12, 12))
  want = np.zeros((4, 4), int)
  for grid, mask in zip(scores, masks, strict=True):
    predicted = upsampled(grid.reshape(4, 4, 4), 12).argmax(-1)
    for label, found in zip(mask.ravel(), predicted.ravel(), strict=True):
      if label >= 0:
        want[label, found] += 1
  got = np.asarray(patches_lib.confusion(scores, masks))
  np.testing.assert_array_equal(got, want)
  assert got.sum() == (masks >= 0).sum()
  iou = [
    want[k, k] / (want[k].sum() + want[:, k].sum() - want[k, k])
    for k in range(3)
  ]
  np.testing.assert_allclose(
    patches_lib.mean_iou(got), np.mean(iou), rtol=1e-12
  )


def test_shares_are_counts_of_labelled_pixels():
  mask = np.array([[0, 0, 1, -1], [0, 2, 1, 1], [1, 1, 0, 0], [1, 1, 0, 0]])
  got = patches_lib.shares(mask[None], 2, 3)
  want = [[3, 0, 1], [0, 3, 0], [0, 4, 0], [4, 0, 0]]
  np.testing.assert_array_equal(got[0], np.array(want) / 4)


def patches(images, seed, noise=0.1):
  """Classes in halves of the image; tokens are noisy shares, rotated."""
  rng = np.random.default_rng(seed)
  halves = rng.integers(0, 4, (images, 1, 2))
  masks = np.repeat(np.repeat(halves, 16, 1), 8, 2)
  of_class = patches_lib.shares(masks, 4, 4)
  turn = np.random.default_rng(9).normal(size=(4, 6))
  h = of_class @ turn + noise * rng.normal(size=(images, 16, 6))
  return Patches(h.astype(np.float32), masks)


HELD = np.arange(40) % 5 == np.arange(2)[:, None]


@pytest.mark.parametrize("fit", [dense.fit_linear, dense.fit_knn])
def test_separable_tokens_are_segmented(fit, one_device):
  found = fit(patches(40, 0), patches(30, 1), HELD, PROBE, mesh=one_device)
  np.testing.assert_array_equal(found.mean_iou, [1, 1])
  np.testing.assert_array_equal(found.pixel_accuracy, [1, 1])
  np.testing.assert_array_equal(found.validation_iou, [1, 1])
  assert {len(values) for values in found.chosen.values()} == {2}


@pytest.mark.parametrize("fit", [dense.fit_linear, dense.fit_knn])
def test_tokens_without_information_give_chance(fit, one_device):
  train, test = patches(40, 0), patches(30, 1)
  noise = np.random.default_rng(2)
  train, test = (
    x._replace(tokens=noise.normal(size=x.tokens.shape).astype(np.float32))
    for x in (train, test)
  )
  found = fit(train, test, HELD, PROBE, mesh=one_device)
  # No image is its own neighbour.
  assert max(*found.mean_iou, *found.validation_iou) < 0.3


def test_test_images_choose_nothing(one_device):
  train = patches(40, 0, noise=1.0)
  one, two = (
    dense.fit_linear(train, patches(9, seed), HELD, PROBE, mesh=one_device)
    for seed in (1, 2)
  )
  assert one.chosen == two.chosen
  np.testing.assert_array_equal(one.validation_iou, two.validation_iou)


def test_all_devices_fit_the_same(one_device, eight_devices):
  train, test = patches(40, 0, noise=1.0), patches(30, 1, noise=1.0)
  for fit in (dense.fit_linear, dense.fit_knn):
    one, eight = (
      fit(train, test, HELD, PROBE, mesh=mesh)
      for mesh in (one_device, eight_devices)
    )
    np.testing.assert_allclose(one.mean_iou, eight.mean_iou, atol=2e-3)
    assert 0.3 < one.mean_iou.min() < 0.9


def source(images=12):
  pixels = np.random.default_rng(0).integers(0, 256, (images, 8, 8, 1))
  labels = np.arange(images, dtype=np.int32) % 2
  return SegmentedInMemory(
    name="halves",
    class_names=("a", "b"),
    images=pixels.astype(np.uint8),
    labels=labels,
    fetch_masks=(pixels[..., 0] < 100).astype(np.int8).__getitem__,
  )


def encode(images):
  return images.reshape(len(images), 4, 16).astype(np.float32)


def test_tokens_and_masks_are_of_the_same_images(one_device):
  encoder = Encoder("pixels", 0, encode, "", tokens=encode)
  sizes = {"crop_size_px": 8, "batch_size": 4, "mesh": one_device}
  found = patches_lib.read(source(), encoder, images=6, **sizes)
  again = patches_lib.read(source(), encoder, images=6, **sizes)
  np.testing.assert_array_equal(found.tokens, again.tokens)
  pixels = found.tokens.reshape(6, 8, 8)
  np.testing.assert_array_equal(found.masks, pixels < 100)
  assert len(np.unique(pixels.reshape(6, -1), axis=0)) == 6
  everything = patches_lib.read(source(), encoder, images=99, **sizes)
  assert everything.tokens.shape == (12, 4, 16)


def test_neither_masks_nor_tokens(one_device):
  rows = source()
  sizes = {"crop_size_px": 8, "batch_size": 4, "mesh": one_device}
  plain = InMemory("plain", rows.class_names, rows.images, rows.labels)
  encoder = Encoder("pixels", 0, encode, "", tokens=encode)
  match = "probe.dense_images=6: expected 0, because plain has no masks"
  with pytest.raises(ValueError, match=match):
    patches_lib.read(plain, encoder, images=6, **sizes)
  with pytest.raises(ValueError, match="or pixels no patch tokens"):
    patches_lib.read(rows, encoder._replace(tokens=None), images=6, **sizes)
