import numpy as np
import pytest


@pytest.fixture
def image_ids():
  """Images with different numbers of views, in no order."""
  return np.array([7, 3, 7, 0, 3, 9, 7, 0, 3, 7, 9, 4])


@pytest.fixture
def gram_matrix():
  """Well-conditioned, of twelve points."""
  rng = np.random.default_rng(1)
  x = rng.normal(size=(12, 3))
  squares = np.sum((x[:, None] - x[None]) ** 2, axis=2)
  return np.exp(-squares / 2) + 0.3 * np.eye(12)
