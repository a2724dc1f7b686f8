"""The generated patterns: what their images do and do not share."""

import numpy as np
import pytest
from sklearn.neighbors import KNeighborsClassifier

from jssl.data import patterns
from jssl.data.open import open_source, stored_size_px


def test_sizes_and_classes():
  for split, number in (("train", 20_000), ("test", 4_000)):
    found = open_source("patterns", split=split, image_size_px=32)
    assert found.images.shape == (number, 32, 32, 3)
    assert found.images.dtype == np.uint8
    assert np.bincount(found.labels).tolist() == [number // 10] * 10
  assert found.class_names[3] == "rings"
  assert stored_size_px("patterns") == 32


def test_same_images_every_time():
  images = patterns.patterns("test").images
  patterns.patterns.cache_clear()
  again = patterns.patterns("test").images
  assert images is not again
  np.testing.assert_array_equal(images, again)


def test_no_image_is_twice_in_a_split_or_in_both():
  images = np.concatenate(
    [patterns.patterns(split).images for split in ("train", "test")]
  )
  assert len({image.tobytes() for image in images}) == len(images)


def test_classes_have_the_same_mean_colour():
  train, test = (patterns.patterns(split) for split in ("train", "test"))

  def means(found):
    by_image = found.images.reshape(len(found), -1, 3).mean(1)
    return np.stack([by_image[found.labels == k].mean(0) for k in range(10)])

  # The standard error of a mean of 2,000 images is about 1 of 255.
  assert np.ptp(means(train), axis=0).max() < 10
  assert np.abs(means(train) - means(test)).max() < 10


def test_pixels_tell_the_class_hardly_better_than_chance():
  """By nearest neighbours, which find it on the digits in two of three."""
  train, test = (patterns.patterns(split) for split in ("train", "test"))
  x = train.images[:5000].reshape(5000, -1) / 255
  classifier = KNeighborsClassifier(5).fit(x, train.labels[:5000])
  found = classifier.score(
    test.images[:500].reshape(500, -1) / 255, test.labels[:500]
  )
  assert 0.05 < found < 0.25


@pytest.mark.parametrize("name", patterns._PATTERNS)
def test_a_pattern_is_periodic_and_in_0_1(name):
  pattern = patterns._PATTERNS[name]
  u, v = np.random.default_rng(0).uniform(0, 3, (2, 1, 64, 64))
  share = pattern(u, v)
  assert share.min() >= 0
  assert share.max() <= 1
  assert 0.1 < share.mean() < 0.8
  np.testing.assert_allclose(pattern(u + 1, v), share, atol=1e-9)
  np.testing.assert_allclose(pattern(u, v + 1), share, atol=1e-9)


def test_colours_have_contrast():
  first, second = patterns._colours(np.random.default_rng(0), 1000)
  assert np.abs((first - second).mean(-1)).min() >= 0.3


def test_an_unknown_split_and_another_size():
  with pytest.raises(ValueError, match="train and test, not 'validation'"):
    patterns.patterns("validation")
  with pytest.raises(ValueError, match="image_size_px=28: expected 32"):
    open_source("patterns", image_size_px=28)
