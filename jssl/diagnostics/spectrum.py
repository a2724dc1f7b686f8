"""The singular spectrum of features, and what is read off it.

`singular_values` takes one pass over the features and O(d^2) memory; the
measures are functions of what it gives.
"""

from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jax.sharding import Mesh
from jaxtyping import Array, Bool, Float

from jssl.diagnostics.blocks import BLOCK_ROWS, sums
from jssl.diagnostics.checks import check_features, check_finite
from jssl.diagnostics.rows import ROUNDING

Values = Float[np.ndarray, "d"]


class SecondMoment(NamedTuple):
  """The first two moments of the rows of a matrix, in float64.

  Attributes:
    rows: n, the number of rows.
    mean: of the rows.
    scatter: sum of (x - mean) (x - mean)^T over the rows.
  """

  rows: int
  mean: Float[np.ndarray, "d"]
  scatter: Float[np.ndarray, "d d"]

  @property
  def std(self) -> Values:
    """Standard deviation of each column, dividing by n."""
    return np.sqrt(np.maximum(np.diag(self.scatter), 0) / self.rows)


def _host_sums(
  features: Float[np.ndarray, "n d"],
  shift: Float[np.ndarray, "d"],
  block_rows: int,
) -> tuple[Float[np.ndarray, "d"], Float[np.ndarray, "d d"]]:
  total, products = np.zeros(len(shift)), np.zeros((len(shift),) * 2)
  buffer = np.empty((min(block_rows, len(features)), len(shift)))
  for start in range(0, len(features), block_rows):
    block = features[start : start + block_rows]
    x = np.subtract(block, shift, out=buffer[: len(block)])
    total += np.ones(len(x)) @ x
    # BLAS knows that this is symmetric, and does half of it.
    products += x.T @ x
  return total, products


@jax.jit
def _block_sums(
  counted: Bool[Array, "b"],
  block: Float[Array, "b d"],
  shift: Float[Array, "d"],
) -> tuple[Float[Array, "d"], Float[Array, "d d"]]:
  x = jnp.where(counted[:, None], block.astype(shift.dtype) - shift[None], 0)
  return x.sum(0), x.T @ x


def second_moment(
  features: Float[np.ndarray, "n d"],
  *,
  block_rows: int = BLOCK_ROWS,
  mesh: Mesh | None = None,
) -> SecondMoment:
  """Accumulates mean and scatter in one pass, a block of rows at a time.

  In float64 wherever it is: singular values are roots of eigenvalues, and a
  float32 product loses those below 1e-4 of the largest. Without a mesh of
  several devices it is the host's BLAS that multiplies.

  Example:
    >>> import numpy as np
    >>> moment = second_moment(np.array([[1.0, 2.0], [3.0, 2.0]]))
    >>> moment.mean, moment.std
    (array([2., 2.]), array([1., 0.]))

  Args:
    features: [n, d], in memory or memory-mapped.
    block_rows: rows that are multiplied at once.
    mesh: rows are split over all its devices; None is the host.

  Raises:
    ValueError: `features` is not a matrix with rows, or not finite.
    TypeError: it is not of a floating dtype.
  """
  check_features(features, rows=1)
  # Any shift gives the same moments; one near the mean keeps the products
  # free of the cancellation that a large mean brings.
  # What is not finite is told of where the sums are looked at.
  with np.errstate(invalid="ignore"), jax.enable_x64(True):
    shift = np.asarray(features[:block_rows], np.float64).mean(0)
    if mesh is None or mesh.size == 1:
      total, products = _host_sums(features, shift, block_rows)
    else:
      total, products = sums(
        lambda *block: _block_sums(*block, shift),
        features,
        block_rows=block_rows,
        mesh=mesh,
      )
  check_finite((total, products), features)
  offset = total / len(features)
  return SecondMoment(
    rows=len(features),
    mean=shift + offset,
    scatter=products - len(features) * np.outer(offset, offset),
  )


def values_of(moment: SecondMoment, *, centre: bool = True) -> Values:
  """Returns the singular values of the features whose moments these are.

  So that one pass serves measures of centred features and of others.

  Example:
    >>> import numpy as np
    >>> h = np.array([[1.0, 2.0], [3.0, 2.0], [2.0, 2.0]])
    >>> np.round(values_of(second_moment(h)), 3)
    array([1.414, 0.   ])

  Args:
    moment: of `second_moment`.
    centre: see `singular_values`.

  Raises:
    ValueError: there are no more rows than columns.
  """
  rows, dim = moment.rows, len(moment.mean)
  if rows <= dim:
    raise ValueError(
      f"features has {rows} rows of {dim} columns; a spectrum needs more rows "
      "than columns, and many more to be that of the features and not of the "
      "sample"
    )
  scatter = moment.scatter
  ours = rows * np.outer(moment.mean, moment.mean)
  if np.trace(scatter) <= ROUNDING * np.trace(ours):
    scatter = np.zeros_like(scatter)
  if not centre:
    scatter = scatter + ours
  return np.sqrt(np.maximum(np.linalg.eigvalsh(scatter)[::-1], 0))


