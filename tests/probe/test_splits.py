import numpy as np
import pytest

from jssl.probe import splits
from jssl.probe.features import Features


def labels(*counts, seed=0):
  rng = np.random.default_rng(seed)
  return rng.permutation(np.repeat(np.arange(len(counts)), counts))


@pytest.mark.parametrize("fraction", [0.1, 0.25, 0.5])
def test_hold_out_takes_its_fraction_of_each_class(fraction):
  y = labels(200, 100, 40)
  held = splits.hold_out(y, fraction=fraction, seed=3)
  for k, count in enumerate((200, 100, 40)):
    assert held[y == k].sum() == round(fraction * count)


def test_hold_out_leaves_and_takes_one_of_each_class():
  y = labels(2, 3, 500)
  for fraction in (0.01, 0.99):
    held = splits.hold_out(y, fraction=fraction, seed=0)
    for k in range(3):
      assert 0 < held[y == k].sum() < (y == k).sum()


def test_folds_are_disjoint_stratified_and_cover_all():
  y = labels(50, 30, 20)
  folds = splits.folds(y, count=5, seed=0)
  assert folds.shape == (5, 100)
  np.testing.assert_array_equal(folds.sum(0), 1)
  for k, count in enumerate((50, 30, 20)):
    np.testing.assert_array_equal(folds[:, y == k].sum(1), count // 5)


def test_no_fold_takes_all_of_a_class():
  y = labels(2, 3, 50)
  for fold in splits.folds(y, count=5, seed=0):
    for k in range(3):
      assert np.any(~fold[y == k])


def test_subset_takes_its_fraction_and_at_least_two_of_each_class():
  y = labels(400, 100, 3)
  rows = splits.subset(y, fraction=0.1, seed=0)
  np.testing.assert_array_equal(np.bincount(y[rows]), [40, 10, 2])
  assert np.all(np.diff(rows) > 0)


def test_splits_follow_the_seed_and_nothing_else():
  y = labels(100, 100)
  for draw in (
    lambda seed: splits.hold_out(y, fraction=0.5, seed=seed),
    lambda seed: splits.folds(y, count=5, seed=seed),
    lambda seed: splits.subset(y, fraction=0.5, seed=seed),
  ):
    np.testing.assert_array_equal(draw(1), draw(1))
    assert np.any(draw(1) != draw(2))
  # What is held out of all rows says nothing about which rows get labels.
  held = splits.hold_out(y, fraction=0.5, seed=1)
  subset = splits.subset(y, fraction=0.5, seed=1)
  assert 30 < held[subset].sum() < 70


def test_best_takes_the_first_of_equals():
  accuracy = np.array([[0.1, 0.3, 0.3], [0.5, 0.2, 0.5]])
  np.testing.assert_array_equal(splits.best(accuracy), [1, 0])


def check(train_labels, test_labels, num_classes=3):
  def split(y):
    return Features(np.zeros((len(y), 2), np.float32), np.array(y), num_classes)

  splits.check_labels(split(train_labels), split(test_labels), "birds")


def test_usable_labels_pass():
  check([0, 0, 1, 1], [0, 1])


@pytest.mark.parametrize(
  ("train", "test", "message"),
  [
    ([0, 0, 1], [0], "class 1 of birds has 1 training images"),
    ([0, 0], [0, 2], "class 2 of birds has 0 training images"),
    ([0, 0, -1], [0], "birds: 1 of 3 images have no label"),
    ([0, 0], [0, -1], "birds: 1 of 2 images have no label"),
  ],
)
def test_unusable_labels_are_told(train, test, message):
  with pytest.raises(ValueError, match=message):
    check(train, test)
