"""Losses on the covariance of features, within or across two views."""

import functools
from typing import NamedTuple, Unpack

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float

from jssl.losses import arguments
from jssl.losses.ops import gram
from jssl.losses.ops.gram import Factor, Pair
from jssl.losses.ops.layout import AxisNames, Layout, Options, with_layout
from jssl.losses.rows import cosines, upcast
from jssl.typing import Scalar

_HIGHEST = jax.lax.Precision.HIGHEST


class Moments(NamedTuple):
  """Mean and biased variance of each dimension, over all devices."""

  mean: Float[Array, "d"]
  variance: Float[Array, "d"]


def _moments(layout: Layout, z: Float[Array, "b d"]) -> Moments:
  mean = layout.mean(upcast(z))
  # Two passes: mean square minus squared mean would cancel.
  return Moments(mean, layout.mean((upcast(z) - mean[None]) ** 2))


class BarlowTerms(NamedTuple):
  """Terms of Barlow Twins, with F the cross-correlation of two views.

  Attributes:
    on_diagonal: sum_i (1 - F_ii)^2.
    off_diagonal: sum_{i != j} F_ij^2.
  """

  on_diagonal: Scalar
  off_diagonal: Scalar


def barlow_terms(
  z1: Float[Array, "b d"], z2: Float[Array, "b d"], **options: Unpack[Options]
) -> BarlowTerms:
  """Returns the unweighted terms of `barlow_twins`."""
  z1, z2 = arguments.same_shape("b d", z1=z1, z2=z2)
  return with_layout(_barlow_terms, (z1, z2), (), **options)


# Added to the variance, as in the BatchNorm of the official code.
_BARLOW_EPSILON = 1e-5


def _barlow_terms(
  layout: Layout, z1: Float[Array, "b d"], z2: Float[Array, "b d"]
) -> BarlowTerms:
  arguments.at_least(layout, 2, z1=z1)

  def standardised(z: Float[Array, "b d"]) -> Factor:
    mean, variance = _moments(layout, z)
    scale = jax.lax.rsqrt(variance + _BARLOW_EPSILON)
    return Factor(z, *layout.as_varying((mean, scale)))

  first, second = standardised(z1), standardised(z2)
  diagonal = layout.mean(first.rows() * second.rows())
  squares = gram.inner(layout, Pair(first, second), diagonal=False)
  b = float(layout.num_rows(len(z1)))
  return BarlowTerms(jnp.sum((1 - diagonal) ** 2), squares / b**2)


def barlow_twins(
  z1: Float[Array, "b d"],
  z2: Float[Array, "b d"],
  *,
  off_diagonal_weight: float | Scalar,
  **options: Unpack[Options],
) -> Scalar:
  """Barlow Twins: moves the cross-correlation of two views to the identity.

      sum_i (1 - F_ii)^2 + off_diagonal_weight sum_{i != j} F_ij^2

  with F = 1/b Z1^T Z2 for columns standardised over the batch. The standard
  deviation is sqrt(biased variance + 1e-5), as in the official code's
  BatchNorm. The loss is 0 at the optimum and d at collapse (constant columns).
  No [d, d] array exists for b < d: the sum runs over pairs of rows.

  Example:
    >>> import jax
    >>> z1, z2 = jax.random.normal(jax.random.key(0), (2, 8, 16))
    >>> loss = barlow_twins(z1, z2, off_diagonal_weight=5e-3)

  Args:
    z1: projections of the first view, [b, d].
    z2: projections of the second view of the same images, [b, d].
    off_diagonal_weight: lambda in the paper, 5e-3 there.
    **options: axis_name, batch_axes, implementation; see `jssl.losses`.

  Returns:
    The loss, float32 or wider; its terms: `barlow_terms`.

  Raises:
    ValueError: if shapes differ or are not [b, d], or b < 2.

  Reference:
    Zbontar et al., "Barlow Twins", ICML 2021, eq. 1 and 2.
  """
  on, off = barlow_terms(z1, z2, **options)
  (weight,) = arguments.scalar(on, off_diagonal_weight=off_diagonal_weight)
  return on + weight * off


