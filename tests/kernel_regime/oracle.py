"""Kernels and losses as loops over pairs, in float64."""

import itertools
import math

import numpy as np

_GRID, _WEIGHTS = np.polynomial.legendre.leggauss(16)


def relu_moments(xx, yy, xy):
  """2 E[relu(u) relu(v)] and 2 E[1(u > 0) 1(v > 0)], by angles.

  (u, v) = r (sqrt(xx) cos a, sqrt(yy) cos(a - theta)), a uniform, E r^2 = 2.
  """
  if xx == 0 or yy == 0:
    return 0.0, 0.0
  theta = math.acos(min(max(xy / math.sqrt(xx * yy), -1), 1))
  # Both are positive for a from theta - pi / 2 to pi / 2.
  half = (math.pi - theta) / 2
  angles = theta / 2 + half * _GRID
  inside = np.cos(angles) * np.cos(angles - theta)
  first = 4 * math.sqrt(xx * yy) * half * (_WEIGHTS @ inside) / (2 * math.pi)
  return first, 2 * (2 * half) / (2 * math.pi)


def mlp(x, y, depth):
  """Returns (Sigma, Theta) of two vectors."""
  d = len(x)
  xx, yy, xy = (
    sum(p * q for p, q in zip(*ab, strict=True)) / d
    for ab in ((x, x), (y, y), (x, y))
  )
  tangent = xy
  for _ in range(depth):
    covariance, slope = relu_moments(xx, yy, xy)
    xx, yy = relu_moments(xx, xx, xx)[0], relu_moments(yy, yy, yy)[0]
    tangent = covariance + tangent * slope
    xy = covariance
  return xy, tangent


def convolutional(x, y, depth, size=3):
  """Returns (Sigma, Theta)[p, q] of two images, for all pairs of pixels."""
  h, w, c = x.shape
  pixels = list(itertools.product(range(h), range(w)))
  half = size // 2
  window = list(itertools.product(range(-half, half + 1), repeat=2))

  def products(a, b):
    return {(p, q): float(a[p] @ b[q]) / c for p in pixels for q in pixels}

  def convolved(s):
    return {
      (p, q): sum(
        s.get(((p[0] + i, p[1] + j), (q[0] + i, q[1] + j)), 0.0)
        for i, j in window
      )
      / size**2
      for p, q in s
    }

  xx, yy, xy = products(x, x), products(y, y), products(x, y)
  tangent = dict.fromkeys(xy, 0.0)
  for _ in range(depth):
    xx, yy, xy, tangent = map(convolved, (xx, yy, xy, tangent))
    moments = {
      (p, q): relu_moments(xx[p, p], yy[q, q], s) for (p, q), s in xy.items()
    }
    tangent = {k: (tangent[k] + xy[k]) * moments[k][1] for k in xy}
    xy = {k: moments[k][0] for k in xy}
    xx = {
      (p, q): relu_moments(xx[p, p], xx[q, q], s)[0] for (p, q), s in xx.items()
    }
    yy = {
      (p, q): relu_moments(yy[p, p], yy[q, q], s)[0] for (p, q), s in yy.items()
    }
  return [
    np.array([[values[p, q] for q in pixels] for p in pixels])
    for values in (xy, tangent)
  ]


def adjacency(ids):
  n = len(ids)
  return np.array(
    [[float(i != j and ids[i] == ids[j]) for j in range(n)] for i in range(n)]
  )


def laplacian(ids):
  a = adjacency(ids)
  return np.diag(a.sum(1)) - a


def contrastive(z, ids):
  return np.sum((z @ z.T - np.eye(len(z)) - adjacency(ids)) ** 2)


def non_contrastive(z, ids, beta):
  n, d = z.shape
  c = np.eye(n) - np.ones((n, n)) / n
  covariance = np.sum((z.T @ c @ z - np.eye(d)) ** 2)
  return covariance + beta * np.trace(z.T @ laplacian(ids) @ z)
