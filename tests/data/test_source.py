import sys

import numpy as np
import pytest

from jssl.data.open import open_source
from jssl.data.source import InMemory, load


def test_in_memory_fetches_rows_in_their_order():
  images = np.random.default_rng(0).integers(0, 256, (5, 2, 3, 1), np.uint8)
  source = InMemory(
    "five", ("a", "b"), images, np.array([0, 1, 0, 1, 0], np.int32)
  )
  assert len(source) == 5
  assert source.num_classes == 2
  assert source.image_shape == (2, 3, 1)
  batch = source.fetch(np.array([4, 1, 1]))
  np.testing.assert_array_equal(batch["image"], images[[4, 1, 1]])
  assert batch["label"].tolist() == [0, 1, 1]


def test_load_reads_every_row_once():
  rng = np.random.default_rng(0)
  images = rng.integers(0, 256, (10, 2, 2, 3), np.uint8)
  source = InMemory("ten", (), images, np.arange(10, dtype=np.int32))
  loaded = load(source, chunk_size=4)
  np.testing.assert_array_equal(loaded.images, source.images)
  np.testing.assert_array_equal(loaded.labels, source.labels)
  assert (loaded.name, loaded.class_names) == ("ten", ())


def test_embedded_set_opens_by_name():
  source = open_source("cluttered_digits", split="test", image_size_px=32)
  assert len(source) == 4_000
  assert source.num_classes == 10
  assert source.image_shape == (32, 32, 3)


@pytest.mark.parametrize("image_size_px", [0, 28])
def test_image_size_must_be_there(image_size_px):
  with pytest.raises(ValueError, match=r"data\.image_size_px="):
    open_source("cluttered_digits", image_size_px=image_size_px)


def test_package_imports_nothing_heavy():
  import subprocess

  code = "import jssl.data, sys; print(*sys.modules)"
  printed = subprocess.run(
    [sys.executable, "-c", code], capture_output=True, text=True, check=True
  ).stdout.split()
  assert not {"numpy", "jax", "grain", "tensorflow_datasets"} & set(printed)


def test_fingerprint_of_arrays():
  images = np.zeros((5, 2, 2, 3), np.uint8)
  labels = np.arange(5, dtype=np.int32)

  def fingerprint(images=images, labels=labels):
    return InMemory("five", (), images, labels).fingerprint()

  assert fingerprint().startswith("5 images, 60 bytes, checksum ")
  assert fingerprint() == fingerprint(images.copy())
  assert fingerprint() != fingerprint(images + np.uint8(1))
  assert fingerprint() != fingerprint(labels=labels[::-1])
