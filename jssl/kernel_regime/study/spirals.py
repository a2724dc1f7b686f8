"""The toy of the kernel study: two interleaved spirals in the plane.

Points of an arm are moved along it, or in any direction; embeddings are those
of the contrastive closed form, of few dimensions. Which arm a point lies on is
never told. A kernel whose bandwidth bridges the gap between the arms doesn't
tell them apart; one that must be the same over views along an arm does.
"""

from typing import Literal, NamedTuple, get_args

import numpy as np
from jaxtyping import Float, Int
from sklearn.metrics import roc_auc_score

from jssl.kernel_regime.dense import RBF
from jssl.kernel_regime.gram import gram
from jssl.kernel_regime.losses import Contrastive
from jssl.kernel_regime.psd import with_jitter
from jssl.kernel_regime.study.cases import optimum

Noise = Literal["along", "isotropic"]
NOISES: tuple[Noise, ...] = get_args(Noise)

# Angles of an arm, whose radius goes with the angle up to 1.
_FIRST, _LAST = 0.5 * np.pi, 2.5 * np.pi
_IMAGES, _VIEWS = 60, 4
# Standard deviations. Along an arm, two neighbours are 0.12 apart.
_ALONG, _ISOTROPIC = 0.15, 0.05
_BANDWIDTH, _JITTER = 0.2, 1e-4
_DIMS = 2
EXTENT = 1.25


class Toy(NamedTuple):
  """Points of two arms, and two maps of the plane.

  Attributes:
    noise: how views differ.
    points: views of all points.
    arm: 0 or 1, of each.
    raw: leading eigenfunctions of the kernel on a grid, each of its own scale.
    embedding: dimensions of f on it, those of least Tr(B K) first.
    raw_auc: for each, how well its value at the points tells the arms apart:
      the area under the ROC curve, from 0.5 (not at all) to 1.
    embedding_auc: likewise.
    gap: of the loss to its minimum, relative to ||T||^2.
  """

  noise: Noise
  points: Float[np.ndarray, "n 2"]
  arm: Int[np.ndarray, "n"]
  raw: Float[np.ndarray, "g g d"]
  embedding: Float[np.ndarray, "g g d"]
  raw_auc: list[float]
  embedding_auc: list[float]
  gap: float


def _on_arm(
  angle: Float[np.ndarray, "*n"], arm: Int[np.ndarray, "*n"]
) -> Float[np.ndarray, "*n 2"]:
  radius = np.where(arm == 0, 1, -1) * angle / _LAST
  return np.stack([radius * np.cos(angle), radius * np.sin(angle)], axis=-1)


def _views(
  noise: Noise, rng: np.random.Generator
) -> tuple[Float[np.ndarray, "n v 2"], Int[np.ndarray, "n"]]:
  """Returns views of points that are evenly spaced along both arms."""
  half = _IMAGES // 2
  # The length of an arm is about the square of the angle.
  angle = np.tile(np.sqrt(np.linspace(_FIRST**2, _LAST**2, half)), 2)
  arm = np.repeat([0, 1], half)
  if noise == "isotropic":
    moved = rng.normal(scale=_ISOTROPIC, size=(_IMAGES, _VIEWS, 2))
    return _on_arm(angle, arm)[:, None] + moved, arm
  # A step of the angle is so long on the arm.
  length = np.sqrt(1 + angle**2) / _LAST
  steps = rng.normal(scale=_ALONG, size=(_IMAGES, _VIEWS)) / length[:, None]
  return _on_arm(angle[:, None] + steps, arm[:, None]), arm


def _auc(
  arm: Int[np.ndarray, "n"], values: Float[np.ndarray, "n d"]
) -> list[float]:
  found = (float(roc_auc_score(arm, column)) for column in values.T)
  return [max(auc, 1 - auc) for auc in found]


def toy(noise: Noise, *, seed: int, grid: int = 96) -> Toy:
  """Returns the two maps of the plane.

  Args:
    noise: along the arms, or in all directions alike.
    seed: of the views.
    grid: points of a side of the square of half width `EXTENT`.
  """
  moved, arm = _views(noise, np.random.default_rng(seed))
  x, ids = moved.reshape(-1, 2), np.repeat(np.arange(_IMAGES), _VIEWS)
  arm = arm[ids]
  kernel, loss = RBF(_BANDWIDTH), Contrastive()
  k = with_jitter(gram(kernel, x), _JITTER)
  m = optimum(k, loss, ids, d_out=_DIMS, alpha=0.0)
  value = loss.of_embedding(k @ m.T, ids)
  gap = (value - loss.minimum(ids, _DIMS)) / loss.target_squares(ids)

  values, vectors = np.linalg.eigh(k)
  # Nystroem: k(x, X) v / lambda is the eigenfunction, v at the points.
  leading = (vectors[:, ::-1] / values[::-1])[:, :_DIMS]
  side = np.linspace(-EXTENT, EXTENT, grid)
  plane = np.stack(np.meshgrid(side, side), axis=-1)
  k_plane = gram(kernel, plane.reshape(-1, 2), x)
  return Toy(
    noise,
    x,
    arm,
    raw=(k_plane @ leading).reshape(grid, grid, -1),
    embedding=(k_plane @ m.T).reshape(grid, grid, -1),
    raw_auc=_auc(arm, k @ leading),
    embedding_auc=_auc(arm, k @ m.T),
    gap=gap,
  )
