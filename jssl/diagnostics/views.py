"""Alignment of views, uniformity of images, and LiDAR."""

import jax
import jax.numpy as jnp
import numpy as np
from jax.sharding import Mesh
from jaxtyping import Array, Float, Int, Num

from jssl.diagnostics import checks, pairs
from jssl.diagnostics.rows import (
  ROUNDING,
  float64_blocks,
  float64_rows,
  unit_rows,
)


def alignment(
  views: Float[np.ndarray, "n v d"], *, normalise: bool = True
) -> float:
  """Mean squared distance between two views of an image, L_align.

      E over images, and pairs a != b of their views, of ||f_a - f_b||^2

  0 if features are invariant, 2 for unrelated unit vectors. It is 0 at collapse
  too: read it together with `uniformity`.

  Example:
    >>> h = np.random.default_rng(0).normal(size=(100, 4, 8)).astype("float32")
    >>> loss = alignment(h)

  Args:
    views: features of v >= 2 views of n images, [n, v, d].
    normalise: True to project features onto the unit sphere, as in the paper.

  Reference:
    Wang and Isola, "Understanding Contrastive Representation Learning through
    Alignment and Uniformity on the Hypersphere", ICML 2020, eq. 6, alpha = 2.
  """
  checks.check_views(views, rows=1)
  total = 0.0
  for (x,) in float64_blocks(views=views):
    x = unit_rows(x) if normalise else x
    # Relative to the first view, so that equal views have exactly that mean.
    x = x - x[:, :1]
    total += np.sum((x - x.mean(1, keepdims=True)) ** 2)
  n, v = views.shape[:2]
  return float(2 * total / (n * (v - 1)))


@jax.jit
def _log_potential(
  t: Num[Array, ""],
  columns: Float[Array, "n d"],
  rows: Float[Array, "b d"],
  ids: Int[Array, "b"],
) -> Float[Array, "b"]:
  """Returns log sum_{j != i} exp(-t |x_i - x_j|^2) of each row i."""
  square = (
    jnp.sum(rows**2, 1)[:, None]
    + jnp.sum(columns**2, 1)[None]
    - 2 * pairs.product(rows, columns.T)
  )
  own = ids[:, None] == jnp.arange(len(columns))[None]
  exponent = jnp.where(own, -jnp.inf, -t * jnp.maximum(square, 0))
  return jax.nn.logsumexp(exponent, axis=1)


def uniformity(
  features: Float[np.ndarray, "n d"],
  *,
  t: float = 2.0,
  normalise: bool = True,
  max_rows: int = 8192,
  mesh: Mesh | None = None,
) -> float:
  """Logarithm of the mean Gaussian potential of pairs of images, L_uniform.

      log E over i != j of exp(-t ||f_i - f_j||^2)

  0 at collapse, -2t for orthogonal unit vectors; lower is more uniform. Equals
  `jssl.losses.uniformity`, but sums in float64 and takes any number of rows.

  Example:
    >>> h = np.random.default_rng(0).normal(size=(100, 8)).astype("float32")
    >>> loss = uniformity(h)

  Args:
    features: features of one view of each image, [n, d].
    t: inverse width of the potential; 2 in the paper.
    normalise: True to project features onto the unit sphere, as in the paper.
    max_rows: largest number of rows to compare; more rows are subsampled at
      even distances. The rows are held in memory.

  Reference:
    Wang and Isola, 2020 (see `alignment`), eq. 7.
  """
  checks.check_features(features)
  checks.check_positive(t=t)
  if max_rows < 2:
    raise ValueError(f"max_rows must be at least 2, not {max_rows}")
  n = min(len(features), max_rows)
  chosen = features[np.arange(n) * len(features) // n]
  x = float64_rows(features=chosen)
  x = unit_rows(x) if normalise else x
  # Centring keeps the distances, and products of small entries more digits.
  x = (x - x.mean(0)).astype(np.float32)
  by_row = pairs.map_tiles(
    _log_potential, (t, x), x, np.arange(n), row_pairs=n, mesh=mesh
  ).astype(np.float64)
  return float(np.logaddexp.reduce(by_row) - np.log(n) - np.log(n - 1))


def lidar(
  views: Float[np.ndarray, "n v d"],
  *,
  delta: float = 1e-4,
  epsilon: float = 1e-7,
) -> float:
  """LiDAR: the number of feature directions that tell images apart.

  Effective rank of linear discriminant analysis with each image as a class:

      S_b = E (mu_i - mu) (mu_i - mu)^T     mu_i: mean of the views of image i
      S_w = E (f - mu_i) (f - mu_i)^T + delta I
      lambda = eigenvalues of S_w^-1/2 S_b S_w^-1/2
      p = lambda / sum lambda + epsilon,    LiDAR = exp(-sum p log p)

  The result is from 1 (one direction, or collapse) to about min(d, n - 1).

  Example:
    >>> h = np.random.default_rng(0).normal(size=(100, 4, 8)).astype("float32")
    >>> rank = lidar(h)

  Args:
    views: features of v views of n images, [n, v, d], not normalised. A stable
      result needs thousands of images, more than d, and at least 10 views.
    delta: regularisation of S_w, in squared units of the features.
    epsilon: constant added to each share.

  Reference:
    Thilak et al., "LiDAR: Sensing Linear Probing Performance in Joint Embedding
    SSL Architectures", 2023 (arXiv 2312.04000), section 4.
  """
  checks.check_views(views)
  checks.check_positive(delta=delta, epsilon=epsilon)
  n, v, d = views.shape
  means, within = [], np.zeros((d, d))
  for (x,) in float64_blocks(views=views):
    means.append(x.mean(1))
    rest = (x - means[-1][:, None]).reshape(-1, d)
    within += rest.T @ rest
  images = np.concatenate(means)
  mean = images.mean(0)
  centred = images - mean
  between = centred.T @ centred / n
  factor = np.linalg.cholesky(within / (n * v) + delta * np.eye(d))
  half = np.linalg.solve(factor, between)
  values = np.linalg.eigvalsh(np.linalg.solve(factor, half.T))
  shares = np.zeros(d)
  if np.trace(between) > ROUNDING * np.sum(mean**2):
    values = np.maximum(values, 0)
    shares = values / values.sum()
  shares = shares + epsilon
  return float(np.exp(-np.sum(shares * np.log(shares))))
