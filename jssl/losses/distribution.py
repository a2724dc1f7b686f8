"""Losses of how features are spread, whatever they are of."""

import functools
import math

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float

from jssl.losses import arguments
from jssl.losses.ops import characteristic, nearest, similarity
from jssl.losses.ops.autodiff import Implementation
from jssl.losses.ops.layout import AxisNames, Layout, run
from jssl.losses.rows import dots, inverse_norms, wide
from jssl.typing import Key, Scalar

_KNOTS, _LAST_KNOT = 17, 3.0


def sigreg(
  z: Float[Array, "n d"],
  *,
  key: Key,
  num_slices: int,
  axis_name: AxisNames | None = None,
  batch_axes: AxisNames | None = None,
  implementation: Implementation | None = None,
) -> Scalar:
  """LeJEPA's sketched test of features against an isotropic Gaussian.

  Along random unit directions, the empirical characteristic function is held
  against that of a standard normal:

      mean over directions of
      n sum_t w_t e^{-t^2/2} |1/n sum_i e^{i t <a, z_i>} - e^{-t^2/2}|^2

  at 17 knots t from 0 to 3, with the trapezoid weights w of the integral over
  [-3, 3], as in the official code. It grows with n at collapse, and is of order
  1 for a Gaussian sample. LeJEPA takes its mean over views.

  Example:
    >>> import jax
    >>> z = jax.random.normal(jax.random.key(0), (64, 16))
    >>> loss = sigreg(z, key=jax.random.key(1), num_slices=32)

  Args:
    z: features of one view, [n, d].
    key: of the directions, a new one each step; the same on all devices.
    num_slices: directions.
    axis_name: see `jssl.losses`.
    batch_axes: see `jssl.losses`.
    implementation: see `jssl.losses`.

  Returns:
    The mean over directions, float32 or wider.

  Raises:
    ValueError: `z` is not [n, d], or num_slices < 1.
    TypeError: `z` is not of a floating dtype.

  Reference:
    Balestriero and LeCun, "LeJEPA", 2025, section 4 (the Epps-Pulley statistic)
    and official code.
  """
  (z,) = arguments.floats({"z": z}, "n d")
  arguments.count(num_slices=num_slices)
  normal = jax.random.normal(key, (z.shape[1], num_slices), wide(z).dtype)
  slices = normal * inverse_norms(normal.T)[None]
  loss = functools.partial(_sigreg, implementation=implementation)
  return run(loss, z, slices, axis_name=axis_name, batch_axes=batch_axes)


def _sigreg(
  layout: Layout,
  z: Float[Array, "n d"],
  slices: Float[Array, "d s"],
  implementation: Implementation | None,
) -> Scalar:
  n, step = layout.rows(len(z)), _LAST_KNOT / (_KNOTS - 1)
  waves = characteristic.sums(
    layout,
    jnp.matmul(wide(z), slices, precision=jax.lax.Precision.HIGHEST),
    knots=_KNOTS,
    step=step,
    implementation=implementation,
  )
  normal = jnp.exp(-((jnp.arange(_KNOTS) * step) ** 2) / 2).astype(slices.dtype)
  ends = jnp.array([0, _KNOTS - 1])
  weights = (2 * step * normal).at[ends].multiply(0.5)
  gap = (waves.cosine / n - normal[:, None]) ** 2 + (waves.sine / n) ** 2
  return n * jnp.mean(jnp.sum(weights[:, None] * gap, axis=0))


