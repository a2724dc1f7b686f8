import numpy as np
import pytest

from jssl import mesh
from jssl.probe.features import Features


def draw(rows, seed=0, dim=6, num_classes=4, separation=1.0):
  """Gaussian classes about means that are the same for every seed."""
  means = np.random.default_rng(99).normal(size=(num_classes, dim))
  rng = np.random.default_rng(seed)
  labels = rng.permutation(np.arange(rows) % num_classes).astype(np.int32)
  scale = np.geomspace(1, 0.1, dim)
  h = (separation * means[labels] + rng.normal(size=(rows, dim))) * scale + 2
  return Features(h.astype(np.float32), labels, num_classes)


@pytest.fixture
def train():
  return draw(302, seed=1)


@pytest.fixture
def test():
  return draw(203, seed=2)


@pytest.fixture
def one_device():
  return mesh.make_mesh(1, 1)


@pytest.fixture
def eight_devices():
  return mesh.make_mesh(4, 2)
