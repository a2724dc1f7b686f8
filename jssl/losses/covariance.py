"""Losses of the covariance of features, within a view or across two."""

import functools
from typing import NamedTuple

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float

from jssl.losses import arguments
from jssl.losses.ops import gram
from jssl.losses.ops.autodiff import Implementation
from jssl.losses.ops.gram import Factor, Pair
from jssl.losses.ops.layout import AxisNames, Layout, run
from jssl.losses.rows import cosines, wide
from jssl.typing import Scalar

_HIGHEST = jax.lax.Precision.HIGHEST


class Moments(NamedTuple):
  """Mean and biased variance of each dimension, over all devices."""

  mean: Float[Array, "d"]
  variance: Float[Array, "d"]


def _moments(layout: Layout, z: Float[Array, "b d"]) -> Moments:
  mean = layout.mean(wide(z))
  # In two passes: the mean square minus the square of the mean cancels.
  return Moments(mean, layout.mean((wide(z) - mean[None]) ** 2))


class BarlowTerms(NamedTuple):
  """The two sums of Barlow Twins, of the cross-correlation F of two views.

  Attributes:
    on_diagonal: sum_i (1 - F_ii)^2.
    off_diagonal: sum_{i != j} F_ij^2.
  """

  on_diagonal: Scalar
  off_diagonal: Scalar


def barlow_terms(
  z1: Float[Array, "b d"],
  z2: Float[Array, "b d"],
  *,
  axis_name: AxisNames | None = None,
  batch_axes: AxisNames | None = None,
  implementation: Implementation | None = None,
) -> BarlowTerms:
  """Returns the terms of `barlow_twins`, unweighted. See there."""
  z1, z2 = arguments.same_shape("b d", z1=z1, z2=z2)
  loss = functools.partial(_barlow_terms, implementation=implementation)
  return run(loss, z1, z2, axis_name=axis_name, batch_axes=batch_axes, split=2)


# Under the root, as the BatchNorm of the official code has it.
_BARLOW_EPSILON = 1e-5


def _barlow_terms(
  layout: Layout,
  z1: Float[Array, "b d"],
  z2: Float[Array, "b d"],
  implementation: Implementation | None,
) -> BarlowTerms:
  arguments.at_least(layout, 2, z1=z1)

  def standardised(z: Float[Array, "b d"]) -> Factor:
    mean, variance = _moments(layout, z)
    scale = jax.lax.rsqrt(variance + _BARLOW_EPSILON)
    return Factor(z, *layout.per_device((mean, scale)))

  first, second = standardised(z1), standardised(z2)
  diagonal = layout.mean(first.rows() * second.rows())
  squares = gram.inner(
    layout,
    Pair(first, second),
    diagonal=False,
    implementation=implementation,
  )
  b = float(layout.rows(len(z1)))
  return BarlowTerms(jnp.sum((1 - diagonal) ** 2), squares / b**2)


def barlow_twins(
  z1: Float[Array, "b d"],
  z2: Float[Array, "b d"],
  *,
  off_diagonal_weight: float | Scalar,
  axis_name: AxisNames | None = None,
  batch_axes: AxisNames | None = None,
  implementation: Implementation | None = None,
) -> Scalar:
  """Barlow Twins: the cross-correlation of two views should be the identity.

      sum_i (1 - F_ii)^2 + off_diagonal_weight sum_{i != j} F_ij^2

  with F = 1/b Z1^T Z2 of columns standardised over the batch, by the biased
  deviation with 1e-5 under the root (the official code's BatchNorm). 0 at the
  optimum, d at collapse (constant columns). With b < d no [d, d] array exists:
  sum_ij F_ij^2 is summed over pairs of rows.

  Example:
    >>> import jax
    >>> z1, z2 = jax.random.normal(jax.random.key(0), (2, 8, 16))
    >>> loss = barlow_twins(z1, z2, off_diagonal_weight=5e-3)

  Args:
    z1: projections of the first view, [b, d].
    z2: projections of the second view of the same images, [b, d].
    off_diagonal_weight: lambda; 5e-3 in the paper.
    axis_name: see `jssl.losses`.
    batch_axes: see `jssl.losses`.
    implementation: see `jssl.losses`.

  Returns:
    The loss, float32 or wider. Its terms: `barlow_terms`.

  Raises:
    ValueError: shapes differ or are not [b, d], or b < 2.
    TypeError: an input is not of a floating dtype.

  Reference:
    Zbontar et al., "Barlow Twins", ICML 2021, eq. 1 and 2.
  """
  z1, z2 = arguments.same_shape("b d", z1=z1, z2=z2)
  (weight,) = arguments.scalar(z1, off_diagonal_weight=off_diagonal_weight)
  on, off = barlow_terms(
    z1,
    z2,
    axis_name=axis_name,
    batch_axes=batch_axes,
    implementation=implementation,
  )
  return on + weight * off


