"""How views and images lie to each other.

Rows are normalised where the theory is one of unit vectors; a row of zeros
stays one. Views of an image are the second dimension of `views`, [n, v, d].
"""

from functools import partial

import jax
import jax.numpy as jnp
import numpy as np
from jax.sharding import Mesh
from jaxtyping import Array, Bool, Float, Int

from jssl.diagnostics import blocks
from jssl.diagnostics.checks import (
  check_features,
  check_finite,
  check_positive,
  check_views,
  check_views_differ,
)
from jssl.diagnostics.rows import ROUNDING, product, unit_rows, wide_rows


@partial(jax.jit, static_argnames="normalise")
def _spread(
  counted: Bool[Array, "b"], views: Float[Array, "b v d"], *, normalise: bool
) -> Float[Array, ""]:
  x = wide_rows(views, normalise=normalise)
  # From the first view, so that the mean of equal views is exactly theirs.
  x = x - x[:, :1]
  square = jnp.sum((x - x.mean(1, keepdims=True)) ** 2, (1, 2))
  return jnp.sum(jnp.where(counted, square, 0))


def alignment(
  views: Float[np.ndarray, "n v d"],
  *,
  normalise: bool = True,
  mesh: Mesh | None = None,
) -> float:
  """Returns the mean squared distance between two views of an image, L_align.

      E over images, and pairs a != b of their views, of ||f_a - f_b||^2

  as 2 / (v - 1) sum_a ||f_a - mean of f||^2, in one pass and O(v d) an image.
  0 where features are invariant, 2 for unit vectors that have nothing to do
  with each other. It is 0 at collapse too: read it beside `uniformity`.

  Example:
    >>> import numpy as np
    >>> h = np.random.default_rng(0).normal(size=(100, 4, 8)).astype("float32")
    >>> loss = alignment(h)

  Args:
    views: features of v views of n images, [n, v, d].
    normalise: take the features on the unit sphere, as the paper does.
    mesh: images are split over all its devices; None is one device.

  Raises:
    ValueError: `views` is not [n, v, d] with n >= 1 and v >= 2, or not finite,
      or all views of each image are the same.
    TypeError: it is not of a floating dtype.

  Reference:
    Wang and Isola, "Understanding Contrastive Representation Learning through
    Alignment and Uniformity on the Hypersphere", ICML 2020, eq. 6, alpha = 2.
  """
  check_views(views, rows=1)
  check_views_differ(views)
  n, v = views.shape[:2]
  total = blocks.sums(partial(_spread, normalise=normalise), views, mesh=mesh)
  check_finite(total, views, name="views")
  return float(2 * total / (n * (v - 1)))


