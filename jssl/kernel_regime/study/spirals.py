"""Toy problem of the kernel study: two interleaved spirals in the plane.

Views move a point along its arm, or in any direction. The embeddings are
contrastive closed forms of two dimensions; the arm of a point is never given. A
kernel whose bandwidth bridges the gap between the arms does not separate them,
but one that is invariant to views along an arm does.
"""

from typing import Literal, NamedTuple, get_args

import numpy as np
from jaxtyping import Float, Int
from sklearn.metrics import roc_auc_score

from jssl.kernel_regime.dense import RBF
from jssl.kernel_regime.gram import gram
from jssl.kernel_regime.losses import Contrastive
from jssl.kernel_regime.psd import with_jitter
from jssl.kernel_regime.solvers import solve

Noise = Literal["along", "isotropic"]
NOISES: tuple[Noise, ...] = get_args(Noise)

# Range of the angle of an arm; the radius is proportional to it, up to 1.
_FIRST, _LAST = 0.5 * np.pi, 2.5 * np.pi
_IMAGES, _VIEWS = 60, 4
# Standard deviations. Neighbours on an arm are 0.12 apart.
_ALONG, _ISOTROPIC = 0.15, 0.05
_BANDWIDTH, _JITTER = 0.2, 1e-4
_DIMS = 2
# Half width of the square that is drawn.
EXTENT = 1.25


class Spirals(NamedTuple):
  """Views [n, 2] of points on two arms (0 or 1), and two maps of the plane.

  `raw` are the leading eigenfunctions of the kernel on a grid [g, g, d],
  `embedding` the dimensions of f, least Tr(B K) first. The `_auc` are areas
  under the ROC curve as classifiers of the arm. `gap` is relative to ||T||^2.
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
  angle: Float[np.ndarray, "*#n"], arm: Int[np.ndarray, "*#n"]
) -> Float[np.ndarray, "*#n 2"]:
  radius = np.where(arm == 0, 1, -1) * angle / _LAST
  return np.stack([radius * np.cos(angle), radius * np.sin(angle)], axis=-1)


def _views(
  noise: Noise, rng: np.random.Generator
) -> tuple[Float[np.ndarray, "n v 2"], Int[np.ndarray, "n"]]:
  """Views of points that are evenly spaced along both arms."""
  half = _IMAGES // 2
  # The length of an arm grows like the square of the angle.
  angle = np.tile(np.sqrt(np.linspace(_FIRST**2, _LAST**2, half)), 2)
  arm = np.repeat([0, 1], half)
  if noise == "isotropic":
    shift = rng.normal(scale=_ISOTROPIC, size=(_IMAGES, _VIEWS, 2))
    return _on_arm(angle, arm)[:, None] + shift, arm
  # Length on the arm per unit of the angle.
  length = np.sqrt(1 + angle**2) / _LAST
  steps = rng.normal(scale=_ALONG, size=(_IMAGES, _VIEWS)) / length[:, None]
  return _on_arm(angle[:, None] + steps, arm[:, None]), arm


def _auc(
  arm: Int[np.ndarray, "n"], values: Float[np.ndarray, "n d"]
) -> list[float]:
  aucs = (float(roc_auc_score(arm, column)) for column in values.T)
  return [max(auc, 1 - auc) for auc in aucs]


def make_spirals(noise: Noise, *, seed: int, grid: int = 96) -> Spirals:
  """Samples the views and computes both maps on a square grid."""
  points, arm = _views(noise, np.random.default_rng(seed))
  x, ids = points.reshape(-1, 2), np.repeat(np.arange(_IMAGES), _VIEWS)
  arm = arm[ids]
  kernel, loss = RBF(_BANDWIDTH), Contrastive()
  k = with_jitter(gram(kernel, x), _JITTER)
  m = solve(k, loss, ids, d_out=_DIMS)

  values, vectors = np.linalg.eigh(k)
  # Nystroem: k(x, X) v / lambda is the eigenfunction with values v at X.
  leading = (vectors[:, ::-1] / values[::-1])[:, :_DIMS]
  side = np.linspace(-EXTENT, EXTENT, grid)
  plane = np.stack(np.meshgrid(side, side), axis=-1)
  k_plane = gram(kernel, plane.reshape(-1, 2), x)
  return Spirals(
    noise,
    x,
    arm,
    raw=(k_plane @ leading).reshape(grid, grid, -1),
    embedding=(k_plane @ m.T).reshape(grid, grid, -1),
    raw_auc=_auc(arm, k @ leading),
    embedding_auc=_auc(arm, k @ m.T),
    gap=loss.relative_gap(loss.value(k @ m.T, ids), ids, _DIMS),
  )