class VICRegTerms(NamedTuple):
  """The three terms of VICReg, unweighted.

  Attributes:
    invariance: mean squared difference of the views, over all b d elements.
    variance: mean over dimensions and views of relu(1 - deviation).
    covariance: sum over views of sum_{i != j} C_ij^2 / d.
  """

  invariance: Scalar
  variance: Scalar
  covariance: Scalar


def vicreg_terms(
  z1: Float[Array, "b d"],
  z2: Float[Array, "b d"],
  *,
  axis_name: AxisNames | None = None,
  batch_axes: AxisNames | None = None,
  implementation: Implementation | None = None,
) -> VICRegTerms:
  """Returns the terms of `vicreg`, unweighted. See there."""
  z1, z2 = arguments.same_shape("b d", z1=z1, z2=z2)
  loss = functools.partial(_vicreg_terms, implementation=implementation)
  return run(loss, z1, z2, axis_name=axis_name, batch_axes=batch_axes, split=2)


# Under the root: at collapse the gradient of the deviation stays finite.
_VICREG_EPSILON = 1e-4


def _vicreg_terms(
  layout: Layout,
  z1: Float[Array, "b d"],
  z2: Float[Array, "b d"],
  implementation: Implementation | None,
) -> VICRegTerms:
  arguments.at_least(layout, 2, z1=z1)
  b, d = layout.rows(len(z1)), z1.shape[1]

  def of_view(z: Float[Array, "b d"]) -> tuple[Scalar, Scalar]:
    mean, biased = _moments(layout, z)
    variance = biased * (b / (b - 1))
    deviation = jnp.sqrt(variance + _VICREG_EPSILON)
    centred = Factor(z, *layout.per_device((mean, jnp.ones_like(mean))))
    squares = gram.inner(
      layout, Pair(centred), diagonal=False, implementation=implementation
    )
    covariance = squares / float(b - 1) ** 2 / d
    return jnp.mean(jax.nn.relu(1 - deviation)), covariance

  (variance1, covariance1), (variance2, covariance2) = map(of_view, (z1, z2))
  gap = jnp.mean((wide(z1) - wide(z2)) ** 2, axis=1)
  return VICRegTerms(
    layout.mean(gap),
    (variance1 + variance2) / 2,
    covariance1 + covariance2,
  )


