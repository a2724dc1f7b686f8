"""Losses as the papers' sums, in float64 loops."""

import math

import numpy as np


def nt_xent(z1: np.ndarray, z2: np.ndarray, temperature: float) -> float:
  """SimCLR, eq. 1, averaged over the 2b rows."""
  z = [row / max(np.linalg.norm(row), 1e-12) for row in [*z1, *z2]]
  b, total = len(z1), 0.0
  for i in range(2 * b):
    partner = (i + b) % (2 * b)
    others = [
      math.exp(float(z[i] @ z[k]) / temperature) for k in range(2 * b) if k != i
    ]
    positive = math.exp(float(z[i] @ z[partner]) / temperature)
    total -= math.log(positive / sum(others))
  return total / (2 * b)
