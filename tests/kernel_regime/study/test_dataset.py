import io

import jax
import numpy as np
import pytest

from jssl import rng
from jssl.config.build import open_split
from jssl.config.parse import parse
from jssl.data.source import InMemory
from jssl.kernel_regime.gram import gram as kernel_gram
from jssl.kernel_regime.study import dataset
from jssl.kernel_regime.study.config import KernelStudy
from jssl.kernel_regime.study.dataset import GramMatrices


def grams(images=4, views=3, test=2):
  points = images * (views + 1)
  k = np.arange(points**2, dtype=float).reshape(points, points)
  return GramMatrices(
    k,
    np.ones((test, points)),
    np.arange(images) % 2,
    np.arange(test),
    ("a", "b"),
    "RBF(bandwidth=2.0)",
    0.5,
  )


def test_where_the_points_are():
  found = grams()
  np.testing.assert_array_equal(found.image_rows(), [12, 13, 14, 15])
  np.testing.assert_array_equal(found.image_rows(2), [12, 13])
  np.testing.assert_array_equal(found.view_rows(3), np.arange(12))
  np.testing.assert_array_equal(found.view_rows(2, 3), [0, 1, 3, 4, 6, 7])


def test_what_is_saved_is_loaded(tmp_path):
  path = tmp_path / "gram.npz"
  assert dataset.load(path) is None
  dataset.save(path, grams())
  loaded = dataset.load(path)
  for one, two in zip(loaded, grams(), strict=True):
    np.testing.assert_array_equal(one, two)
  assert type(loaded.kernel) is str
  assert [*tmp_path.iterdir()] == [path]


def flipped(data):
  """Every 50th bit."""
  bits = np.unpackbits(np.frombuffer(data, np.uint8))
  bits[::50] ^= 1
  return np.packbits(bits).tobytes()


def without_labels(data):
  arrays = dict(np.load(io.BytesIO(data)))
  del arrays["labels"]
  file = io.BytesIO()
  np.savez(file, **arrays)
  return file.getvalue()


@pytest.mark.parametrize(
  "damage",
  [
    lambda data: data[:-100],
    lambda data: b"",
    lambda data: bytes(len(data)),
    lambda data: b"garbage",
    flipped,
    without_labels,
  ],
)
def test_a_damaged_file_is_told_and_not_loaded(tmp_path, damage, caplog):
  path = tmp_path / "gram.npz"
  dataset.save(path, grams())
  path.write_bytes(damage(path.read_bytes()))
  assert dataset.load(path) is None
  assert f"Computing {path} again; it is damaged (" in caplog.text


def source(labels):
  labels = np.array(labels, np.int32)
  pixels = np.arange(len(labels), dtype=np.uint8)[:, None, None, None]
  images = np.tile(pixels, (1, 2, 2, 1))
  return InMemory("some", ("a", "b", "c"), images, labels)


def test_any_part_of_the_images_is_even_over_classes():
  labels = np.repeat([0, 1, 2], 40)
  drawn = dataset._sample_images(source(labels), 30, key="images", seed=(0, 0))
  own = drawn["image"][:, 0, 0, 0]
  assert len({*own}) == 30
  np.testing.assert_array_equal(labels[own], drawn["label"])
  for part in (3, 12, 30):
    counts = np.bincount(drawn["label"][:part])
    np.testing.assert_array_equal(counts, part // 3)
  other = dataset._sample_images(source(labels), 30, key="images", seed=(1, 0))
  assert {*other["image"][:, 0, 0, 0]} != {*own}


def test_refuses_images_that_are_not_there():
  with pytest.raises(ValueError, match=r"problem\.images=5, but some has 4"):
    dataset._sample_images(source([0] * 4), 5, key="images", seed=(0, 0))
  with pytest.raises(ValueError, match=r"data\.name='some'.*without labels"):
    dataset._sample_images(source([0, -1]), 2, key="images", seed=(0, 0))


@pytest.fixture(scope="module")
def config():
  return parse(
    {
      "data": {
        "name": "cluttered_digits",
        "batch_size": 4,
        "image_size_px": 32,
      },
      "augment": {"crop_size_px": 32, "crop_min_area": 0.5},
      "kernel": {"name": "rbf", "bandwidth": 12.0},
      "problem": {"images": 8, "views": 2, "test_images": 3},
    },
    KernelStudy,
  )


def rbf(x, y):
  rows, others = x.reshape(len(x), 1, -1), y.reshape(1, len(y), -1)
  return np.exp(-np.sum((rows - others) ** 2, axis=2) / 2 / 12**2)


def test_grams_are_those_of_the_images_and_their_views(config):
  found = dataset.compute_grams(config)
  images = {}
  for split, number in (("train", 8), ("test", 3)):
    drawn = dataset._sample_images(
      open_split(config.data, split),
      number,
      key=split,
      seed=(0, int(split == "test")),
    )
    images[split] = drawn
  np.testing.assert_array_equal(found.labels, images["train"]["label"])
  np.testing.assert_array_equal(found.labels_test, images["test"]["label"])
  # A view depends on nothing but its image, its key and its number.
  keys = rng.per_row(rng.stream(jax.random.key(0), "augment"), 8)
  made = dataset._augmented(
    config.augment, keys[:4], images["train"]["image"][:4], 2
  )
  seen = np.asarray(made, np.float64).swapaxes(0, 1).reshape(8, 32, 32, 3)
  whole = [images[split]["image"] / 255 for split in ("train", "test")]
  own, at = found.image_rows(), found.view_rows(2, 4)
  for k, expected in (
    (found.k[np.ix_(at, at)], rbf(seen, seen)),
    (found.k[np.ix_(own, at)], rbf(whole[0], seen)),
    (found.k_test[:, own], rbf(whole[1], whole[0])),
  ):
    np.testing.assert_allclose(k, expected, rtol=1e-5)
  assert found.kernel == "RBF(bandwidth=12.0)"
  assert found.k.shape == (24, 24)
  assert found.k_test.shape == (3, 24)


def test_all_devices_of_the_process_take_a_part(config, monkeypatch):
  meshes = []

  def gram(*points, mesh, **limits):
    meshes.append(mesh)
    return kernel_gram(*points, mesh=mesh, **limits)

  monkeypatch.setattr(dataset, "gram", gram)
  split = dataset.compute_grams(config)
  devices = {*jax.local_devices()}
  assert len(devices) == 8
  assert [{*mesh.devices.flat} for mesh in meshes] == [devices, devices]
  monkeypatch.setattr(
    dataset, "gram", lambda *a, mesh, **b: kernel_gram(*a, **b)
  )
  whole = dataset.compute_grams(config)
  np.testing.assert_allclose(split.k, whole.k, rtol=1e-12)
  np.testing.assert_allclose(split.k_test, whole.k_test, rtol=1e-12)


def test_views_that_change_nothing_are_refused(config, monkeypatch):
  monkeypatch.setattr(
    dataset, "_views", lambda *a, **b: np.zeros((16, 32, 32, 3))
  )
  with pytest.raises(ValueError, match=r"identical.*check the `augment`"):
    dataset.compute_grams(config)