def vicreg(
  z1: Float[Array, "b d"],
  z2: Float[Array, "b d"],
  *,
  invariance_weight: float | Scalar,
  variance_weight: float | Scalar,
  covariance_weight: float | Scalar,
  axis_name: AxisNames | None = None,
  batch_axes: AxisNames | None = None,
  implementation: Implementation | None = None,
) -> Scalar:
  """VICReg: variance, invariance and covariance of two views.

      invariance_weight  mean (z1 - z2)^2
      + variance_weight  1/2 sum over views of mean_j relu(1 - dev_j)
      + covariance_weight    sum over views of 1/d sum_{i != j} C_ij^2

  with C and var over b - 1, dev = sqrt(var + 1e-4), and the variance term
  halved as in the official code. Rows are taken as they are. At collapse it is
  0.99 variance_weight. With b < d no [d, d] array exists: sum_ij C_ij^2 is
  summed over pairs of rows.

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
    invariance_weight: lambda; 25 in the paper.
    variance_weight: mu; 25 in the paper.
    covariance_weight: nu; 1 in the paper.
    axis_name: see `jssl.losses`.
    batch_axes: see `jssl.losses`.
    implementation: see `jssl.losses`.

  Returns:
    The loss, float32 or wider. Its terms: `vicreg_terms`.

  Raises:
    ValueError: shapes differ or are not [b, d], or b < 2.
    TypeError: an input is not of a floating dtype.

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
  terms = vicreg_terms(
    z1,
    z2,
    axis_name=axis_name,
    batch_axes=batch_axes,
    implementation=implementation,
  )
  first, *others = (w * t for w, t in zip(weights, terms, strict=True))
  return sum(others, first)


def w_mse(
  z1: Float[Array, "b d"],
  z2: Float[Array, "b d"],
  *,
  eps: float | Scalar,
  axis_name: AxisNames | None = None,
) -> Scalar:
  """Whitening MSE: the squared distance of whitened views, as unit vectors.

      1/b sum_i 2 - 2 cos(L1^-1 (z1_i - mean1), L2^-1 (z2_i - mean2))

  with L L^T = (1 - eps) C + eps I the Cholesky factor of each view's shrunk
  covariance (over b - 1). The whole batch is whitened at once: b > d is wanted.
  0 where whitened views agree. It doesn't tell collapse: exactly equal rows
  give 2, but those that are equal up to rounding are whitened as any others.

  Example:
    >>> import jax
    >>> z1, z2 = jax.random.normal(jax.random.key(0), (2, 32, 8))
    >>> loss = w_mse(z1, z2, eps=1e-3)

  Args:
    z1: projections of the first view, [b, d].
    z2: projections of the second view of the same images, [b, d].
    eps: positive, the weight of the identity; 1e-3 is usual.
    axis_name: see `jssl.losses`.

  Returns:
    The mean over b rows, float32 or wider.

  Raises:
    ValueError: shapes differ or are not [b, d], b < 2, or eps not in (0, 1].
    TypeError: an input is not of a floating dtype.

  Reference:
    Ermolov et al., "Whitening for Self-Supervised Representation Learning",
    ICML 2021, eq. 4 to 6.
  """
  z1, z2 = arguments.same_shape("b d", z1=z1, z2=z2)
  (shrinkage,) = arguments.positive(z1, eps=eps)
  if not isinstance(eps, jax.core.Tracer) and eps > 1:
    raise ValueError(f"eps must be at most 1, got {eps}")
  return run(_w_mse, z1, z2, shrinkage, axis_name=axis_name, split=2)


def _inverse_factor(x: Float[Array, "d d"]) -> Float[Array, "d d"]:
  """Returns the inverse of the Cholesky factor of a matrix."""
  identity = jnp.eye(len(x), dtype=x.dtype)
  factor = jnp.linalg.cholesky(x)
  return jax.scipy.linalg.solve_triangular(factor, identity, lower=True)


def _w_mse(
  layout: Layout,
  z1: Float[Array, "b d"],
  z2: Float[Array, "b d"],
  eps: Scalar,
) -> Scalar:
  arguments.at_least(layout, 2, z1=z1)

  matmul = functools.partial(jnp.matmul, precision=_HIGHEST)

  def covariance_of(centred: Float[Array, "b d"]) -> Float[Array, "d d"]:
    return layout.sum(matmul(centred.T, centred)) / (layout.rows(len(z1)) - 1)

  def whitened(z: Float[Array, "b d"]) -> Float[Array, "b d"]:
    centred = wide(z) - layout.mean(wide(z))[None]
    covariance = covariance_of(centred)
    identity = jnp.eye(z.shape[1], dtype=covariance.dtype)
    # In two steps, since float32 has no digits left for a factor of `shrunk`
    # where variances differ much: the first is of something rounder, and what
    # it makes of the rows is round. The product of both factors is the factor.
    shrunk = (1 - eps) * covariance + eps * identity
    shift = jax.lax.stop_gradient(1e-5 * jnp.trace(shrunk))
    first = _inverse_factor(shrunk + shift * identity)
    rounder = (1 - eps) * covariance_of(matmul(centred, first.T))
    second = _inverse_factor(rounder + eps * matmul(first, first.T))
    # Small and everywhere, so that rows stay where they are.
    return matmul(centred, matmul(second, first).T)

  return 2 - 2 * layout.mean(cosines(whitened(z1), whitened(z2)))