@jax.jit
def _log_potential(
  t: Float[Array, ""],
  columns: Float[Array, "n d"],
  rows: Float[Array, "b d"],
  ids: Int[Array, "b"],
) -> Float[Array, "b"]:
  """Returns log sum_j exp(-t |x_i - x_j|^2) over j != i, of each row."""
  square = (
    jnp.sum(rows**2, 1)[:, None]
    + jnp.sum(columns**2, 1)[None]
    - 2 * product(rows, columns.T)
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
  """Returns the logarithm of the mean Gaussian potential of pairs, L_uniform.

      log E over i != j of exp(-t ||f_i - f_j||^2)

  0 at collapse, -2t for orthogonal unit vectors; lower is more uniform. Rows
  are compared with all others, a tile at a time: the work is O(n^2 d). Same as
  `jssl.losses.uniformity`, with sums in float64 and for any number of rows.

  Example:
    >>> import numpy as np
    >>> h = np.random.default_rng(0).normal(size=(100, 8)).astype("float32")
    >>> loss = uniformity(h)

  Args:
    features: of one view of each image, [n, d].
    t: positive; 2 in the paper.
    normalise: take the features on the unit sphere, as the paper does.
    max_rows: of more rows only so many are compared, evenly spaced and always
      the same; they are held in memory.
    mesh: rows are split over all its devices; None is one device.

  Raises:
    ValueError: `features` is not [n, d] with n >= 2, or not finite, or t <= 0,
      or max_rows < 2.
    TypeError: it is not of a floating dtype.

  Reference:
    Wang and Isola, 2020 (see `alignment`), eq. 7.
  """
  check_features(features)
  check_positive(t=t)
  if max_rows < 2:
    raise ValueError(f"max_rows must be at least 2, not {max_rows}")
  n = min(len(features), max_rows)
  chosen = np.asarray(features[np.arange(n) * len(features) // n])
  check_finite(chosen, chosen)
  x = unit_rows(chosen) if normalise else chosen.astype(np.float64)
  # Distances don't change, but products of what is near 0 keep more digits.
  x = (x - x.mean(0)).astype(np.float32)
  rows = blocks.rounded(min(blocks.tile_rows(n), n), mesh)
  columns = blocks.everywhere(x, mesh)
  by_row = np.zeros(n)
  for start in range(0, n, rows):
    ids = np.arange(start, start + rows)
    # What fills up the last block is counted nowhere.
    block = blocks.split((x[ids % n], ids), mesh)
    potential = np.asarray(_log_potential(t, columns, *block), np.float64)
    by_row[start : start + rows] = potential[: n - start]
  return float(np.logaddexp.reduce(by_row) - np.log(n) - np.log(n - 1))


@jax.jit
def _scatters(
  shift: Float[Array, "d"],
  counted: Bool[Array, "b"],
  views: Float[Array, "b v d"],
) -> tuple[Float[Array, "d"], Float[Array, "d d"], Float[Array, "d d"]]:
  """Returns sums over images: m, m m^T, and that of views about m."""
  x = views.astype(shift.dtype) - shift[None, None]
  x = jnp.where(counted[:, None, None], x, 0)
  mean = x.mean(1)
  rest = (x - mean[:, None]).reshape(-1, x.shape[2])
  return mean.sum(0), mean.T @ mean, rest.T @ rest


def lidar(
  views: Float[np.ndarray, "n v d"],
  *,
  delta: float = 1e-4,
  epsilon: float = 1e-7,
  mesh: Mesh | None = None,
) -> float:
  """Returns LiDAR, the rank of the features that tell images apart.

  The effective rank of linear discriminant analysis with each image a class:

      S_b = E (mu_i - mu) (mu_i - mu)^T         mu_i the mean of image i's views
      S_w = E (f - mu_i) (f - mu_i)^T + delta I
      lambda the eigenvalues of S_w^-1/2 S_b S_w^-1/2
      p = lambda / sum lambda + epsilon,        LiDAR = exp(-sum p log p)

  The paper writes expectations: here they are means over the n images, and over
  the n v views. From 1 (one direction, or collapse to a point) to about
  min(d, n - 1). Features are taken as they are, so `delta` is in their squared
  unit. One pass and O(d^2) memory, in float64 on the device too: eigenvalues of
  S_w may be far below its largest.

  Example:
    >>> import numpy as np
    >>> h = np.random.default_rng(0).normal(size=(100, 4, 8)).astype("float32")
    >>> rank = lidar(h)

  Args:
    views: features of v views of n images, [n, v, d]; thousands of images, or
      more than d, and 10 views or more for a stable number.
    delta: keeps S_w from being singular.
    epsilon: keeps the logarithm finite.
    mesh: images are split over all its devices; None is one device.

  Raises:
    ValueError: `views` is not [n, v, d] with n, v >= 2, or not finite; all
      views of each image are the same; delta or epsilon isn't positive.
    TypeError: it is not of a floating dtype.

  Reference:
    Thilak et al., "LiDAR: Sensing Linear Probing Performance in Joint Embedding
    SSL Architectures", 2023 (arXiv 2312.04000), section 4.
  """
  check_views(views)
  check_positive(delta=delta, epsilon=epsilon)
  check_views_differ(views)
  n, v, d = views.shape
  with np.errstate(invalid="ignore"):
    first = views[: blocks.block_images(views)]
    shift = first.mean((0, 1), dtype=np.float64)
  with jax.enable_x64(True):
    total, products, within = blocks.sums(
      partial(_scatters, shift), views, mesh=mesh
    )
  check_finite((total, products, within), views, name="views")
  offset = total / n
  between = products / n - np.outer(offset, offset)
  factor = np.linalg.cholesky(within / (n * v) + delta * np.eye(d))
  half = np.linalg.solve(factor, between)
  values = np.linalg.eigvalsh(np.linalg.solve(factor, half.T))
  shares = np.zeros(d)
  if np.trace(between) > ROUNDING * np.sum((shift + offset) ** 2):
    values = np.maximum(values, 0)
    shares = values / values.sum()
  shares = shares + epsilon
  return float(np.exp(-np.sum(shares * np.log(shares))))