class VICRegTerms(NamedTuple):
  """Unweighted terms of VICReg.

  Attributes:
    invariance: mean squared difference of the views, over all elements.
    variance: mean over dimensions and views of relu(1 - deviation).
    covariance: sum over views of sum_{i != j} C_ij^2 / d.
  """

  invariance: Scalar
  variance: Scalar
  covariance: Scalar


def vicreg_terms(
  z1: Float[Array, "b d"], z2: Float[Array, "b d"], **options: Unpack[Options]
) -> VICRegTerms:
  """Returns the unweighted terms of `vicreg`."""
  z1, z2 = arguments.same_shape("b d", z1=z1, z2=z2)
  return with_layout(_vicreg_terms, (z1, z2), (), **options)


# Added to the variance: keeps the gradient finite at collapse.
_VICREG_EPSILON = 1e-4


def _vicreg_terms(
  layout: Layout, z1: Float[Array, "b d"], z2: Float[Array, "b d"]
) -> VICRegTerms:
  arguments.at_least(layout, 2, z1=z1)
  b, d = layout.num_rows(len(z1)), z1.shape[1]

  def of_view(z: Float[Array, "b d"]) -> tuple[Scalar, Scalar]:
    mean, biased = _moments(layout, z)
    variance = biased * (b / (b - 1))
    deviation = jnp.sqrt(variance + _VICREG_EPSILON)
    centred = Factor(z, *layout.as_varying((mean, jnp.ones_like(mean))))
    squares = gram.inner(layout, Pair(centred), diagonal=False)
    covariance = squares / float(b - 1) ** 2 / d
    return jnp.mean(jax.nn.relu(1 - deviation)), covariance

  (variance1, covariance1), (variance2, covariance2) = map(of_view, (z1, z2))
  gap = jnp.mean((upcast(z1) - upcast(z2)) ** 2, axis=1)
  return VICRegTerms(
    layout.mean(gap), (variance1 + variance2) / 2, covariance1 + covariance2
  )


def vicreg(
  z1: Float[Array, "b d"],
  z2: Float[Array, "b d"],
  *,
  invariance_weight: float | Scalar,
  variance_weight: float | Scalar,
  covariance_weight: float | Scalar,
  **options: Unpack[Options],
) -> Scalar:
  """VICReg: variance-invariance-covariance regularisation of two views.

      invariance_weight  mean (z1 - z2)^2
      + variance_weight  1/2 sum over views of mean_j relu(1 - dev_j)
      + covariance_weight    sum over views of 1/d sum_{i != j} C_ij^2

  with C and var divided by b - 1, dev = sqrt(var + 1e-4), and the variance term
  halved as in the official code. Rows are not normalised. At collapse the loss
  is 0.99 variance_weight. No [d, d] array exists for b < d: the sum runs over
  pairs of rows.

  Example:
    >>> import jax
    >>> z1, z2 = jax.random.normal(jax.random.key(0), (2, 8, 16))
    >>> loss = vicreg(
    ...   z1, z2, invariance_weight=25.0, variance_weight=25.0,
    ...   covariance_weight=1.0,
    ... )

  Args:
    z1: projections of the first view, [b, d].
    z2: projections of the second view of the same images, [b, d].
    invariance_weight: lambda in the paper, 25 there.
    variance_weight: mu in the paper, 25 there.
    covariance_weight: nu in the paper, 1 there.
    **options: axis_name, batch_axes, implementation; see `jssl.losses`.

  Returns:
    The loss, float32 or wider; its terms: `vicreg_terms`.

  Raises:
    ValueError: if shapes differ or are not [b, d], or b < 2.

  Reference:
    Bardes et al., "VICReg", ICLR 2022, eq. 1 to 6, and official code.
  """
  z1, z2 = arguments.same_shape("b d", z1=z1, z2=z2)
  weights = arguments.scalar(
    z1,
    invariance_weight=invariance_weight,
    variance_weight=variance_weight,
    covariance_weight=covariance_weight,
  )
  terms = vicreg_terms(z1, z2, **options)
  first, *others = (w * t for w, t in zip(weights, terms, strict=True))
  return sum(others, first)


