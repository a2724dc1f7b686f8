"""Shared views and features, and reference values by loops."""

import itertools

import numpy as np


def images(n=7, m=3, p=4, seed=0):
  """Views of images, in pixels."""
  return np.random.default_rng(seed).random((n, m, p)).astype(np.float32)


def exact_distances(views):
  """Augmented distances, one pair of views at a time."""
  x = views.astype(np.float64).reshape(*views.shape[:2], -1)
  n = len(x)
  distances = np.zeros((n, n))
  for i, j in itertools.combinations(range(n), 2):
    nearest = min(np.linalg.norm(a - b) for a in x[i] for b in x[j])
    distances[i, j] = distances[j, i] = nearest
  return distances


def features(n=7, v=2, d=4, noise=0.3, offset=0.0):
  """Features of views of images."""
  rng = np.random.default_rng(0)
  x = rng.normal(size=(n, 1, d)) + noise * rng.normal(size=(n, v, d)) + offset
  return x.astype(np.float32)


def labelled(n=45, v=3, d=6, k=5, offset=0.0):
  """Features of views in k classes, with a different scale per column."""
  rng = np.random.default_rng(0)
  labels = rng.permutation(np.arange(n) % k)
  classes = rng.normal(size=(k, d))
  x = classes[labels] + 0.7 * rng.normal(size=(n, d))
  views = x[:, None] + 0.5 * rng.normal(size=(n, v, d))
  views = views * np.geomspace(1, 0.1, d) + offset
  return views.astype(np.float32), labels


def unit(x):
  return x / np.linalg.norm(x, axis=-1, keepdims=True)


def rows_of(x, normalise):
  """List of rows in float64."""
  x = x.astype(np.float64)
  return [row / np.linalg.norm(row) if normalise else row for row in x]


def cosine(x, y):
  return x @ y / (np.linalg.norm(x) * np.linalg.norm(y))
