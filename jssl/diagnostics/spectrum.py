"""The singular spectrum of features and the collapse measures computed from it.

`singular_values` takes one pass and O(d^2) memory. All others take its result:
[d] values of centred features, descending, not squared.
"""

from typing import NamedTuple

import numpy as np
from jaxtyping import Float

from jssl.diagnostics.checks import check_features
from jssl.diagnostics.rows import ROUNDING, Matrix, float64_blocks

Values = Float[np.ndarray, "d"]


class SecondMoment(NamedTuple):
  """The first two moments of the rows of a matrix, in float64.

  Attributes:
    rows: number of rows n.
    mean: mean row.
    scatter: sum of (x - mean) (x - mean)^T over the rows x.
  """

  rows: int
  mean: Float[np.ndarray, "d"]
  scatter: Float[np.ndarray, "d d"]

  @property
  def std(self) -> Values:
    """Biased standard deviation of each column."""
    return np.sqrt(np.maximum(np.diag(self.scatter), 0) / self.rows)


def second_moment(features: Matrix) -> SecondMoment:
  """Computes mean and scatter of the rows in one pass.

  In float64, because singular values are square roots of eigenvalues: a float32
  product loses those below 1e-4 of the largest.

  Example:
    >>> moment = second_moment(np.array([[1.0, 2.0], [3.0, 2.0]]))
    >>> moment.mean, moment.std
    (array([2., 2.]), array([1., 0.]))

  Args:
    features: [n, d]: an array, or rows that are computed on access.
  """
  check_features(features, rows=1)
  d = features.shape[1]
  shift, total, products = np.zeros(0), np.zeros(d), np.zeros((d, d))
  for (x,) in float64_blocks(features=features):
    # Any shift gives the same moments. One near the mean avoids cancellation.
    shift = shift if shift.size else x.mean(0)
    x = x - shift
    total += x.sum(0)
    # NumPy calls BLAS syrk for x.T @ x, which computes one triangle only.
    products += x.T @ x
  offset = total / len(features)
  return SecondMoment(
    rows=len(features),
    mean=shift + offset,
    scatter=products - len(features) * np.outer(offset, offset),
  )


def values_of(moment: SecondMoment, *, centre: bool = True) -> Values:
  """Returns singular values of features from their second moment.

  One pass over the features then serves centred and uncentred measures.

  Example:
    >>> h = np.array([[1.0, 2.0], [3.0, 2.0], [2.0, 2.0]])
    >>> np.round(values_of(second_moment(h)), 3)
    array([1.414, 0.   ])

  Args:
    moment: result of `second_moment`.
    centre: see `singular_values`.
  """
  rows, dim = moment.rows, len(moment.mean)
  if rows <= dim:
    raise ValueError(
      f"features has {rows} rows of {dim} columns; a spectrum needs more rows "
      "than columns, and many more to be reliable"
    )
  scatter = moment.scatter
  of_mean = rows * np.outer(moment.mean, moment.mean)
  if np.trace(scatter) <= ROUNDING * np.trace(of_mean):
    scatter = np.zeros_like(scatter)
  if not centre:
    scatter = scatter + of_mean
  return np.sqrt(np.maximum(np.linalg.eigvalsh(scatter)[::-1], 0))


def singular_values(features: Matrix, *, centre: bool = True) -> Values:
  """Computes the singular values of a feature matrix in one pass.

  Errors are below 1e-6 of the largest value. Rows that differ by no more than
  float32 rounding count as one point, with singular values 0.

  Example:
    >>> h = np.random.default_rng(0).normal(size=(1000, 8)).astype("float32")
    >>> len(singular_values(h))
    8

  Args:
    features: [n, d] with n > d, not normalised. For the collapse AUC of the
      paper: backbone features of the training set in evaluation mode.
    centre: True to subtract the mean, as all papers but RankMe's do.

  Returns:
    The d singular values, descending.
  """
  check_features(features, rows=2)
  return values_of(second_moment(features), centre=centre)


def _check_values(singular_values: Values) -> None:
  s = singular_values
  if s.ndim != 1 or not len(s) or not np.all(np.isfinite(s)):
    raise ValueError(
      f"singular_values must be [d], d > 0, and finite, not {s.shape} with "
      f"{int(np.sum(~np.isfinite(s)))} non-finite values"
    )
  if np.any(s < 0) or np.any(np.diff(s) > 0):
    raise ValueError("singular_values must be descending and not negative")


def cumulative_share(singular_values: Values) -> Values:
  """Returns sum_{i <= j} s_i / sum_i s_i for each j; ones if all s_i are 0.

  Example:
    >>> cumulative_share(np.array([2.0, 1.0, 1.0]))
    array([0.5 , 0.75, 1.  ])
  """
  _check_values(singular_values)
  total = np.sum(singular_values)
  if not total:
    return np.ones_like(singular_values)
  return np.cumsum(singular_values) / total


def collapse_auc(singular_values: Values) -> float:
  """Area under the cumulative singular values; higher means more collapsed.

      AUC = mean_j (sum_{i <= j} s_i / sum_i s_i)

  It is (d + 1) / 2d if all directions vary alike, and 1 if at most one varies.

  Example:
    >>> collapse_auc(np.ones(8))
    0.5625

  Reference:
    Li, Efros and Pathak, "Understanding Collapse in Non-contrastive Siamese
    Representation Learning", ECCV 2022, arXiv 2209.15007, and its code.
  """
  return float(np.mean(cumulative_share(singular_values)))


def rank_me(singular_values: Values, *, epsilon: float = 1e-7) -> float:
  """RankMe: the effective rank, from 1 to d.

      exp(-sum_k p_k log p_k),   p_k = s_k / sum_i s_i + epsilon

  Example:
    >>> round(rank_me(np.array([1.0, 1.0, 0.0, 0.0])), 3)
    2.0

  Args:
    singular_values: of uncentred features as in the paper, from
      `singular_values(features, centre=False)`; not all 0.
    epsilon: constant added to each share; the paper's value for float32.

  Reference:
    Garrido et al., "RankMe", ICML 2023, arXiv 2210.02885, equation 1.
  """
  _check_values(singular_values)
  total = np.sum(singular_values)
  if not total:
    raise ValueError("RankMe: all singular values are 0, as all features are")
  p = singular_values / total + epsilon
  return float(np.exp(-np.sum(p * np.log(p))))


def stable_rank(singular_values: Values) -> float:
  """Stable rank sum s_i^2 / s_1^2, from 1 to d; insensitive to small s_i.

  Constant features have none: a ValueError.

  Example:
    >>> stable_rank(np.array([2.0, 1.0, 1.0]))
    1.5
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
  """Exponent alpha of the power law lambda_j ~ j^-alpha of the covariance.

  Least-squares line of log lambda_j = log s_j^2 on log j with weights 1 / j,
  as in the code of Stringer et al. (2019) that the paper uses. Well-spread
  features have an alpha near 1.

  Example:
    >>> round(alpha_req(np.arange(1, 101) ** -0.5), 3)
    1.0

  Args:
    first: first j of the fit, from 1; the head of the spectrum is no power law.
    last: last j of the fit; values at the level of rounding are left out.

  Reference:
    Agrawal et al., "alpha-ReQ", NeurIPS 2022. The default range is our choice.
  """
  _check_values(singular_values)
  s = singular_values
  # Values below this are the rounding of float32 features.
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
