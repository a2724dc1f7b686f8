import hashlib

import numpy as np
import pytest
from sklearn import datasets

from jssl.data import embedded
from jssl.data.source import Segmented


def test_sizes_and_classes():
  for split, number in (("train", 20_000), ("test", 4_000)):
    digits = embedded.cluttered_digits(split)
    assert len(digits) == number
    assert digits.images.shape == (number, 32, 32, 3)
    assert digits.images.dtype == np.uint8
    assert digits.labels.dtype == np.int32
    assert digits.class_names == tuple("0123456789")
    counts = np.bincount(digits.labels, minlength=10)
    assert counts.min() > 0.09 * number
    assert counts.max() < 0.11 * number


def test_same_images_every_time():
  images = embedded.cluttered_digits("test").images
  embedded.cluttered_digits.cache_clear()
  again = embedded.cluttered_digits("test").images
  assert images is not again
  assert (
    hashlib.sha256(images.tobytes()).digest()
    == hashlib.sha256(again.tobytes()).digest()
  )


def test_no_digit_is_in_both_splits(monkeypatch):
  """Neither whole nor as a fragment: looks at what each split is made of."""
  seen = {}
  for split in ("train", "test"):
    used = set()

    def render(rng, glyphs, others, used=used):
      used.update(glyph.tobytes() for glyph in glyphs)
      assert used <= {other.tobytes() for other in others}
      used.update(other.tobytes() for other in others)
      shape = (len(glyphs), 32, 32)
      return np.zeros((*shape, 3), np.uint8), np.zeros(shape, bool)

    monkeypatch.setattr(embedded, "_render", render)
    embedded.cluttered_digits.__wrapped__(split)
    seen[split] = used
  assert not seen["train"] & seen["test"]
  number = len({digit.tobytes() for digit in datasets.load_digits().images})
  assert len(seen["train"]) + len(seen["test"]) == number


def test_images_are_those_before_there_were_masks():
  """Within the rounding of another BLAS: no draw was added or moved."""
  images = embedded.cluttered_digits("test").images
  centres = images[[0, 99, 1234, 3999], 16, 16].astype(int)
  before = [[137, 117, 170], [155, 179, 221], [202, 245, 158], [86, 45, 68]]
  np.testing.assert_allclose(centres, before, atol=1)
  np.testing.assert_allclose(images.mean(dtype=float), 97.636241, atol=1e-3)


def test_masks_are_where_the_digit_is():
  """Opaque pixels have one colour, which is nowhere else."""
  digits = embedded.cluttered_digits("test")
  assert isinstance(digits, Segmented)
  rows = np.arange(0, 4_000, 20)
  masks = digits.fetch_masks(rows)
  for image, mask, label in zip(
    digits.images[rows], masks, digits.labels[rows], strict=True
  ):
    assert set(np.unique(mask)) == {0, label + 1}
    inside = image[mask > 0]
    colours, counts = np.unique(inside, axis=0, return_counts=True)
    of_digit = (image == colours[counts.argmax()]).all(-1)
    assert (of_digit & (mask > 0)).sum() >= 5
    assert not (of_digit & (mask == 0)).any()
  covered = (masks > 0).mean((1, 2))
  assert 0.03 < covered.min() < covered.max() < 0.4


def test_placement_is_whole_and_of_the_size_asked_for():
  rng = np.random.default_rng(0)
  opacity = embedded._opacity(rng, np.ones((200, 8, 8), np.float32), (14, 26))
  covered = opacity[..., 0].max(axis=1) > 0.5
  widths = covered.sum(axis=1)
  assert widths.min() >= 12
  assert widths.max() <= 27
  assert widths.std() > 2
  starts = covered.argmax(axis=1)
  assert starts.min() == 0
  assert starts.std() > 2


def test_interpolation_keeps_a_constant():
  weights = embedded._interpolation(np.array([0.0]), np.array([32.0]), 8)
  np.testing.assert_allclose(weights[0, 2:-2].sum(axis=1), 1.0, rtol=1e-6)
  weights = embedded._interpolation(np.array([8.0]), np.array([16.0]), 8)
  assert not weights[0, :6].any()
  assert not weights[0, -6:].any()


def test_background_tells_nothing_of_the_class():
  """The corners, which a digit hardly reaches, have one mean in all classes."""
  digits = embedded.cluttered_digits("train")
  corners = digits.images[:, :2, :2].astype(np.float64).mean(axis=(1, 2, 3))
  means = [corners[digits.labels == label].mean() for label in range(10)]
  standard_error = corners.std() / np.sqrt(2_000)
  assert np.ptp(means) < 5 * standard_error


def test_unknown_split():
  with pytest.raises(ValueError, match=r"train and test, not 'validation'"):
    embedded.cluttered_digits("validation")