def singular_values(
  features: Float[np.ndarray, "n d"],
  *,
  centre: bool = True,
  mesh: Mesh | None = None,
) -> Values:
  """Returns the singular values of a matrix of features, streaming.

  Rows are not normalised. Within 1e-6 of the largest they are those of the full
  SVD; rows that differ by no more than the rounding of float32 are one point,
  whose values are 0.

  Example:
    >>> import numpy as np
    >>> h = np.random.default_rng(0).normal(size=(1000, 8)).astype("float32")
    >>> len(singular_values(h))
    8

  Args:
    features: [n, d]; for the collapse AUC, of the backbone, in eval mode, on
      the training set.
    centre: remove the mean first. RankMe's paper doesn't, the others do.
    mesh: rows are split over all its devices; None is the host.

  Returns:
    d values, descending.

  Raises:
    ValueError: `features` is not [n, d] with n > d, or not finite.
    TypeError: it is not of a floating dtype.
  """
  check_features(features, rows=2)
  return values_of(second_moment(features, mesh=mesh), centre=centre)


def _check_values(singular_values: Values) -> None:
  s = singular_values
  if s.ndim != 1 or not len(s) or not np.all(np.isfinite(s)):
    raise ValueError(
      f"singular_values must be [d], d > 0, and finite, not {s.shape} with "
      f"{int(np.sum(~np.isfinite(s)))} that are not"
    )
  if np.any(s < 0) or np.any(np.diff(s) > 0):
    raise ValueError("singular_values must be descending and not negative")


def cumulative_share(singular_values: Values) -> Values:
  """Returns sum_{i <= j} s_i / sum_i s_i for each j; ones if all are 0.

  Example:
    >>> import numpy as np
    >>> cumulative_share(np.array([2.0, 1.0, 1.0]))
    array([0.5 , 0.75, 1.  ])

  Args:
    singular_values: [d], descending, not squared.
  """
  _check_values(singular_values)
  total = np.sum(singular_values)
  if not total:
    return np.ones_like(singular_values)
  return np.cumsum(singular_values) / total


def collapse_auc(singular_values: Values) -> float:
  """Returns the area under the cumulative singular values; higher: collapsed.

  AUC = mean_j (sum_{i <= j} s_i / sum_i s_i), the s_i not squared: (d + 1) / 2d
  where all directions vary alike, 1 where only one does, or none.

  Example:
    >>> import numpy as np
    >>> collapse_auc(np.ones(8))
    0.5625

  Args:
    singular_values: [d], descending, of centred features.

  Reference:
    Li, Efros and Pathak, "Understanding Collapse in Non-contrastive Siamese
    Representation Learning", ECCV 2022, arXiv 2209.15007, and its code.
  """
  return float(np.mean(cumulative_share(singular_values)))


def rank_me(singular_values: Values, *, epsilon: float = 1e-7) -> float:
  """Returns the effective rank, from 1 to d: the exponential of the entropy.

  exp(-sum_k p_k log p_k), p_k = s_k / sum_i s_i + epsilon.

  Example:
    >>> import numpy as np
    >>> round(rank_me(np.array([1.0, 1.0, 0.0, 0.0])), 3)
    2.0

  Args:
    singular_values: [d], descending; of features that are not centred, as
      the paper has it (`singular_values(features, centre=False)`).
    epsilon: added to each share; the paper's for float32.

  Reference:
    Garrido et al., "RankMe", ICML 2023, arXiv 2210.02885, equation 1.
  """
  _check_values(singular_values)
  total = np.sum(singular_values)
  if not total:
    raise ValueError("RankMe: all singular values are 0, the features are too")
  p = singular_values / total + epsilon
  return float(np.exp(-np.sum(p * np.log(p))))


def stable_rank(singular_values: Values) -> float:
  """Returns sum s_i^2 / s_1^2, from 1 to d; it can't be fooled by small s_i.

  Example:
    >>> import numpy as np
    >>> stable_rank(np.array([2.0, 1.0, 1.0]))
    1.5

  Args:
    singular_values: [d], descending, of centred features.

  Raises:
    ValueError: all are 0.
  """
  _check_values(singular_values)
  if not singular_values[0]:
    raise ValueError(
      "stable rank: all singular values are 0, the features are constant"
    )
  return float(np.sum((singular_values / singular_values[0]) ** 2))


def alpha_req(
  singular_values: Values, *, first: int = 3, last: int = 100
) -> float:
  """Returns the exponent alpha of the power law of the covariance's spectrum.

  lambda_j ~ j^-alpha, lambda_j = s_j^2: the least-squares line of log lambda_j
  on log j with weights 1 / j, as in the code that the paper took from Stringer
  et al. (2019). Well-spread features have an alpha near 1.

  Example:
    >>> import numpy as np
    >>> round(alpha_req(np.arange(1, 101) ** -0.5), 3)
    1.0

  Args:
    singular_values: [d], descending, of centred features.
    first: the first j of the fit, from 1; the head of the spectrum bends.
    last: the last j; the last that isn't rounding if there are fewer.

  Raises:
    ValueError: fewer than two values are left to fit.

  Reference:
    Agrawal et al., "alpha-ReQ", NeurIPS 2022. The range of the fit is ours.
  """
  _check_values(singular_values)
  s = singular_values
  # Below, s is the rounding of float32 features, and no power law.
  fitted = min(last, int(np.sum(s > 1e-6 * s[0])))
  if first < 1 or fitted <= first:
    raise ValueError(
      f"alpha-ReQ fits values {first} to {last}, but only {fitted} of {len(s)} "
      "are above rounding"
    )
  j = np.arange(first, fitted + 1)
  x, y, weights = np.log(j), 2 * np.log(s[j - 1]), 1 / j
  x_mean, y_mean = (np.average(values, weights=weights) for values in (x, y))
  slope = np.sum(weights * (x - x_mean) * (y - y_mean))
  return float(-slope / np.sum(weights * (x - x_mean) ** 2))