def w_mse(
  z1: Float[Array, "b d"],
  z2: Float[Array, "b d"],
  *,
  eps: float | Scalar,
  weights: Float[Array, "b"] | None = None,
  axis_name: AxisNames | None = None,
) -> Scalar:
  """W-MSE: squared distance of whitened and normalised views.

      1/b sum_i 2 - 2 cos(L1^-1 (z1_i - mean1), L2^-1 (z2_i - mean2))

  with L L^T = (1 - eps) C + eps I the Cholesky decomposition of each view's
  shrunk covariance (divided by b - 1). The batch is whitened as a whole and
  should have b > d. The loss is 0 for equal whitened views. It does not detect
  collapse: exactly equal rows give 2, but rows equal up to rounding are
  whitened too.

  Example:
    >>> import jax
    >>> z1, z2 = jax.random.normal(jax.random.key(0), (2, 32, 8))
    >>> loss = w_mse(z1, z2, eps=1e-3)

  Args:
    z1: projections of the first view, [b, d].
    z2: projections of the second view of the same images, [b, d].
    eps: weight of the identity, in (0, 1]; 1e-3 is usual.
    weights: weight of each image in the mean, [b], not in the covariances; see
      `jssl.losses`.
    axis_name: see `jssl.losses`.

  Returns:
    The mean over b rows, float32 or wider.

  Raises:
    ValueError: if shapes differ or are not [b, d], b < 2, or eps not in (0, 1].

  Reference:
    Ermolov et al., "Whitening for Self-Supervised Representation Learning",
    ICML 2021, eq. 4 to 6.
  """
  z1, z2 = arguments.same_shape("b d", z1=z1, z2=z2)
  (shrinkage,) = arguments.positive(z1, eps=eps)
  eps = arguments.unwrapped(eps)
  if not isinstance(eps, jax.core.Tracer) and eps > 1:
    raise ValueError(f"eps must be at most 1, got {eps}")
  w = arguments.weights(weights, len(z1), z1)
  return with_layout(_w_mse, (z1, z2, w), (shrinkage,), axis_name=axis_name)


def _inverse_factor(x: Float[Array, "d d"]) -> Float[Array, "d d"]:
  """Returns the inverse of a matrix's Cholesky factor."""
  identity = jnp.eye(len(x), dtype=x.dtype)
  factor = jnp.linalg.cholesky(x)
  return jax.scipy.linalg.solve_triangular(factor, identity, lower=True)


def _w_mse(
  layout: Layout,
  z1: Float[Array, "b d"],
  z2: Float[Array, "b d"],
  weights: Float[Array, "b"] | None,
  eps: Scalar,
) -> Scalar:
  arguments.at_least(layout, 2, z1=z1)

  matmul = functools.partial(jnp.matmul, precision=_HIGHEST)

  def covariance_of(centred: Float[Array, "b d"]) -> Float[Array, "d d"]:
    return layout.sum(matmul(centred.T, centred)) / (
      layout.num_rows(len(z1)) - 1
    )

  def whitened(z: Float[Array, "b d"]) -> Float[Array, "b d"]:
    centred = upcast(z) - layout.mean(upcast(z))[None]
    covariance = covariance_of(centred)
    identity = jnp.eye(z.shape[1], dtype=covariance.dtype)
    # Two steps, since the Cholesky factor of an ill-conditioned matrix loses
    # all digits in float32. The first factors a better conditioned matrix, the
    # second the covariance that remains; their product is the factor.
    shrunk = (1 - eps) * covariance + eps * identity
    shift = jax.lax.stop_gradient(1e-5 * jnp.trace(shrunk))
    first = _inverse_factor(shrunk + shift * identity)
    rounder = (1 - eps) * covariance_of(matmul(centred, first.T))
    second = _inverse_factor(rounder + eps * matmul(first, first.T))
    # [d, d] and replicated: the rows need no communication.
    return matmul(centred, matmul(second, first).T)

  return 2 - 2 * layout.mean(cosines(whitened(z1), whitened(z2)), weights)
