"""Losses on the distribution of features, without views or labels."""

import math
from typing import Unpack

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float

from jssl.losses import arguments
from jssl.losses.ops import characteristic, nearest, similarity
from jssl.losses.ops.layout import Layout, Options, with_layout
from jssl.losses.rows import dots, inverse_norms, upcast
from jssl.typing import Key, Scalar

_KNOTS, _LAST_KNOT = 17, 3.0


def sigreg(
  z: Float[Array, "n d"],
  *,
  key: Key,
  num_slices: int,
  **options: Unpack[Options],
) -> Scalar:
  """SIGReg of LeJEPA: a sketched test against an isotropic Gaussian.

  Compares the empirical characteristic function along random unit directions a
  with that of a standard normal:

      mean over directions of
      n sum_t w_t e^{-t^2/2} |1/n sum_i e^{i t <a, z_i>} - e^{-t^2/2}|^2

  at 17 knots t from 0 to 3, with trapezoid weights w of the integral over [-3,
  3], as in the official code. The loss is of order 1 for a Gaussian sample and
  grows with n at collapse. LeJEPA averages it over views.

  Example:
    >>> import jax
    >>> z = jax.random.normal(jax.random.key(0), (64, 16))
    >>> loss = sigreg(z, key=jax.random.key(1), num_slices=32)

  Args:
    z: features of one view, [n, d].
    key: random key of the directions: a new key each step, the same on all
      devices.
    num_slices: number of directions.
    **options: axis_name, batch_axes, implementation; see `jssl.losses`.

  Returns:
    The mean over directions, float32 or wider.

  Raises:
    ValueError: if `z` is not [n, d], or num_slices < 1.

  Reference:
    Balestriero and LeCun, "LeJEPA", 2025, section 4 (the Epps-Pulley statistic)
    and official code.
  """
  (z,) = arguments.floats({"z": z}, "n d")
  arguments.count(num_slices=num_slices)
  normal = jax.random.normal(key, (z.shape[1], num_slices), upcast(z).dtype)
  slices = normal * inverse_norms(normal.T)[None]
  return with_layout(_sigreg, (z,), (slices,), **options)


def _sigreg(
  layout: Layout, z: Float[Array, "n d"], slices: Float[Array, "d s"]
) -> Scalar:
  n, step = layout.num_rows(len(z)), _LAST_KNOT / (_KNOTS - 1)
  waves = characteristic.sums(
    layout,
    jnp.matmul(upcast(z), slices, precision=jax.lax.Precision.HIGHEST),
    knots=_KNOTS,
    step=step,
  )
  normal = jnp.exp(-((jnp.arange(_KNOTS) * step) ** 2) / 2).astype(slices.dtype)
  ends = jnp.array([0, _KNOTS - 1])
  weights = (2 * step * normal).at[ends].multiply(0.5)
  gap = (waves.cosine / n - normal[:, None]) ** 2 + (waves.sine / n) ** 2
  return n * jnp.mean(jnp.sum(weights[:, None] * gap, axis=0))


def uniformity(
  z: Float[Array, "n d"], *, t: float = 2.0, **options: Unpack[Options]
) -> Scalar:
  """Uniformity (L_uniform): log of the mean Gaussian potential of pairs.

      log 1/(n (n - 1)) sum_{i != j} exp(-t |z_i - z_j|^2)

  Rows are not normalised; the paper uses unit vectors. The loss is 0 at
  collapse and -2t for orthogonal unit vectors.

  Example:
    >>> import jax
    >>> z = jax.random.normal(jax.random.key(0), (8, 16))
    >>> loss = uniformity(z / jax.numpy.linalg.norm(z, axis=1, keepdims=True))

  Args:
    z: features, [n, d].
    t: positive scale of the potential; 2 in the paper.
    **options: axis_name, batch_axes, implementation; see `jssl.losses`.

  Returns:
    The loss, float32 or wider. Rows much longer than 1 lose accuracy, since
    distances are computed from dot products.

  Raises:
    ValueError: if `z` is not [n, d], n < 2, or t <= 0.

  Reference:
    Wang and Isola, "Understanding Contrastive Representation Learning through
    Alignment and Uniformity on the Hypersphere", ICML 2020, eq. 7.
  """
  (z,) = arguments.floats({"z": z}, "n d")
  (width,) = arguments.positive(z, t=t)
  return with_layout(_uniformity, (z,), (width,), **options)


def _uniformity(layout: Layout, z: Float[Array, "n d"], t: Scalar) -> Scalar:
  arguments.at_least(layout, 2, z=z)
  n = layout.num_rows(len(z))
  # -t |x - y|^2 = 2t <x, y> - t |x|^2 - t |y|^2
  rows = similarity.operand(
    z, jnp.sqrt(2 * t), ids=layout.positions(len(z)), bias=-t * dots(z, z)
  )
  by_row = similarity.log_sum_exp(layout, rows)
  return layout.log_sum_exp(by_row) - math.log(n * (n - 1))


# Keeps the loss of duplicates finite; they get no gradient.
_KOLEO_EPSILON = 1e-8


def koleo(
  z: Float[Array, "n d"],
  *,
  weights: Float[Array, "n"] | None = None,
  **options: Unpack[Options],
) -> Scalar:
  """KoLeo, the Kozachenko-Leonenko regulariser: spreads rows apart.

      -1/n sum_i 1/2 log(|x_i - x_j(i)|^2 + 1e-16),  j(i) the nearest other row

  with x the normalised rows of z, as in DINOv2. The gradient flows to both rows
  of a pair. The loss is about 18.4 at collapse and -log sqrt 2 for orthogonal
  rows.

  Example:
    >>> import jax
    >>> loss = koleo(jax.random.normal(jax.random.key(0), (8, 16)))

  Args:
    z: features, [n, d].
    weights: weight of each row in the mean, [n]; see `jssl.losses`.
    **options: axis_name, batch_axes, implementation; see `jssl.losses`.

  Returns:
    The mean over n rows, float32 or wider. (The official code adds 1e-8 to the
    distance instead of 1e-16 to its square.)

  Raises:
    ValueError: if `z` is not [n, d], or n < 2.

  Reference:
    Sablayrolles et al., "Spreading vectors for similarity search", ICLR 2019,
    eq. 2; Oquab et al., "DINOv2", 2023.
  """
  (z,) = arguments.floats({"z": z}, "n d")
  w = arguments.weights(weights, len(z), z)
  return with_layout(_koleo, (z, w), (), **options)


def _koleo(
  layout: Layout, z: Float[Array, "n d"], weights: Float[Array, "n"] | None
) -> Scalar:
  arguments.at_least(layout, 2, z=z)
  scale = inverse_norms(z)
  other = nearest.neighbours(layout, z, scale)
  # From differences, since 2 - 2 cos cancels for near rows.
  gap = (
    upcast(z) * scale[:, None] - upcast(other) * inverse_norms(other)[:, None]
  )
  square = jnp.sum(gap**2, axis=1) + _KOLEO_EPSILON**2
  return layout.mean(jnp.log(square), weights) / -2