def uniformity(
  z: Float[Array, "n d"],
  *,
  t: float = 2.0,
  axis_name: AxisNames | None = None,
  batch_axes: AxisNames | None = None,
  implementation: Implementation | None = None,
) -> Scalar:
  """The logarithm of the mean Gaussian potential of pairs, L_uniform.

      log 1/(n (n - 1)) sum_{i != j} exp(-t |z_i - z_j|^2)

  Rows are taken as they are; the paper's are unit vectors. 0 at collapse; for
  orthogonal unit vectors -2t.

  Example:
    >>> import jax
    >>> z = jax.random.normal(jax.random.key(0), (8, 16))
    >>> loss = uniformity(z / jax.numpy.linalg.norm(z, axis=1, keepdims=True))

  Args:
    z: features, [n, d].
    t: positive; 2 in the paper.
    axis_name: see `jssl.losses`.
    batch_axes: see `jssl.losses`.
    implementation: see `jssl.losses`.

  Returns:
    The loss, float32 or wider. Distances are differences of products: rows much
    longer than 1 cost accuracy.

  Raises:
    ValueError: `z` is not [n, d], n < 2, or t <= 0.
    TypeError: `z` is not of a floating dtype.

  Reference:
    Wang and Isola, "Understanding Contrastive Representation Learning through
    Alignment and Uniformity on the Hypersphere", ICML 2020, eq. 7.
  """
  (z,) = arguments.floats({"z": z}, "n d")
  (width,) = arguments.positive(z, t=t)
  loss = functools.partial(_uniformity, implementation=implementation)
  return run(loss, z, width, axis_name=axis_name, batch_axes=batch_axes)


def _uniformity(
  layout: Layout,
  z: Float[Array, "n d"],
  t: Scalar,
  implementation: Implementation | None,
) -> Scalar:
  arguments.at_least(layout, 2, z=z)
  n = layout.rows(len(z))
  # -t |x - y|^2 = 2t <x, y> - t |x|^2 - t |y|^2
  rows = similarity.side(
    z,
    jnp.sqrt(2 * t),
    ids=layout.positions(len(z)),
    bias=-t * dots(z, z),
  )
  by_row = similarity.log_sum_exp(
    layout, rows, None, implementation=implementation
  )
  return layout.log_sum_exp(by_row) - math.log(n * (n - 1))


# Added to distances: duplicates have a finite loss, and no gradient.
_KOLEO_EPSILON = 1e-8


def koleo(
  z: Float[Array, "n d"],
  *,
  axis_name: AxisNames | None = None,
  batch_axes: AxisNames | None = None,
  implementation: Implementation | None = None,
) -> Scalar:
  """The Kozachenko-Leonenko regulariser: rows should be far from each other.

      -1/n sum_i 1/2 log(|x_i - x_j(i)|^2 + 1e-16),  j(i) the nearest other row

  with x the rows of z, normalised here as in DINOv2. The gradient flows into
  both ends of a pair. About 18.4 at collapse; for orthogonal rows -log sqrt 2.

  Example:
    >>> import jax
    >>> loss = koleo(jax.random.normal(jax.random.key(0), (8, 16)))

  Args:
    z: features, [n, d].
    axis_name: see `jssl.losses`.
    batch_axes: see `jssl.losses`.
    implementation: see `jssl.losses`.

  Returns:
    The mean over n rows, float32 or wider. The official code adds 1e-8 to the
    distance instead of squares of it to the square.

  Raises:
    ValueError: `z` is not [n, d], or n < 2.
    TypeError: `z` is not of a floating dtype.

  Reference:
    Sablayrolles et al., "Spreading vectors for similarity search", ICLR 2019,
    eq. 2; Oquab et al., "DINOv2", 2023.
  """
  (z,) = arguments.floats({"z": z}, "n d")
  loss = functools.partial(_koleo, implementation=implementation)
  return run(loss, z, axis_name=axis_name, batch_axes=batch_axes)


def _koleo(
  layout: Layout,
  z: Float[Array, "n d"],
  implementation: Implementation | None,
) -> Scalar:
  arguments.at_least(layout, 2, z=z)
  scale = inverse_norms(z)
  other = nearest.neighbours(layout, z, scale, implementation=implementation)
  # From the difference: 2 - 2 cos has no digits left for near rows.
  gap = wide(z) * scale[:, None] - wide(other) * inverse_norms(other)[:, None]
  square = jnp.sum(gap**2, axis=1) + _KOLEO_EPSILON**2
  return layout.mean(jnp.log(square)) / -2
