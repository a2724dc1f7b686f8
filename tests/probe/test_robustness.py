import jax
import numpy as np
import pytest
from oracles.probe import SETTINGS
from sklearn.datasets import load_digits

from jssl import rng
from jssl.augment import corrupt
from jssl.config.schema import Probe
from jssl.data.source import InMemory
from jssl.probe import robustness
from jssl.probe.dataset import FeatureSet
from jssl.probe.encoders import pixels
from jssl.probe.features import Features
from jssl.probe.suite import fit_linear

PROBE = Probe(**SETTINGS, corrupted_images=150, batch_size=64)
CASES = [("gaussian_noise", 2), ("gaussian_noise", 5), ("jpeg_compression", 5)]


class Dataset:
  """Digits of 8 px, doubled, with what the probe reads of a data set."""

  def __init__(self, mesh):
    found = load_digits()
    images = (255 / 16 * found.images).astype(np.uint8)[..., None]
    images, labels = images.repeat(2, 1).repeat(2, 2), found.target
    names = tuple("0123456789")
    self.name, self.global_mesh = "digits", mesh
    self.train, self.test = (
      InMemory("digits", names, images[rows], labels[rows].astype(np.int32))
      for rows in (slice(400), slice(400, 700))
    )

  def features(self, mesh):
    encoder = pixels(self.train, crop_size_px=16, max_dim=40)
    train, test = (
      Features(np.asarray(encoder.encode(x.images)), x.labels, 10)
      for x in (self.train, self.test)
    )
    return FeatureSet(encoder, train, test, mesh)


def measure(mesh, monkeypatch):
  monkeypatch.setattr(robustness, "_CASES", CASES)
  data = Dataset(mesh)
  (record,) = robustness.robustness_records(
    PROBE, data.features(mesh), data, crop_size_px=16
  )
  return data, record


@pytest.mark.slow
def test_accuracy_is_that_of_each_image_corrupted_alone(
  one_device, eight_devices, monkeypatch
):
  data, record = measure(eight_devices, monkeypatch)
  found = data.features(one_device)
  predict = fit_linear(PROBE, found.train, found.test, one_device).predict
  drawn = np.sort(np.random.default_rng(0).permutation(300)[:150])
  images, labels = data.test.images[drawn], data.test.labels[drawn]

  def accuracy(views):
    h = np.asarray(found.encoder.encode(views))
    return (predict(h).labels == labels).mean()

  tolerance = 1.5 / 300
  np.testing.assert_allclose(
    record.clean_accuracy, accuracy(images), atol=tolerance
  )
  assert record.clean_accuracy > 0.8
  seen = []
  for name, severity in CASES:
    key = rng.stream(rng.root(0), name, severity)
    views = np.concatenate(
      [
        jax.jit(corrupt, static_argnums=(0, 1))(
          name, severity, jax.random.fold_in(key, i)[None], image[None] / 255.0
        )
        for i, image in enumerate(images.astype(np.float32))
      ]
    )
    seen.append(accuracy(views))
  assert record.accuracy.keys() == {"gaussian_noise", "jpeg_compression"}
  got = [
    *record.accuracy["gaussian_noise"],
    *record.accuracy["jpeg_compression"],
  ]
  np.testing.assert_allclose(got, seen, atol=tolerance)
  np.testing.assert_allclose(record.corrupted_accuracy, np.mean(got))
  assert record.images == record.images_requested == 150


def test_corrupted_images_need_the_linear_probe():
  match = "corrupted_images=9: expected 0 with .*'knn'"
  with pytest.raises(ValueError, match=match):
    Probe(probes=("knn",), corrupted_images=9)
